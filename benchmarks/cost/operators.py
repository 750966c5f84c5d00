"""Time mmcv's operators, forward and backward, in one environment, and compare environments.

Run it in an environment with a compiled mmcv and in one where mmdet_edge serves the operators; if the machine has other
work, several times in turn. Give all files to --compare:

    python -m benchmarks.cost.operators --out compiled.json
    python -m benchmarks.cost.operators --out ours.json
    python -m benchmarks.cost.operators --compare compiled.json ours.json

Sizes are those of one level of a small FPN. Operators that compiled mmcv lacks on a CPU are left out there.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# First: it serves the operators where mmcv is not compiled.
import mmdet_edge  # noqa: F401

# isort: split
import numpy as np
import torch
from mmcv import ops
from mmengine.logging import MMLogger
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.cost.timing import describe_machine, time_in_turn
from mmdet_edge.compat.ops import SERVED
from mmdet_edge.errors import UserError, one_line, one_line_errors
from mmdet_edge.preflight.paths import check_writable


def make_calls(device: str) -> dict[str, Callable[[], Any]]:
    """Return for each operator, by name, a function that calls it."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(device)

    def boxes(num: int) -> Tensor:
        corners = random(num, 2) * 500
        return torch.cat([corners, corners + 10 + random(num, 2) * 150], 1)

    features = random(2, 64, 50, 84).requires_grad_()
    rois = torch.cat([(random(256, 1) > 0.5).float(), boxes(256)], 1)
    few, many, scores = boxes(500), boxes(2000), random(2000)
    dets = torch.cat([many, scores[:, None]], 1)
    small = random(2, 64, 25, 42).requires_grad_()
    weight, offset = (random(64, 64, 3, 3) / 100).requires_grad_(), (4 * random(2, 18, 25, 42) - 2).requires_grad_()
    mask = random(2, 9, 25, 42).requires_grad_()
    logits, target = (8 * random(20000, 80) - 4).requires_grad_(), (81 * random(20000)).long()
    kernels = random(2, 25, 50, 84).requires_grad_()

    def with_gradients(function: Callable[[], Tensor], *inputs: Tensor) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(function().sum(), inputs)

    return {
        'RoIAlign 7x7, 256 RoIs': with_gradients(
            lambda: ops.roi_align(features, rois, 7, 0.125, 0, 'avg', True), features
        ),
        'RoIAlign 14x14, 64 RoIs': with_gradients(
            lambda: ops.roi_align(features, rois[:64], 14, 0.125, 0, 'avg', True), features
        ),
        'NMS, 2000 boxes': lambda: ops.nms(many, scores, 0.7),
        'NMS with offset 1, 2000 boxes': lambda: ops.nms(many, scores, 0.7, offset=1),
        'soft NMS, 500 boxes': lambda: ops.soft_nms(few, scores[:500], 0.3, min_score=0.05),
        'nms_match, 2000 boxes': lambda: ops.nms_match(dets, 0.7),
        'deformable convolution': with_gradients(
            lambda: ops.deform_conv2d(small, offset, weight, 1, 1), small, offset, weight
        ),
        'modulated deformable convolution': with_gradients(
            lambda: ops.modulated_deform_conv2d(small, offset, mask, weight, None, 1, 1),
            *(small, offset, mask, weight),
        ),
        'sigmoid focal loss, 20000 x 80': with_gradients(lambda: ops.sigmoid_focal_loss(logits, target), logits),
        'CARAFE, 5x5': with_gradients(lambda: ops.carafe(small, kernels, 5, 1, 2), small, kernels),
    }


def measure(repeats: int, device: str) -> dict[str, list[float]]:
    """Return the time in milliseconds of each run of each operator that works on the device."""
    milliseconds = {}
    for name, call in make_calls(device).items():
        try:
            call()
        except RuntimeError as error:
            if 'implementation for device' not in str(error):
                raise
            print(f'{name}: left out, compiled mmcv has no implementation for {device}')
            continue
        milliseconds[name] = [1000 * s for s in time_in_turn({name: call}, repeats, device)[name]]
    return milliseconds


def compare(paths: list[str]) -> Table:
    """Return a table of the median times in both kinds of environments, and their ratio.

    Args:
        paths (list[str]): Files that ``--out`` has written.

    Raises:
        UserError: If one is not such a file.
    """
    times: dict[bool, dict[str, list[float]]] = {True: {}, False: {}}
    titles = {}
    for path in paths:
        content = _read(path)
        titles[content['ours']] = content['machine']
        for name, values in content['milliseconds'].items():
            times[content['ours']].setdefault(name, []).extend(values)
    table = Table(
        title='\n'.join(f'{"ours" if ours else "compiled"}: {title}' for ours, title in sorted(titles.items()))
    )
    for column in ('operator', 'compiled mmcv, ms', 'ours, ms', 'ours / compiled'):
        table.add_column(column, no_wrap=True)
    for name, values in times[True].items():
        ours, compiled = (float(np.median(v)) if v else None for v in (values, times[False].get(name)))
        row = (f'{compiled:.2f}', f'{ours:.2f}', f'{ours / compiled:.2f}') if compiled else ('-', f'{ours:.2f}', '-')
        table.add_row(name, *row)
    return table


def _read(path: str) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f'--compare needs files that --out has written: {path}: {one_line(error)}') from None
    if not isinstance(content, dict) or not {'machine', 'milliseconds', 'ours'} <= set(content):
        raise UserError(f'--compare needs files that --out has written: {path} has no times of operators')
    return content


@one_line_errors
def main() -> None:
    """Measure and write, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--repeats', type=int, default=15, help='measured runs of each operator (default: 15)')
    parser.add_argument('--device', default='cpu', help='default: cpu')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads (default: 1)')
    parser.add_argument('--out', help='JSON file to write')
    parser.add_argument('--compare', nargs='+', metavar='FILE', help='measure nothing; print the table of these files')
    args = parser.parse_args()
    console = Console()
    console.width = max(console.width, 120)
    if args.compare:
        console.print(compare(args.compare))
        return
    for name in ('repeats', 'threads'):
        if getattr(args, name) < 1:
            raise UserError(f'--{name} must be at least 1, got {getattr(args, name)}')
    if args.out:
        check_writable('output', args.out, is_folder=False)
    torch.set_num_threads(args.threads)
    MMLogger.get_current_instance().setLevel('ERROR')
    milliseconds = measure(args.repeats, args.device)
    for name, values in milliseconds.items():
        print(f'{name}: {np.median(values):.2f} ms')
    if args.out:
        content = dict(
            machine=describe_machine(args.device),
            ours=sys.modules['mmcv._ext'].nms is SERVED['nms'],
            milliseconds=milliseconds,
        )
        Path(args.out).write_text(json.dumps(content, indent=1))


if __name__ == '__main__':
    main()
