"""All checks before a start, in the order of what they cost."""

from collections.abc import Mapping, Sequence

from mmengine.config import Config

from .checkpoint import check_checkpoint, check_pretrained
from .data import check_data
from .model import build_model
from .parts import check_parts
from .paths import check_writable
from .settings import check_amp, check_loops, check_metrics, check_sections, check_visualizer


def check(
    cfg: Config,
    splits: Sequence[str],
    checkpoint: str | None = None,
    outputs: Mapping[str, str | None] | None = None,
) -> None:
    """Check config, data and weights before anything starts; nothing is written.

    Warnings go to the standard error.

    Args:
        cfg (Config): The config as it will run; not changed.
        splits (Sequence[str]): Of 'train', 'val', 'test', those that will run.
        checkpoint (str, optional): Weights to test. Defaults to None. To train, ``load_from`` of the config counts.
        outputs (Mapping[str, str | None], optional): Option of the command line -> file that it writes. Defaults to
            None.

    Raises:
        UserError: At the first check that fails. All errors of one annotation file are reported together.
    """
    is_training = 'train' in splits
    check_sections(cfg, splits)
    check_visualizer(cfg)
    if cfg.get('work_dir'):
        check_writable('work dir', cfg.work_dir)
    for option, path in (outputs or {}).items():
        if path:
            check_writable(option, path, is_folder=False)
    if is_training:
        check_amp(cfg)
        check_pretrained(cfg.model)
        checkpoint = cfg.get('load_from')
    check_parts(cfg, splits)
    check_loops(cfg, splits)
    if is_training:
        check_metrics(cfg)
    model = build_model(cfg, splits)
    # To resume or to test takes all weights and the same classes; to fine-tune, one weight is enough.
    whole = not is_training or bool(cfg.get('resume'))
    classes = check_checkpoint(checkpoint, model, whole) if checkpoint else None
    del model
    check_data(cfg, splits, classes if whole else None)
