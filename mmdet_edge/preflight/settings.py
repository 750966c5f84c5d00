"""Checks of the sections of a config."""

import difflib
import inspect
from collections.abc import Iterable, Sequence

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.runner import Runner

from mmdet_edge.config.types import type_of
from mmdet_edge.errors import UserError


def sections() -> set[str]:
    """Return the sections of a config that mmengine, mmdet's tools and ours read."""
    of_runner = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'}
    return of_runner | {'compile', 'custom_imports', 'find_unused_parameters', 'runner_type', 'tta_model'}


def check_names(names: Iterable[str], known: set[str], where: str, cutoff: float) -> None:
    """Reject near misspellings of known sections: mmengine would take them, and nothing would read them."""
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


NEEDED = {
    'train': ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'),
    'val': (),
    'test': ('model', 'test_dataloader', 'test_cfg', 'test_evaluator'),
}
"""Split -> sections that the runner cannot do without."""


def check_sections(cfg: Config, splits: Sequence[str]) -> None:
    """Check that the config has what the runner cannot do without.

    Args:
        cfg (Config): The config.
        splits (Sequence[str]): Of 'train', 'val', 'test', those that will run.

    Raises:
        UserError: If a section is missing or None.
    """
    for key in (key for split in splits for key in NEEDED[split]):
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
