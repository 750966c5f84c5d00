"""What the command lines train.py and test.py share: options, config, checks before anything starts."""

import argparse
import atexit
import ctypes
import difflib
import functools
import gc
import importlib.util
import inspect
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Optional, Union

import torch.distributed
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from mmengine.utils import get_installed_path, is_installed
from torch import nn

from mmdet_edge.apply import apply_edge_agreement, import_mmdet_edge
from mmdet_edge.config_types import type_of
from mmdet_edge.datasets.check_annotations import AnnotationProblems, check_dataset
from mmdet_edge.datasets.config import inner_datasets

from . import check_parts as parts
from .check_model import build_model, check_weights

# setuptools < 81 warns at each import, and mmengine cannot do without (see requirements.txt).
warnings.filterwarnings('ignore', message='pkg_resources is deprecated')


def stop(message: str) -> SystemExit:
    """Return the exception that ends the program with one line, told by the first process of each node only."""
    if _ranks()[1] == '0':
        return SystemExit(f'error: {message}')
    # The first process to end has torchrun end the others: let the one that tells be it.
    time.sleep(5)
    return SystemExit(1)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that mmdet's train.py and test.py have in common."""
    parser.add_argument('--work-dir', help='folder for logs, checkpoints and metrics')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config: key=value, nested as a.b.c=value, lists as key="[a,b]". data_root=DIR '
        'moves every data set and annotation file that lies below the data_root of the config',
    )
    parser.add_argument('--check', action='store_true', help='check config, data and weights, and start nothing')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='who started the processes of a distributed job',
    )
    # What torch.distributed.launch passes; torchrun sets LOCAL_RANK instead.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def load_config(
    config: str,
    cfg_options: Optional[dict] = None,
    work_dir: Optional[str] = None,
    launcher: str = 'none',
    local_rank: int = 0,
    edge_stages: Union[str, Sequence[int], None] = None,
) -> Config:
    """Read a config file and apply the common options.

    Args:
        config (str): Path of the file, or one of an installed package, such as 'mmdet::htc/htc_r50_fpn_1x_coco.py'.
        cfg_options (dict, optional): Settings to override. Defaults to None.
        work_dir (str, optional): Work dir. Defaults to None: the config's, or one named after the file.
        launcher (str): Who started the processes of a distributed job. Defaults to 'none'.
        local_rank (int): Rank on this machine, unless LOCAL_RANK says it. Defaults to 0.
        edge_stages (str | Sequence[int], optional): Stages that get the edge loss, see
            :func:`mmdet_edge.apply_edge_agreement`; the name of the default work dir then ends in '_edge', so that the
            trainings with and without never share one. Defaults to None: the config as it is.

    Returns:
        Config: The config, with ``launcher`` and ``work_dir`` set.

    Raises:
        SystemExit: If the config file does not exist, the environment cannot read it, a section or option is misspelt,
            or the model cannot have the edge loss.
    """
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
    if importlib.util.find_spec('pkg_resources') is None:
        raise stop("mmengine needs pkg_resources, which setuptools 82 removed: pip install 'setuptools<81'")
    path = find_config(str(config))
    if not path.is_file():
        names = [p.name for p in path.parent.glob('*.py')] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=1)
        hint = f'; did you mean {path.parent / near[0]}?' if near else ''
        raise stop(f'config file not found: {path} (looked in {Path.cwd()}){hint}')
    try:
        cfg = Config.fromfile(path)
    except FileNotFoundError as error:
        raise stop(f'{path} inherits from a file that does not exist: {error}') from None
    except Exception as error:
        # A config is a program, which can fail in any way.
        raise stop(f'{path} cannot be read: {type(error).__name__}: {" ".join(str(error).split())}') from error
    options = dict(cfg_options or {})
    _check_names(cfg, _sections(), f'{path} has', cutoff=0.85)
    _check_names((key.split('.')[0] for key in options), _sections() | set(cfg), '--cfg-options has', cutoff=0.8)
    if 'data_root' in options and 'data_root' in cfg:
        move_data_root(cfg, cfg.data_root, str(options.pop('data_root')))
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError) as error:
        raise stop(f'--cfg-options {" ".join(options)}: {" ".join(str(error).split())}') from None
    name = path.stem
    if edge_stages is not None:
        try:
            apply_edge_agreement(cfg, stages=edge_stages)
        except ValueError as error:
            raise stop(f'--edge: {error}') from None
        stages = [edge_stages] if isinstance(edge_stages, str) else edge_stages
        name += '_' + '-'.join(['edge', *(str(stage) for stage in stages if stage != 'all')])
    cfg.launcher = launcher
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / name)
    if cfg.launcher != 'none' and get_device() == 'cpu':
        distribute_on_cpu(cfg)
    return cfg


