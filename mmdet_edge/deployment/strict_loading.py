"""Strict loading: mmengine only warns of a checkpoint that does not fit the config."""

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn


def load_strictly(cfg: Config, checkpoint: str, state_dict: dict[str, torch.Tensor]) -> nn.Module:
    """Return the model of a config, in eval mode, with the weights ``state_dict`` of the file ``checkpoint``.

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
