"""Finding misspelt types and options in a config before anything is built from it that takes time or leaves files."""

import copy
import difflib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from mmdet.evaluation import CocoMetric
from mmengine import registry
from mmengine.config import Config
from mmengine.registry import TRANSFORMS, Registry, init_default_scope
from torch.utils.data import DataLoader

from mmdet_edge.errors import UserError, one_line

REGISTRIES: dict[str, tuple[Registry, ...]] = {
    'batch_sampler': (registry.DATA_SAMPLERS,),
    'collate_fn': (registry.FUNCTIONS,),
    'custom_hooks': (registry.HOOKS,),
    'dataset': (registry.DATASETS,),
    'datasets': (registry.DATASETS,),
    'default_hooks': (registry.HOOKS,),
    'log_processor': (registry.LOG_PROCESSORS,),
    'metrics': (registry.METRICS,),
    'optim_wrapper': (registry.OPTIM_WRAPPERS,),
    'optimizer': (registry.OPTIMIZERS,),
    'param_scheduler': (registry.PARAM_SCHEDULERS,),
    'pipeline': (TRANSFORMS,),
    'sampler': (registry.DATA_SAMPLERS,),
    'test_cfg': (registry.LOOPS,),
    'test_evaluator': (registry.METRICS, registry.EVALUATOR),
    'train_cfg': (registry.LOOPS,),
    'val_cfg': (registry.LOOPS,),
    'val_evaluator': (registry.METRICS, registry.EVALUATOR),
    'vis_backends': (registry.VISBACKENDS,),
    'visualizer': (registry.VISUALIZERS,),
}
"""Key of a config -> where the types below it are registered."""

TAKEN_BEFORE = {
    *('_scope_', 'by_epoch', 'constructor', 'convert_to_iter_based', 'disable_subprocess_warning'),
    *('num_batch_per_epoch', 'paramwise_cfg', 'priority', 'type'),
}
"""Options that mmengine takes out before it constructs a part."""

OLD_OPTIONS = {
    'classes': 'metainfo=dict(classes=...)',
    'img_prefix': 'data_prefix=dict(img=...)',
    'samples_per_gpu': 'batch_size',
    'workers_per_gpu': 'num_workers',
}
"""Option of mmdet 2 -> what has taken its place."""


def check_parts(cfg: Config, splits: Sequence[str]) -> None:
    """Check the parts of a config beside the model: each type is looked up, its options compared with what it takes.

    Transforms, and COCO's metrics without their annotation file, are built too: that is quick and leaves nothing.
    ``splits`` are those of 'train', 'val', 'test' that will run.

    Raises:
        UserError: At the first type or option that there is not, or value that its part refuses; the message says
            where it is and, for a misspelling, what may be meant.
    """
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    names = ['default_hooks', 'custom_hooks', 'visualizer', 'log_processor']
    names += ['optim_wrapper', 'param_scheduler'] if 'train' in splits else []
    names += [f'{split}_{part}' for split in splits for part in ('dataloader', 'cfg', 'evaluator')]
    for name in names:
        for where, part, registries in _parts(cfg.get(name), name, REGISTRIES.get(name, ())):
            _check_part(where, part, registries)


def _parts(value: Any, where: str, registries: tuple[Registry, ...]) -> Iterator[tuple[str, dict, tuple]]:
    """Yield each dict that is to become an object, its place, and where its type is registered."""
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _parts(item, f'{where}.{index}', registries)
    elif isinstance(value, dict):
        has_type = 'type' in value or _default_type(where, value) is not None
        if has_type and (registries or 'type' not in value):
            yield where, value, registries
        if registries == (TRANSFORMS,):
            # A nested transform may belong to another library: building it is the check.
            return
        for key, item in value.items():
            # default_hooks, and what there is for several optimizers, hold parts under names of their own.
            below = REGISTRIES.get(key, ()) if has_type else registries
            yield from _parts(item, f'{where}.{key}', below)


def _default_type(where: str, part: dict) -> Any:
    """Return what mmengine makes of a section that does not say its type; None if that depends."""
    if where.endswith('_dataloader'):
        return DataLoader
    if where == 'train_cfg':
        return 'EpochBasedTrainLoop' if part.get('by_epoch', True) else 'IterBasedTrainLoop'
    if where == 'optim_wrapper':
        return 'OptimWrapper' if 'optimizer' in part else None
    return {'val_cfg': 'ValLoop', 'test_cfg': 'TestLoop', 'log_processor': 'LogProcessor'}.get(where)


def _check_part(where: str, part: dict, registries: tuple[Registry, ...]) -> None:
    name = part.get('type') or _default_type(where, part)
    kind = find_type(name, part.get('_scope_'), registries) if isinstance(name, str) else name
    if kind is None:
        registered = [key for place in registries for key in _registered(place)]
        hint = _hint(f'{name}'.split('.')[-1], registered, cutoff=0.6)
        raise UserError(f'{where}.type: {name} is not in the {registries[0].name} registry{hint}')
    if inspect.isclass(kind):
        options, takes_others = _options(kind)
        for key in set(part) - TAKEN_BEFORE - options:
            hint = f'; since mmdet 3 it is {OLD_OPTIONS[key]}' if key in OLD_OPTIONS else ''
            hint = hint or _hint(key, options | {'type'}, cutoff=0.8)
            if hint or not takes_others:
                raise UserError(f'{where}: {kind.__name__} has no option {key!r}{hint}')
    if part.get('format_only') and not part.get('outfile_prefix'):
        raise UserError(f'{where}: format_only=True needs outfile_prefix, the path that its files begin with')
    try:
        # A copy: what is built may take keys out of its config.
        if TRANSFORMS in registries and 'tokenizer_name' not in part:
            # A tokenizer would be downloaded.
            TRANSFORMS.build(copy.deepcopy(part))
        elif inspect.isclass(kind) and issubclass(kind, CocoMetric):
            given = copy.deepcopy(part)
            kind(**{key: given[key] for key in given if key not in ('type', '_scope_', 'ann_file')})
    except Exception as error:
        # Whatever a constructor raises.
        raise UserError(f'{where}: {name} cannot be built: {one_line(error)}') from error


def find_type(name: str, scope: str | None, registries: tuple[Registry, ...]) -> Any:
    """Return the class or function that is registered under a name; None if there is none."""
    for place in registries:
        try:
            with place.switch_scope_and_registry(scope) as scoped:
                kind = scoped.get(name)
        except Exception:
            # A name with dots is imported, which can fail in any way.
            continue
        if kind is not None:
            return kind
    return None


def _registered(registry: Registry) -> Iterator[str]:
    yield from registry.module_dict
    for child in registry.children.values():
        yield from _registered(child)


def _options(kind: type) -> tuple[set[str], bool]:
    """Return the names that a constructor takes, with its parents' if it hands on others, and whether it does."""
    names: set[str] = set()
    takes_others = False
    for parent in kind.__mro__[:-1]:
        if '__init__' not in vars(parent):
            continue
        parameters = inspect.signature(vars(parent)['__init__']).parameters.values()
        names.update(parameter.name for parameter in parameters)
        takes_others = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        if not takes_others:
            break
    return names - {'self', 'args', 'kwargs'}, takes_others


def _hint(name: str, known: Any, cutoff: float) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f'; did you mean {near[0]!r}?' if near else ''