def find_config(config: str) -> Path:
    """Return the path of a config, which 'package::path' names as in a ``_base_`` of mmengine.

    Args:
        config (str): Path of the file, or 'mmdet::' and its path in MMDetection's folder ``configs``.

    Returns:
        Path: Not necessarily that of a file.

    Raises:
        SystemExit: If the package is not installed.
    """
    package, separator, name = config.partition('::')
    if not separator:
        return Path(config)
    if not is_installed(package):
        raise stop(f'{config}: there is no installed package {package!r}; expected mmdet::FOLDER/CONFIG.py')
    return Path(get_installed_path(package), '.mim', 'configs', name)


def move_data_root(cfg: Config, old: str, new: str) -> None:
    """Replace the data root wherever the config has used it.

    A config reads ``ann_file=data_root + 'val.json'`` when it is parsed, so that setting ``data_root`` afterwards would
    change nothing.

    Args:
        cfg (Config): Changed in place.
        old (str): Data root that the config was parsed with.
        new (str): Data root to use.
    """
    if not old:
        raise stop(f'the config has no data_root to replace with {new}: set the paths of its data sets one by one')
    old, new = old.rstrip('/'), new.rstrip('/')

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            for key in value:
                value[key] = moved(value[key])
        elif isinstance(value, (list, tuple)):
            return type(value)(moved(item) for item in value)
        elif isinstance(value, str) and f'{value}/'.startswith(f'{old}/'):
            return new + value[len(old) :]
        return value

    for key in cfg:
        cfg[key] = moved(cfg[key])


def use_boundary_metric(cfg: Config) -> None:
    """Let the evaluators that measure mask AP measure boundary AP too.

    Args:
        cfg (Config): Changed in place.

    Raises:
        SystemExit: If no evaluator measures mask AP with ``CocoMetric``.
    """
    changed = False
    for split in ('val', 'test'):
        evaluators = cfg.get(f'{split}_evaluator') or []
        for evaluator in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
            metrics = evaluator.get('metric', 'bbox')
            metrics = [metrics] if isinstance(metrics, str) else list(metrics)
            scope, name = type_of(evaluator)
            if name in ('CocoMetric', 'CocoBoundaryMetric') and 'segm' in metrics:
                evaluator.type = scope + 'CocoBoundaryMetric'
                evaluator.metric = [*metrics, *({'boundary'} - set(metrics))]
                changed = True
    if not changed:
        raise stop("--boundary: the config has no evaluator of type CocoMetric with metric 'segm'")
    # For whoever runs the config that is written to the work dir.
    import_mmdet_edge(cfg)


def use_resume(cfg: Config, checkpoint: str) -> None:
    """Let a training go on where it was.

    Args:
        cfg (Config): Changed in place. ``load_from`` counts as long as the work dir has nothing to go on from, so that
            a job can be started and restarted by the same line.
        checkpoint (str): Path or address; 'auto' for the latest one in the work dir.
    """
    work_dir = Path(cfg.work_dir)
    if checkpoint == 'auto' and not (work_dir / 'last_checkpoint').exists() and not any(work_dir.glob('*.pth')):
        return
    cfg.resume = True
    cfg.load_from = None if checkpoint == 'auto' else checkpoint


