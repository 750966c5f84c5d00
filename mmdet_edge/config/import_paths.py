"""Types of dumped pure-Python configs that mmengine cannot import again."""

from importlib import import_module

from mmengine.config import Config
from mmengine.utils import get_object_from_string

from .types import walk


def repair_import_paths(cfg: Config) -> Config:
    """Replace, in place, the import paths of types that mmengine does not find by their registered names.

    mmengine writes the types of a pure-Python config as import paths, and does not find
    'mmdet.models.losses.smooth_l1_loss.L1Loss' again: mmdet.models.losses has a function with the name of the module.
    """
    for _, part in walk([cfg[key] for key in cfg]):
        given = part.get('type') if isinstance(part, dict) else None
        if isinstance(given, str) and given.count('.') > 1 and get_object_from_string(given) is None:
            module, _, name = given.rpartition('.')
            try:
                getattr(import_module(module), name)
                part['type'] = f'{module.partition(".")[0]}.{name}'
            except (ImportError, AttributeError):
                pass  # Wrong: what builds it reports it.
    return cfg
