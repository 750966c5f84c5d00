"""Starting train.py and test.py: options, config, process group, runner."""

import argparse
import atexit
import ctypes
import difflib
import functools
import gc
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from mmengine.utils import get_installed_path, is_installed

from mmdet_edge.config.edge import apply_edge_agreement
from mmdet_edge.config.edits import override_data_root
from mmdet_edge.config.import_paths import repair_import_paths
from mmdet_edge.errors import UserError, environment_ranks, one_line
from mmdet_edge.preflight.settings import check_names, sections

# setuptools < 81 warns at each import, and mmengine cannot do without (see requirements.txt).
warnings.filterwarnings('ignore', message='pkg_resources is deprecated')


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that train.py and test.py have in common: mmdet's, and those of the checks."""
    parser.add_argument('--work-dir', help='folder for logs, checkpoints and metrics')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config: key=value, nested as a.b.c=value, lists as key="[a,b]". data_root=DIR '
        'replaces the data_root of the config in every path that begins with it',
    )
    parser.add_argument('--check', action='store_true', help='check config, data and weights, and start nothing')
    parser.add_argument('--checked', action='store_true', help='skip the checks: the same command has just done them')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='who started the processes of a distributed job',
    )
    # What torch.distributed.launch passes; torchrun sets LOCAL_RANK instead.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def parse_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line, and set LOCAL_RANK where only ``--local_rank`` says it."""
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def checks_here(args: argparse.Namespace) -> bool:
    """Return whether this process checks: once for a job, by rank 0, unless a script has done it (``--checked``)."""
    return not args.checked and (args.launcher == 'none' or environment_ranks()[0] == '0')


def read_config(config: str | Path) -> Config:
    """Read a config file, or one of an installed package, such as 'mmdet::htc/htc_r50_fpn_1x_coco.py'.

    Raises:
        UserError: If the file or package does not exist, the environment cannot read it, or a section is misspelt.
    """
    try:
        # What mmengine calls for a base such as 'mmdet::...'.
        is_installed('mmdet')
    except ModuleNotFoundError:
        message = "mmengine needs pkg_resources, which setuptools 82 removed: pip install 'setuptools<81'"
        raise UserError(message) from None
    package, separator, name = str(config).partition('::')
    if separator and not is_installed(package):
        raise UserError(f'{config}: there is no installed package {package!r}; expected mmdet::FOLDER/CONFIG.py')
    path = Path(get_installed_path(package), '.mim', 'configs', name) if separator else Path(config)
    if not path.is_file():
        names = [p.name for p in path.parent.glob('*.py')] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=1)
        hint = f'; did you mean {path.parent / near[0]}?' if near else ''
        raise UserError(f'config file not found: {path} (looked in {Path.cwd()}){hint}')
    try:
        cfg = repair_import_paths(Config.fromfile(path))
    except FileNotFoundError as error:
        raise UserError(f'{path} inherits from a file that does not exist: {error}') from None
    except Exception as error:
        # A config is a program, which can fail in any way.
        raise UserError(f'{path} cannot be read: {type(error).__name__}: {one_line(error)}') from error
    check_names(cfg, sections(), f'{path} has', cutoff=0.85)
    return cfg


