"""The spec of a convergence benchmark: reading it, checking it, and the identity of its runs."""

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdet_edge.config.types import type_of
from mmdet_edge.errors import UserError
from mmdet_edge.paths import get_config_path

from .measures import check_known, tuned_results
from .results import RunKey, RunResult

PROTOCOLS = ('mask-branch', 'full')
TUNED = 'tuned'
FEATURES = {'num_train', 'num_val', 'jitter', 'batch_size'}
IDENTITY = (
    *('model', 'roi_features', 'load_from', 'train_dataloader', 'val_dataloader', 'val_evaluator', 'train_cfg'),
    *('optim_wrapper', 'param_scheduler', 'randomness'),
)
"""Sections of a config that decide the result of a training run, besides hooks that change the training."""
OBSERVING_HOOKS = ('MaskBranchEvalHook', 'EdgeVisualizationHook')
"""Hooks that change nothing in the training."""


@dataclass(frozen=True)
class Spec:
    """A benchmark, as a file in specs/ describes it.

    Args:
        name (str): Stem of the file.
        protocol (str): 'mask-branch': a detector is trained once and its RoI features are cached; then only mask heads
            are trained, from scratch. 'full': every run trains everything.
        config (str): Config of the baseline, as :func:`mmdet_edge.get_config_path` takes it.
        settings (dict[str, dict]): The variants that are compared: name -> ``config`` (by default the spec's) and
            ``cfg_options`` on top of it.
        runs (list[dict]): Blocks of runs, each all combinations of ``settings``, ``seeds``, ``budgets`` (by default the
            schedules of the configs) and ``learning_rates`` (by default those of the configs).
            ``learning_rates='tuned'`` is the baseline's best at each budget, once its runs are finished. A budget is
            a number of training iterations.
        baseline (str): Name of the setting that the others are compared with.
        metrics (list[str]): Keys of the metrics that are compared; the learning rate is tuned by the first.
        features (dict): For 'mask-branch': ``num_train`` and ``num_val`` RoIs to cache, with ``jitter`` (see
            :func:`cache_roi_features`); ``batch_size`` of the training, in RoIs.
        gpus (int): Of one run. Defaults to 1; with more, runs start through tools/dist_train.sh.

    Raises:
        UserError: If something is missing or unknown.
    """

    name: str
    protocol: str
    config: str
    settings: Mapping[str, Mapping[str, Any]]
    runs: Sequence[Mapping[str, Any]]
    baseline: str
    metrics: Sequence[str]
    features: Mapping[str, float] = field(default_factory=dict)
    gpus: int = 1

    def __post_init__(self) -> None:
        """Check what would otherwise fail hours later."""
        if self.protocol not in PROTOCOLS:
            raise UserError(f'{self.name}: protocol must be one of {PROTOCOLS}, got {self.protocol!r}')
        if self.protocol == 'mask-branch' and set(self.features) != FEATURES:
            raise UserError(f'{self.name}: features must have {sorted(FEATURES)}, got {sorted(self.features)}')
        if self.protocol == 'mask-branch' and self.gpus > 1:
            raise UserError(f'{self.name}: a mask-branch run takes one GPU, got gpus={self.gpus}')
        if self.baseline not in self.settings:
            raise UserError(f'{self.name}: the baseline {self.baseline!r} is not among the settings')
        for name, setting in self.settings.items():
            if unknown := set(setting) - {'config', 'cfg_options'}:
                raise UserError(f'{self.name}: setting {name!r} has unknown keys {sorted(unknown)}')
            try:
                get_config_path(setting.get('config', self.config))
            except FileNotFoundError as error:
                raise UserError(f'{self.name}: setting {name!r}: {error}') from None
        for block in self.runs:
            if unknown := set(block) - {'settings', 'seeds', 'budgets', 'learning_rates'}:
                raise UserError(f'{self.name}: a block of runs has unknown keys {sorted(unknown)}')
            if 'settings' not in block or 'seeds' not in block:
                raise UserError(f'{self.name}: a block of runs needs settings and seeds, got {sorted(block)}')
            rates = block.get('learning_rates', [])
            if isinstance(rates, str) and rates != TUNED:
                raise UserError(f'{self.name}: learning_rates must be a list or {TUNED!r}, got {rates!r}')
            for name in block['settings']:
                if name not in self.settings:
                    raise UserError(f'{self.name}: unknown setting {name!r}; there are: {", ".join(self.settings)}')

    @property
    def tuning_metric(self) -> str:
        """The metric by which learning rates are compared."""
        return self.metrics[0]

    def keys(self, results: Sequence[RunResult]) -> tuple[list[RunKey], bool]:
        """Return the runs of the benchmark.

        Args:
            results (Sequence[RunResult]): What is finished.

        Returns:
            tuple[list[RunKey], bool]: The runs that are known, each once, in the order of the spec, but those with a
            tuned learning rate last; and whether these are all, that is, no block waits for a rate to be tuned.

        Raises:
            UserError: If the spec or the results have nothing to tune a rate by.
        """
        fixed = [key for block in self.runs if block.get('learning_rates') != TUNED for key in _keys(block)]
        done = {result.key for result in results}
        keys, complete = list(fixed), True
        for block in self.runs:
            if block.get('learning_rates') != TUNED:
                continue
            for budget in block.get('budgets', [None]):
                tuning = [key for key in fixed if key.setting == self.baseline and key.budget == budget]
                if not tuning:
                    raise UserError(f'{self.name}: no runs of {self.baseline!r} to tune the learning rate at {budget}')
                if not done.issuperset(tuning):
                    complete = False
                    continue
                check_known('metric', [self.tuning_metric], {name for result in results for name in result.metrics})
                tuned = tuned_results(results, self.baseline, budget, self.tuning_metric)
                keys += _keys({**block, 'budgets': [budget], 'learning_rates': [tuned[0].key.learning_rate]})
        return list(dict.fromkeys(keys)), complete


