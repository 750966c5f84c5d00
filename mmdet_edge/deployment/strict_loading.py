"""Strict loading: mmengine only warns of a checkpoint that does not fit the config."""

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn


def load_strictly(cfg: Config, checkpoint: str, state_dict: dict[str, torch.Tensor]) -> nn.Module:
    """Build the model of a config for inference and load weights into it.

    Args:
        cfg (Config): Config with the model.
        checkpoint (str): Path of the checkpoint, for the error message only.
        state_dict (dict[str, Tensor]): Weights to load.

    Returns:
        nn.Module: The model, in eval mode.

    Raises:
        ValueError: If the weights are not exactly those of the model.
    """
    # None in mmdet's pure-Python configs.
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    model = MODELS.build(cfg.model)
    try:
        model.load_state_dict(state_dict, strict=True)
    except RuntimeError as error:
        raise ValueError(f'{checkpoint} does not fit the config {cfg.filename}: {error}') from error
    return model.eval()