def edit_config(
    cfg: Config,
    cfg_options: dict | None = None,
    work_dir: str | None = None,
    launcher: str = 'none',
    edge_stages: str | Sequence[int] | None = None,
) -> Config:
    """Apply the options that the command lines have in common.

    Args:
        cfg (Config): Config that was read from a file; changed in place.
        cfg_options (dict, optional): Settings to override. Defaults to None.
        work_dir (str, optional): Work dir. Defaults to None: the config's, or one named after the file.
        launcher (str): Who started the processes of a distributed job. Defaults to 'none'.
        edge_stages (str | Sequence[int], optional): Stages that get the edge loss, see
            :func:`mmdet_edge.apply_edge_agreement`; the name of the default work dir then ends in '_edge', so that the
            training runs with and without never share one. Defaults to None: the config as it is.

    Returns:
        Config: The same config, with ``launcher`` and ``work_dir`` set.

    Raises:
        UserError: If an option is misspelt, the model cannot have the edge loss, or a distributed job cannot run here.
    """
    options = dict(cfg_options or {})
    check_names((key.split('.')[0] for key in options), sections() | set(cfg), '--cfg-options has', cutoff=0.8)
    if 'data_root' in options and 'data_root' in cfg:
        override_data_root(cfg, cfg.data_root, str(options.pop('data_root')))
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError) as error:
        raise UserError(f'--cfg-options {" ".join(options)}: {one_line(error)}') from None
    name = Path(cfg.filename).stem
    if edge_stages is not None:
        try:
            apply_edge_agreement(cfg, stages=edge_stages)
        except ValueError as error:
            raise UserError(f'--edge: {error}') from None
        stages = [edge_stages] if isinstance(edge_stages, str) else edge_stages
        name += '_' + '-'.join(['edge', *(str(stage) for stage in stages if stage != 'all')])
    cfg.launcher = launcher
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / name)
    if launcher != 'none' and get_device() == 'cpu':
        distribute_on_cpu(cfg)
    return cfg


def distribute_on_cpu(cfg: Config) -> None:
    """Configure a distributed job on a machine without an accelerator.

    mmengine would put every process on its own GPU; with this wrapper, and the process group there before the Runner,
    it trains with gloo.

    Raises:
        UserError: If the job was not started by torchrun.
    """
    if cfg.launcher != 'pytorch' or 'RANK' not in os.environ:
        raise UserError(
            f'torch {torch.__version__} sees no GPU, and a distributed job on CPUs must be started by torchrun: use '
            f'tools/dist_train.sh or tools/dist_test.sh (got --launcher {cfg.launcher})'
        )
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )


def _start_process_group(cfg: Config) -> None:
    """Start gloo."""
    if os.environ['RANK'] == '0':
        print(f'torch {torch.__version__} sees no GPU: {os.environ["WORLD_SIZE"]} CPU processes with gloo', flush=True)
    timeout = (cfg.get('env_cfg') or {}).get('dist_cfg', {}).get('timeout')
    timeout = timedelta(seconds=timeout) if timeout else torch.distributed.distributed_c10d.default_pg_timeout
    torch.distributed.init_process_group('gloo', timeout=timeout)
    # Left to the end of the interpreter, gloo's threads can abort a process that has done its work.
    atexit.register(_end_process_group)


def _end_process_group() -> None:
    # What holds it keeps its threads alive: the distributed model, in the runner's circles of references.
    gc.collect()
    torch.distributed.destroy_process_group()


def build_runner(cfg: Config) -> Runner:
    """Build the runner that the config names, by default mmengine's; on CPUs start gloo before."""
    end_children_with_this_process()
    if cfg.get('launcher', 'none') != 'none' and get_device() == 'cpu':
        _start_process_group(cfg)
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


@functools.cache
def end_children_with_this_process() -> None:
    """Let the dataloader workers end with this process, even if it is killed (Linux).

    PyTorch's notice that it is gone, and then wait forever until somebody reads what they have loaded: each holds open
    the pipe that all of them write to, and masks are more than a pipe takes.
    """
    if sys.platform == 'linux':
        os.register_at_fork(after_in_child=functools.partial(_end_with_parent, ctypes.CDLL(None).prctl))


def _end_with_parent(prctl: Callable[[int, int], int]) -> None:
    set_death_signal = 1
    prctl(set_death_signal, signal.SIGKILL)
    # Ctrl-C goes to all processes: the parent's line is enough.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _report_unless_disconnected


def _report_unless_disconnected(kind: type[BaseException], *args: Any) -> None:
    """Report an exception as Python does, but not that the parent has ended while it received a tensor."""
    if not issubclass(kind, ConnectionError):
        sys.__excepthook__(kind, *args)