def use_safe_checkpoints(cfg: Config) -> None:
    """Save checkpoints so that a training killed at any moment goes on from a whole one, as if nothing had happened.

    Args:
        cfg (Config): Changed in place where it says ``CheckpointHook``; any other hook stays.
    """
    if 'default_hooks' not in cfg:
        cfg.default_hooks = {}
    if 'checkpoint' not in cfg.default_hooks:
        # mmengine's own default.
        cfg.default_hooks.checkpoint = dict(type='mmengine.CheckpointHook', interval=1)
    checkpoint = cfg.default_hooks.checkpoint
    scope, name = type_of(checkpoint or {})
    if name == 'CheckpointHook':
        checkpoint['type'] = scope + 'AtomicCheckpointHook'
        cfg.default_hooks.random_state = dict(type=scope + 'RandomStateHook')
        import_mmdet_edge(cfg)


def distribute_on_cpu(cfg: Config) -> None:
    """Prepare a distributed job on a machine without an accelerator.

    mmengine would put every process on its own GPU; with the process group there before the Runner, and the wrapper
    told that there is no device, it trains with gloo.

    Args:
        cfg (Config): Changed in place.

    Raises:
        SystemExit: If the job was not started by torchrun.
    """
    if cfg.launcher != 'pytorch' or 'RANK' not in os.environ:
        raise stop(
            f'torch {torch.__version__} sees no GPU, and a distributed job on CPUs must be started by torchrun: use '
            f'tools/dist_train.sh or tools/dist_test.sh (got --launcher {cfg.launcher})'
        )
    if os.environ['RANK'] == '0':
        print(f'torch {torch.__version__} sees no GPU: {os.environ["WORLD_SIZE"]} CPU processes with gloo', flush=True)
    timeout = (cfg.get('env_cfg') or {}).get('dist_cfg', {}).get('timeout')
    timeout = timedelta(seconds=timeout) if timeout else torch.distributed.distributed_c10d.default_pg_timeout
    torch.distributed.init_process_group('gloo', timeout=timeout)
    # Left to the end of the interpreter, gloo's threads can abort a process that has done its work.
    atexit.register(_end_process_group)
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )


def _end_process_group() -> None:
    # What holds it keeps its threads alive: the distributed model, in the runner's circles of references.
    gc.collect()
    torch.distributed.destroy_process_group()


def check_amp(cfg: Config) -> None:
    """Check that mixed precision has the device that mmengine wants for it.

    Args:
        cfg (Config): The config.

    Raises:
        SystemExit: If it is on and there is no accelerator.
    """
    if type_of(cfg.optim_wrapper)[1] == 'AmpOptimWrapper' and get_device() == 'cpu':
        raise stop(
            f'mixed precision needs a GPU, and torch {torch.__version__} sees none: leave out --amp, or use the '
            'config without amp'
        )


def build_runner(cfg: Config) -> Runner:
    """Build the runner that the config names, by default mmengine's."""
    end_children_with_this_process()
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


@functools.cache
def end_children_with_this_process() -> None:
    """Let the processes that load data end when this one is killed (Linux).

    PyTorch's notice that it is gone, and then wait, for good, until somebody reads what they have loaded: each holds
    open the pipe that all of them write to, and masks are more than a pipe takes.
    """
    if sys.platform == 'linux':
        set_death_signal, option = ctypes.CDLL(None).prctl, 1
        os.register_at_fork(after_in_child=lambda: set_death_signal(option, signal.SIGKILL))


