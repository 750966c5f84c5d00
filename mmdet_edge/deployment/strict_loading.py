"""Weights that fit, or an error: mmengine only warns of a checkpoint that does not belong to the config."""

import pickle
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader
from torch import nn


def read_checkpoint(checkpoint: str) -> dict[str, Any]:
    """Read a checkpoint into main memory.

    Args:
        checkpoint (str): Path or address.

    Returns:
        dict[str, Any]: As mmengine writes it, with ``state_dict``; that of a bare state dict too.

    Raises:
        ValueError: If it cannot be read, is refused as unsafe (torch 2.6 and newer), or has no weights.
    """
    try:
        content = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        # Of torch's advice only the line that names what it found.
        reason = next((line.strip() for line in lines if 'GLOBAL' in line), lines[0])
        raise ValueError(
            f'{checkpoint} is no checkpoint of mmengine, is damaged, or holds objects that could run code: {reason}'
        ) from error
    if isinstance(content, dict):
        content = content if 'state_dict' in content else dict(state_dict=content)
        weights = content['state_dict']
        if isinstance(weights, dict) and all(isinstance(value, torch.Tensor) for value in weights.values()):
            return content
    raise ValueError(f'{checkpoint} holds no weights: expected a state dict, or a dict with the key state_dict')


def build_model(cfg: Config, checkpoint: str, state_dict: dict[str, torch.Tensor]) -> nn.Module:
    """Build the model of a config with the weights of a checkpoint.

    Args:
        cfg (Config): The config.
        checkpoint (str): Where the weights are from, for the message.
        state_dict (dict[str, Tensor]): The weights.

    Returns:
        nn.Module: The model, for inference.

    Raises:
        ValueError: If the weights are not exactly those of the model.
    """
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    model = MODELS.build(cfg.model)
    try:
        model.load_state_dict(state_dict, strict=True)
    except RuntimeError as error:
        raise ValueError(f'{checkpoint} does not fit the config {cfg.filename}: {error}') from error
    return model.eval()
