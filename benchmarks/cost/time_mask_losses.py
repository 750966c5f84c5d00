"""Time the mask losses of the settings of a spec: forward and backward, without the mask head.

All settings run in turn in one process, on the same logits (N, classes, H, W), labels and targets. The targets are
discs, because losses that compute distances cost nothing without a boundary.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.utils import import_modules_from_strings

from benchmarks.convergence.run_config import make_run_config
from benchmarks.convergence.spec import RunKey, Spec, read_spec
from benchmarks.cost.timing import describe_machine, time_in_turn
from mmdet_edge.errors import UserError, one_line_errors


def make_steps(spec: Spec, settings: list[str], rois: int, size: int) -> dict[str, Callable[[], Any]]:
    """Return for each setting a function that runs its losses forward and backward.

    Args:
        spec (Spec): A mask-branch spec.
        settings (list[str]): Names of its settings.
        rois (int): Number of masks.
        size (int): Height and width of a mask in pixels.

    Raises:
        UserError: If the spec has no such setting.
    """
    generator = torch.Generator().manual_seed(0)
    steps = {}
    for name in settings:
        if name not in spec.settings:
            raise UserError(f'{spec.name} has no setting {name!r}; it has {", ".join(spec.settings)}')
        cfg = make_run_config(spec, RunKey(name, None, None, 0), {})
        import_modules_from_strings(**cfg.custom_imports)
        head = MODELS.build(cfg.model.mask_head)
        pred = torch.randn(rois, head.num_classes, size, size, generator=generator).requires_grad_()
        label = torch.randint(head.num_classes, (rois,), generator=generator)
        centre, radius = torch.rand(2, rois, 1, 1, generator=generator) * size / 2 + size / 4
        y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing='ij')
        target = ((x - centre) ** 2 + (y - size / 2) ** 2 < radius**2).float()
        losses = [head.loss_mask, *filter(None, [getattr(head, 'loss_edge', None)])]
        steps[name] = lambda parts=losses, args=(pred, target, label): torch.autograd.grad(
            sum(part(*args).sum() for part in parts), args[0]
        )
    return steps


@one_line_errors
def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('spec', type=Path, help='a mask-branch spec of this repository')
    parser.add_argument('settings', nargs='+', help='settings of the spec')
    parser.add_argument('--rois', type=int, default=64, help='number of masks (default: 64)')
    parser.add_argument('--size', type=int, default=28, help='height and width of a mask (default: 28)')
    parser.add_argument('--repeats', type=int, default=51, help='measured runs of each (default: 51)')
    args = parser.parse_args()
    torch.set_num_threads(1)
    steps = make_steps(read_spec(args.spec), args.settings, args.rois, args.size)
    seconds = time_in_turn(steps, args.repeats, 'cpu')
    print(f'{describe_machine("cpu")}; {args.rois} masks; median of {args.repeats} runs in turn\n')
    print('| setting | losses, forward and backward, ms |\n|---|---:|')
    for name, values in seconds.items():
        print(f'| {name} | {1000 * float(np.median(values)):.2f} |')


if __name__ == '__main__':
    main()
