"""What is checked before anything starts."""

import difflib
import functools
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Optional

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.runner import Runner
from torch import nn

from mmdet_edge.config.datasets import inner_datasets
from mmdet_edge.config.types import type_of
from mmdet_edge.errors import UserError, environment_ranks

from . import parts
from .annotations import AnnotationProblems, check_dataset
from .model import build_model, check_weights


def sections() -> set[str]:
    """Return the sections of a config that mmengine, mmdet's tools and ours read."""
    of_runner = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'}
    return of_runner | {'compile', 'custom_imports', 'find_unused_parameters', 'runner_type', 'tta_model'}


def check_names(names: Iterable[str], known: set[str], where: str, cutoff: float) -> None:
    """Refuse what is all but the name of a section: mmengine would take it, and nothing would read it."""
    for name in names:
        near = [other for other in known if sorted(other) == sorted(name)]
        if not near and len(name) > 5:
            # A shorter one, say mode, is as good a word as model.
            near = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
        # What a config calls val_evaluator_2 is a part of its val_evaluator.
        if name not in known and near and not name.startswith(f'{near[0]}_'):
            raise UserError(
                f'{where} {name!r}, which nothing reads; did you mean {near[0]!r}? (A variable of your own needs '
                'another name.)'
            )


def check_keys(cfg: Config, *keys: str) -> None:
    """Check that the config has what the runner cannot do without.

    Args:
        cfg (Config): The config.
        *keys (str): Names of its sections.

    Raises:
        UserError: If one is missing or None.
    """
    for key in keys:
        if cfg.get(key) is None:
            near = difflib.get_close_matches(key, set(cfg) - sections(), n=1)
            hint = f'; it has {near[0]!r}: a typo?' if near else ''
            raise UserError(f'the config has no {key}{hint}')


def check_amp(cfg: Config) -> None:
    """Check that mixed precision has the device that mmengine wants for it.

    Args:
        cfg (Config): The config.

    Raises:
        UserError: If it is on and there is no accelerator.
    """
    if type_of(cfg.optim_wrapper)[1] == 'AmpOptimWrapper' and get_device() == 'cpu':
        raise UserError(
            f'mixed precision needs a GPU, and torch {torch.__version__} sees none: leave out --amp, or use the '
            'config without amp'
        )


def check_parts(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check the types and options of what a config has beside the model: see :func:`.check_parts.check_parts`.

    Args:
        cfg (Config): The config.
        splits (tuple[str, ...]): Of 'train', 'val', 'test', those that will run.

    Raises:
        UserError: At the first type or option that there is not, or value that is refused.
    """
    try:
        parts.check_parts(cfg, splits)
    except ValueError as error:
        raise UserError(str(error)) from None


def check_model(cfg: Config) -> nn.Module:
    """Build the model, so that what is wrong with its config is told before anything else is done.

    Args:
        cfg (Config): The config.

    Returns:
        nn.Module: The model, for :func:`check_checkpoint`; it has no pretrained weights.

    Raises:
        UserError: If it cannot be built or does not fit the training data.
    """
    try:
        return build_model(cfg)
    except ValueError as error:
        raise UserError(str(error)) from None


def check_data(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check that the files of the data sets are there, and what the annotation files say.

    The first process of a distributed job reads the annotations; warnings go to the standard error.

    Args:
        cfg (Config): The config.
        splits (tuple[str, ...]): Of 'train', 'val', 'test', those that will run.

    Raises:
        UserError: At the first folder or file that is missing, or annotation file with errors.
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


def check_pretrained(model: ConfigDict) -> None:
    """Check that the weights a training starts from can be had.

    Args:
        model (ConfigDict): Config of the model.

    Raises:
        UserError: If one is a ``torchvision://`` model and torchvision is not installed, or a file that does not
            exist.
    """
    for name, init_cfg in _init_cfgs(model, 'model'):
        checkpoint = init_cfg.get('checkpoint') or ''
        if checkpoint.startswith('torchvision://') and not importlib.util.find_spec('torchvision'):
            raise UserError(
                f'{name} is {checkpoint}, but torchvision is not installed: install the release that fits your torch '
                f'{torch.__version__}, or start from random weights with --cfg-options {name}=None'
            )
        if checkpoint and not _exists('', checkpoint):
            raise UserError(f'weights not found: {name} is {checkpoint}')
        if checkpoint and _is_local(checkpoint):
            check_checkpoint(checkpoint)


def check_checkpoint(path: str, model: Optional[nn.Module] = None, whole: bool = True) -> None:
    """Check that a checkpoint file is there, can be loaded and fits; addresses (``https://...``) are left to mmengine.

    The first process of a distributed job loads it. So is a folder with the name of a checkpoint left to mmengine, as
    DeepSpeed and FSDP write it, each process its own file.

    Args:
        path (str): Path or address.
        model (nn.Module, optional): What it must fit. Defaults to None: not compared.
        whole (bool): Whether it must have all weights of the model. Defaults to True.

    Raises:
        UserError: If it is not a file, would run code, is damaged or does not fit.
    """
    if Path(path).suffix == '.pth' and Path(path).is_dir():
        return
    if not _exists('', path, Path.is_file):
        folder = Path(path) if Path(path).is_dir() else Path(path).parent
        found = sorted(p.name for p in folder.glob('*.pth')) if folder.is_dir() else []
        hint = f'; {folder} has {", ".join(found)}' if found else ''
        raise UserError(f'checkpoint not found: {path}{hint}')
    if _is_local(path) and _is_first_process():
        try:
            check_weights(path, model, whole)
        except ValueError as error:
            raise UserError(str(error)) from None


def check_writable(what: str, path: Any, is_folder: bool = True) -> None:
    """Check that a folder or file can be written, before hours are spent on what goes there; nothing is made.

    Args:
        what (str): Name of the option or setting; opens the error message.
        path (str | Path): The folder or file.
        is_folder (bool): Whether it is a folder. Defaults to True.

    Raises:
        UserError: If it is of the other kind, cannot be made, or cannot be written to.
    """
    path = Path(path)
    if path.exists() and path.is_dir() != is_folder:
        raise UserError(f'{what} must be a {"folder, got the file" if is_folder else "file, got the folder"} {path}')
    there = path
    while not there.exists():
        there = there.parent
    if there != path and not there.is_dir():
        raise UserError(f'{what}: {path} cannot be made, as {there} is a file')
    if not os.access(there, os.W_OK):
        raise UserError(f'{what}: no permission to write {there}')


@functools.cache
def _warn(text: str) -> None:
    """Say something once."""
    print(f'warning: {text}', file=sys.stderr)


def _tell_problems(problems: Optional[AnnotationProblems]) -> None:
    if problems:
        for text in problems.warnings:
            _warn(text)
        if problems.errors:
            raise UserError('\nerror: '.join(problems.errors))


def _missing_data(what: str, path: Any, where: str) -> UserError:
    return UserError(
        f'{what} not found: {path} ({where} of the config). Put the data there or name its place with '
        '--cfg-options data_root=FOLDER'
    )


def _is_first_process() -> bool:
    return environment_ranks()[0] == '0'


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
