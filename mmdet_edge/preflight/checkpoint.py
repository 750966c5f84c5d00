"""Checks of the weights that a run starts from."""

import importlib.util
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseTTAModel
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from mmdet_edge.config.types import type_of, walk
from mmdet_edge.errors import UserError, one_line, some

from .paths import exists, is_local


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read the checkpoint of a model, a path or URL, into main memory, without running what it may hold.

    Returns:
        dict[str, Any]: As mmengine writes it, with ``state_dict``; that of a bare state dict too.

    Raises:
        UserError: If it cannot be loaded, or has no weights; the message says why.
    """
    content = _load(path)
    if isinstance(content, dict):
        content = content if 'state_dict' in content else dict(state_dict=content)
        weights = content['state_dict']
        if isinstance(weights, dict) and any(isinstance(value, torch.Tensor) for value in weights.values()):
            return content
    raise UserError(f'{path} is not a checkpoint of a model: it has no state_dict with weights')


def _check_fit(path: str, model: nn.Module, whole: bool) -> Sequence[str] | None:
    """Load a checkpoint into a model, and return its classes; see :func:`check_checkpoint`."""
    # mmengine loads the weights of a model for test-time augmentation into the one inside.
    model = model.module if isinstance(model, BaseTTAModel) else model
    content = read_checkpoint(path)
    weights = {re.sub(r'^module\.', '', key): value for key, value in content['state_dict'].items()}
    try:
        # Loaded, not compared by name: a model may rename what it is given, as those that learn from a teacher do.
        missing = model.load_state_dict(weights, strict=False).missing_keys
    except RuntimeError as error:
        # The name fits, the shape does not.
        if not whole:
            return None
        raise UserError(
            f'{path} does not fit the model, as if of other classes or another config: {one_line(error)}'
        ) from None
    if {name for name, _ in model.named_parameters()} <= set(missing):
        raise UserError(
            f'nothing in {path} fits the model ({type(model).__name__}); it has {some(sorted(weights), 3)}: it is of '
            'another architecture'
        )
    if whole and missing:
        raise UserError(
            f'{path} lacks {len(missing)} of the {len(model.state_dict())} weights of the model: {some(missing, 3)}. '
            'It is of another architecture, or of a part of the model'
        )
    classes = ((content.get('meta') or {}).get('dataset_meta') or {}).get('classes')
    return classes if isinstance(classes, (list, tuple)) else None


def _load(path: str) -> Any:
    try:
        return CheckpointLoader.load_checkpoint(path, map_location='cpu', logger='silent')
    except pickle.UnpicklingError as error:
        raise UserError(
            f'{path} is not a checkpoint, or holds more than weights and numbers, which could run code; nothing of it '
            f'was run ({_reason(error)})'
        ) from None
    except Exception as error:
        raise UserError(f'{path} cannot be loaded: cut off, damaged or not a checkpoint ({one_line(error)})') from None


def _reason(error: BaseException) -> str:
    """Return what torch's long message says at its core."""
    found = re.search(r'(?:Unsupported|Trying|Can only|a checkpoint may)[^\n]*', f'{error}')
    return (found.group() if found else one_line(error)).split(' was not an allowed')[0]


def check_checkpoint(path: str, model: nn.Module | None = None, whole: bool = True) -> Sequence[str] | None:
    """Check that a checkpoint file is there, can be loaded and fits.

    Left to mmengine: a URL (``https://...``), and a folder with the name of a checkpoint, as DeepSpeed and FSDP write
    it.

    Args:
        path (str): Path or URL.
        model (nn.Module, optional): The model to fit; takes the weights. Defaults to None: not compared.
        whole (bool): Whether every weight of the model must be in the file, as for a test. For training, one that fits
            is enough. Defaults to True.

    Returns:
        Sequence[str] | None: The classes that it was trained on, if a model is given and the file names them.

    Raises:
        UserError: If it is not a file, would run code, is damaged or does not fit.
    """
    if Path(path).suffix == '.pth' and Path(path).is_dir():
        return None
    if not exists('', path, Path.is_file):
        folder = Path(path) if Path(path).is_dir() else Path(path).parent
        found = sorted(p.name for p in folder.glob('*.pth')) if folder.is_dir() else []
        hint = f'; {folder} has {", ".join(found)}' if found else ''
        raise UserError(f'checkpoint not found: {path}{hint}')
    if not is_local(path):
        return None
    if model is not None:
        return _check_fit(path, model, whole)
    _load(path)
    return None


def check_pretrained(model: ConfigDict) -> None:
    """Raise UserError if a model's pretrained weights are a file that is missing or damaged, or need torchvision."""
    for name, part in walk(model, 'model'):
        # The class has another name than in the registry.
        if not isinstance(part, dict) or type_of(part)[1] not in ('Pretrained', 'PretrainedInit'):
            continue
        checkpoint = part.get('checkpoint') or ''
        if checkpoint.startswith('torchvision://') and not importlib.util.find_spec('torchvision'):
            raise UserError(
                f'{name} is {checkpoint}, but torchvision is not installed: install the release that fits your torch '
                f'{torch.__version__}, or start from random weights with --cfg-options {name}=None'
            )
        if checkpoint and not exists('', checkpoint):
            raise UserError(f'weights not found: {name} is {checkpoint}')
        if checkpoint and is_local(checkpoint):
            check_checkpoint(checkpoint)