def check_parts(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check the types and options of what a config has beside the model: see :func:`.check_parts.check_parts`.

    Args:
        cfg (Config): The config.
        splits (tuple[str, ...]): Of 'train', 'val', 'test', those that will run.

    Raises:
        SystemExit: At the first type or option that there is not, or value that is refused.
    """
    try:
        parts.check_parts(cfg, splits)
    except ValueError as error:
        raise stop(str(error)) from None


def check_data(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check that the files of the data sets are there, and what the annotation files say.

    The first process of a distributed job reads the annotations; warnings go to the standard error.

    Args:
        cfg (Config): The config.
        splits (tuple[str, ...]): Of 'train', 'val', 'test', those that will run.

    Raises:
        SystemExit: At the first folder or file that is missing, or annotation file with errors.
    """
    for split in splits:
        for dataset in inner_datasets((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
            if dataset.get('backend_args'):
                continue
            root = dataset.get('data_root') or ''
            if _is_local(root) and not Path(root).is_dir():
                raise _missing_data('data root', root, f'{split}_dataloader')
            if dataset.get('ann_file') and not _exists(root, dataset.ann_file, Path.is_file):
                raise _missing_data('annotation file', Path(root, dataset.ann_file), f'{split}_dataloader')
            for prefix in (dataset.get('data_prefix') or {}).values():
                if not _exists(root, prefix):
                    raise _missing_data('image folder', Path(root, prefix), f'{split}_dataloader')
            if _is_first_process() and _is_local(root) and _is_local(dataset.get('ann_file') or ''):
                _tell_problems(check_dataset(dataset, is_training=split == 'train'))
        evaluators = cfg.get(f'{split}_evaluator') or []
        for evaluator in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
            ann_file = None if evaluator.get('backend_args') else evaluator.get('ann_file')
            if ann_file and not _exists('', ann_file, Path.is_file):
                raise _missing_data('annotation file', ann_file, f'{split}_evaluator')


def check_keys(cfg: Config, *keys: str) -> None:
    """Check that the config has what the runner cannot do without.

    Args:
        cfg (Config): The config.
        *keys (str): Names of its sections.

    Raises:
        SystemExit: If one is missing or None.
    """
    for key in keys:
        if cfg.get(key) is None:
            near = difflib.get_close_matches(key, set(cfg) - _sections(), n=1)
            hint = f'; it has {near[0]!r}: a typo?' if near else ''
            raise stop(f'the config has no {key}{hint}')


def check_writable(what: str, path: Any, is_folder: bool = True) -> None:
    """Check that a folder or file can be written, before hours are spent on what goes there; nothing is made.

    Args:
        what (str): Name of the option or setting; opens the error message.
        path (str | Path): The folder or file.
        is_folder (bool): Whether it is a folder. Defaults to True.

    Raises:
        SystemExit: If it is of the other kind, cannot be made, or cannot be written to.
    """
    path = Path(path)
    if path.exists() and path.is_dir() != is_folder:
        raise stop(f'{what} must be a {"folder, got the file" if is_folder else "file, got the folder"} {path}')
    there = path
    while not there.exists():
        there = there.parent
    if there != path and not there.is_dir():
        raise stop(f'{what}: {path} cannot be made, as {there} is a file')
    if not os.access(there, os.W_OK):
        raise stop(f'{what}: no permission to write {there}')


def check_model(cfg: Config) -> nn.Module:
    """Build the model, so that what is wrong with its config is told before anything else is done.

    Args:
        cfg (Config): The config.

    Returns:
        nn.Module: The model, for :func:`check_checkpoint`; it has no pretrained weights.

    Raises:
        SystemExit: If it cannot be built or does not fit the training data.
    """
    try:
        return build_model(cfg)
    except ValueError as error:
        raise stop(str(error)) from None


def check_checkpoint(path: str, model: Optional[nn.Module] = None, whole: bool = True) -> None:
    """Check that a checkpoint file is there, can be loaded and fits; addresses (``https://...``) are left to mmengine.

    The first process of a distributed job loads it. So is a folder with the name of a checkpoint left to mmengine, as
    DeepSpeed and FSDP write it, each process its own file.

    Args:
        path (str): Path or address.
        model (nn.Module, optional): What it must fit. Defaults to None: not compared.
        whole (bool): Whether it must have all weights of the model. Defaults to True.

    Raises:
        SystemExit: If it is not a file, would run code, is damaged or does not fit.
    """
    if Path(path).suffix == '.pth' and Path(path).is_dir():
        return
    if not _exists('', path, Path.is_file):
        folder = Path(path) if Path(path).is_dir() else Path(path).parent
        found = sorted(p.name for p in folder.glob('*.pth')) if folder.is_dir() else []
        hint = f'; {folder} has {", ".join(found)}' if found else ''
        raise stop(f'checkpoint not found: {path}{hint}')
    if _is_local(path) and _is_first_process():
        try:
            check_weights(path, model, whole)
        except ValueError as error:
            raise stop(str(error)) from None


def check_pretrained(model: ConfigDict) -> None:
    """Check that the weights a training starts from can be had.

    Args:
        model (ConfigDict): Config of the model.

    Raises:
        SystemExit: If one is a ``torchvision://`` model and torchvision is not installed, or a file that does not
            exist.
    """
    for name, init_cfg in _init_cfgs(model, 'model'):
        checkpoint = init_cfg.get('checkpoint') or ''
        if checkpoint.startswith('torchvision://') and not importlib.util.find_spec('torchvision'):
            raise stop(
                f'{name} is {checkpoint}, but torchvision is not installed: install the release that fits your torch '
                f'{torch.__version__}, or start from random weights with --cfg-options {name}=None'
            )
        if checkpoint and not _exists('', checkpoint):
            raise stop(f'weights not found: {name} is {checkpoint}')
        if checkpoint and _is_local(checkpoint):
            check_checkpoint(checkpoint)


@functools.cache
def _warn(text: str) -> None:
    """Say something once."""
    print(f'warning: {text}', file=sys.stderr)


def _tell_problems(problems: Optional[AnnotationProblems]) -> None:
    if problems:
        for text in problems.warnings:
            _warn(text)
        if problems.errors:
            raise stop('\nerror: '.join(problems.errors))


def _missing_data(what: str, path: Any, where: str) -> SystemExit:
    return stop(
        f'{what} not found: {path} ({where} of the config). Put the data there or name its place with '
        '--cfg-options data_root=FOLDER'
    )


def _is_first_process() -> bool:
    return _ranks()[0] == '0'


def _ranks() -> tuple[str, str]:
    """Return the rank of this process in its job and on its machine, before mmengine has asked for them."""
    # A task of Slurm may start torchrun or mpirun, whose processes inherit the numbers of the task.
    for rank, local_rank in (
        ('RANK', 'LOCAL_RANK'),
        ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK'),
        ('SLURM_PROCID', 'SLURM_LOCALID'),
    ):
        if rank in os.environ:
            return os.environ[rank], os.environ.get(local_rank, '0')
    return '0', '0'


def _sections() -> set[str]:
    """Return the sections of a config that mmengine, mmdet's tools and ours read."""
    of_runner = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'}
    return of_runner | {'compile', 'custom_imports', 'find_unused_parameters', 'runner_type', 'tta_model'}


def _check_names(names: Iterable[str], known: set[str], where: str, cutoff: float) -> None:
    """Refuse what is all but the name of a section: mmengine would take it, and nothing would read it."""
    for name in names:
        near = [other for other in known if sorted(other) == sorted(name)]
        if not near and len(name) > 5:
            # A shorter one, say mode, is as good a word as model.
            near = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
        # What a config calls val_evaluator_2 is a part of its val_evaluator.
        if name not in known and near and not name.startswith(f'{near[0]}_'):
            raise stop(
                f'{where} {name!r}, which nothing reads; did you mean {near[0]!r}? (A variable of your own needs '
                'another name.)'
            )


def _is_local(path: str) -> bool:
    return '://' not in path and not path.startswith('s3:')


def _exists(root: str, path: str, is_there: Callable[[Path], bool] = Path.exists) -> bool:
    """Tell whether a file or folder exists; what is not on this machine's disk is given the benefit of the doubt."""
    path = path if Path(path).is_absolute() or not _is_local(path) else os.path.join(root, path)
    return not _is_local(path) or is_there(Path(path))


def _init_cfgs(cfg: Any, name: str) -> Iterator[tuple[str, dict]]:
    """Yield the name and config of every pretrained ``init_cfg`` of a model."""
    if isinstance(cfg, dict):
        # The class has another name than in the registry.
        if type_of(cfg)[1] in ('Pretrained', 'PretrainedInit'):
            yield name, cfg
        for key, value in cfg.items():
            yield from _init_cfgs(value, f'{name}.{key}')
    elif isinstance(cfg, (list, tuple)):
        for index, value in enumerate(cfg):
            yield from _init_cfgs(value, f'{name}.{index}')