def _keys(block: Mapping[str, Any]) -> Iterable[RunKey]:
    """Return all combinations of a block; seeds outermost, so that the first results are comparable."""
    return [
        RunKey(setting, budget, rate, seed)
        for seed in block['seeds']
        for budget in block.get('budgets', [None])
        for rate in block.get('learning_rates', [None])
        for setting in block['settings']
    ]


def read_spec(path: str | Path) -> Spec:
    """Read a spec.

    Args:
        path (str | Path): A Python file that sets the fields of :class:`Spec`, except ``name``.

    Returns:
        Spec: Checked.

    Raises:
        UserError: If there is no such file or a config that it names, or if a field is missing, unknown or impossible.
    """
    try:
        fields = Config.fromfile(path).to_dict()
    except (OSError, SyntaxError) as error:
        raise UserError(f'{path} is no spec that can be read: {error}') from None
    known = set(Spec.__dataclass_fields__) - {'name'}
    # What starts with an underscore is the file's own.
    fields = {key: value for key, value in fields.items() if not key.startswith('_')}
    if unknown := set(fields) - known:
        raise UserError(f'{path}: unknown fields {sorted(unknown)}; known are {sorted(known)}')
    if missing := known - set(fields) - {'features', 'gpus'}:
        raise UserError(f'{path}: fields missing: {sorted(missing)}')
    return Spec(name=Path(path).stem, **fields)


def config_hash(cfg: Config) -> str:
    """Return the identity of a training run: a hash of the parts of its config that decide its result.

    Model, data, evaluation, optimizer, schedule and seed count; import paths, logging, and hooks that only observe do
    not.

    Args:
        cfg (Config): Config of the run, before the paths of this machine are put in.

    Returns:
        str: First 16 digits of the SHA-256 of canonical JSON.
    """
    content = copy.deepcopy({name: cfg[name] for name in IDENTITY if cfg.get(name)})
    model = content.get('model', {})
    heads = (model.get('roi_head') or model).get('mask_head', [])
    for head in heads if isinstance(heads, (list, tuple)) else [heads]:
        # Results from before the option have none. It has no effect without an edge loss, nor on a mask head alone.
        if head.get('feature_grad_scale') == 1 or head.get('loss_edge') is None or 'roi_head' not in model:
            head.pop('feature_grad_scale', None)
    hooks = [hook for hook in cfg.get('custom_hooks', []) if type_of(hook)[1] not in OBSERVING_HOOKS]
    if hooks:
        content['custom_hooks'] = hooks
    text = json.dumps(content, sort_keys=True, default=lambda value: getattr(value, '__name__', str(value)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
