"""What do the mask losses of a spec cost? Forward and backward of each setting's losses, without the mask head.

All run in turn in one process on the same logits (N, classes, H, W), labels and targets: discs, as losses that compute
distances cost nothing where there is no boundary.
"""

import argparse
import sys
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


def make_steps(spec: Spec, settings: list[str], rois: int, size: int) -> dict[str, Callable[[], Any]]:
    """Return forward and backward of the losses of each setting."""
    generator = torch.Generator().manual_seed(0)
    steps = {}
    for name in settings:
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('spec', type=Path, help="a mask-branch spec of this repository's")
    parser.add_argument('settings', nargs='+', help='settings of the spec')
    parser.add_argument('--rois', type=int, default=64, help='number of masks (default: 64)')
    parser.add_argument('--size', type=int, default=28, help='their height and width (default: 28)')
    parser.add_argument('--repeats', type=int, default=51, help='measured runs of each (default: 51)')
    args = parser.parse_args()
    torch.set_num_threads(1)
    try:
        steps = make_steps(read_spec(args.spec), args.settings, args.rois, args.size)
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f'error: {error}')
    seconds = time_in_turn(steps, args.repeats, 'cpu')
    print(f'{describe_machine("cpu")}; {args.rois} masks; median of {args.repeats} runs in turn\n')
    print('| setting | losses, forward and backward, ms |\n|---|---:|')
    for name, values in seconds.items():
        print(f'| {name} | {1000 * float(np.median(values)):.2f} |')


if __name__ == '__main__':
    main()
