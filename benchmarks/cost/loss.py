"""Measure the edge loss against the mask cross entropy and against the two convolutions that it replaces.

All three run in turn in one process, forward and backward, on the same logits (N, C, H, W), labels and targets:

- "BCE": mmdet's mask cross entropy;
- "edge": EdgeLoss;
- "two convolutions": prediction and target are convolved separately, then the norm of the difference is taken: the
  obvious way to write the edge loss.

With --grow the cost is measured over the number of masks, their size and the number of kernels instead, and drawn.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

# First: it may have to serve the operators without which mmdet cannot be imported.
import mmdet_edge  # noqa: F401

# isort: split
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from mmdet.models.losses.cross_entropy_loss import mask_cross_entropy
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from benchmarks.cost.timing import describe_machine, peak_memory, time_in_turn, time_ratio
from mmdet_edge import EdgeLoss
from mmdet_edge.errors import UserError, one_line_errors
from mmdet_edge.models.losses.edge_filters import EDGE_FILTERS, get_edge_kernels
from mmdet_edge.preflight.paths import check_writable

GROWTH = {
    'masks': [dict(rois=n) for n in (0, 1, 4, 16, 64, 128, 256, 512, 1024)],
    'size': [dict(size=s) for s in (14, 28, 56, 112)],
    # 1, 2, 3, 4, 5, 7 and 9 kernels.
    'kernels': [
        dict(filters=f)
        for f in (
            ['laplacian'],
            ['sobel'],
            ['sobel', 'laplacian'],
            ['sobel', 'prewitt'],
            ['sobel', 'prewitt', 'laplacian'],
            ['sobel', 'prewitt', 'roberts', 'laplacian'],
            list(EDGE_FILTERS),
        )
    ],
}


def two_convolutions(pred: Tensor, target: Tensor, label: Tensor, kernels: Tensor, exponent: float) -> Tensor:
    """Compute the edge loss as it is usually written."""
    prob = pred[torch.arange(len(pred), device=pred.device), label].sigmoid()
    edges = [F.conv2d(masks[:, None], kernels, padding=1) for masks in (prob, target)]
    return (edges[0] - edges[1]).abs().pow(exponent).mean()


def make_steps(
    rois: int, size: int, classes: int, filters: list[str], exponent: float, device: str, compiled: bool = False
) -> dict[str, Callable[[], Any]]:
    """Return forward and backward of each loss, by name; if ``compiled``, also of the edge loss by torch.compile."""
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(rois, classes, size, size, generator=generator).to(device).requires_grad_()
    target = (torch.rand(rois, size, size, generator=generator) > 0.5).float().to(device)
    label = torch.randint(classes, (rois,), generator=generator).to(device)
    edge_loss = EdgeLoss(filters, exponent)
    kernels = torch.tensor(get_edge_kernels(filters), dtype=torch.float32, device=device)[:, None]

    def step(loss: Callable[[], Tensor]) -> Callable[[], Any]:
        # Not backward(): it would leave a gradient, and the next run would be charged for freeing it.
        return lambda: torch.autograd.grad(loss().sum(), pred)

    steps = {
        # mmdet's heads do not call it without a mask.
        'BCE': step(lambda: mask_cross_entropy(pred, target, label) if rois else pred.sum()),
        'edge': step(lambda: edge_loss(pred, target, label)),
        'two convolutions': step(lambda: two_convolutions(pred, target, label, kernels, exponent)),
    }
    if compiled:
        compiled_loss = torch.compile(edge_loss)
        steps['edge compiled'] = step(lambda: compiled_loss(pred, target, label))
    return steps


def measure(inputs: dict, repeats: int, device: str, compiled: bool = False) -> dict:
    """Measure one kind of inputs and return its row."""
    steps = make_steps(**inputs, device=device, compiled=compiled)
    seconds = time_in_turn(steps, repeats, device)
    return dict(
        **inputs,
        milliseconds={name: 1000 * float(np.median(values)) for name, values in seconds.items()},
        edge_to_bce=asdict(time_ratio(seconds['edge'], seconds['BCE'])),
        two_convolutions_to_edge=asdict(time_ratio(seconds['two convolutions'], seconds['edge'])),
        megabytes={name: peak_memory(run, device) / 1e6 for name, run in steps.items()},
    )


def make_table(rows: list[dict], title: str) -> Table:
    """Return the rows as a table."""
    names = [name.replace('two convolutions', '2 convs') for name in rows[0]['milliseconds']]
    columns = ['N', 'size', 'C', 'filters', 'p', *(f'{name} ms' for name in names)]
    columns += ['edge / BCE', '2 convs / edge', *(f'{name} MB' for name in names)]
    table = Table(title=title)
    for column in columns:
        table.add_column(column, no_wrap=column != 'filters')
    for row in rows:
        ratios = ('{median:.2f} [{low:.2f}, {high:.2f}]'.format(**row[k]) for k in row if '_to_' in k)
        table.add_row(
            *map(str, (row['rois'], row['size'], row['classes'], '+'.join(row['filters']), f'{row["exponent"]:g}')),
            *(f'{value:.2f}' for value in row['milliseconds'].values()),
            *ratios,
            *(f'{value:.1f}' for value in row['megabytes'].values()),
        )
    return table


def draw(rows: list[dict], path: Path) -> None:
    """Draw the cost over the number of masks, their size and the number of kernels."""
    axes_of = {'masks': lambda r: r['rois'], 'mask size': lambda r: r['size']}
    axes_of['kernels'] = lambda r: len(get_edge_kernels(r['filters']))
    figure, grid = plt.subplots(1, 3, figsize=(11, 3.6), layout='constrained')
    for axes, (label, value), part in zip(grid, axes_of.items(), GROWTH):
        chosen = [row for row in rows if row['part'] == part]
        x = [value(row) for row in chosen]
        for (name, _), color in zip(chosen[0]['milliseconds'].items(), ('#333333', '#d55e00', '#0072b2')):
            axes.plot(x, [row['milliseconds'][name] for row in chosen], 'o-', color=color, label=name)
        if part != 'kernels':
            axes.set_xscale('symlog' if 0 in x else 'log', base=2)
        axes.set_xticks(x, [str(v) for v in x], rotation=45)
        axes.minorticks_off()
        axes.set_yscale('log')
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    grid[0].set_ylabel('ms, forward and backward')
    grid[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rois', type=int, default=256, help='number of masks (default: 256)')
    parser.add_argument('--size', type=int, default=28, help='their height and width (default: 28)')
    parser.add_argument('--classes', type=int, default=1, help='channels of the logits (default: 1, the hardest)')
    parser.add_argument('--filters', nargs='+', default=['sobel'], choices=list(EDGE_FILTERS), help='default: sobel')
    parser.add_argument('--exponents', nargs='+', type=float, default=[2.0, 1.5], help='default: 2 1.5')
    parser.add_argument('--repeats', type=int, default=51, help='measured runs of each loss (default: 51)')
    parser.add_argument('--device', default='cpu', help='default: cpu')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads (default: 1)')
    parser.add_argument('--compile', action='store_true', help='measure the edge loss under torch.compile too')
    parser.add_argument('--grow', action='store_true', help='measure how the cost grows')
    parser.add_argument('--figure', help='with --grow: image file to draw')
    parser.add_argument('--out', help='JSON file to write')
    return parser.parse_args()


@one_line_errors
def main() -> None:
    """Measure, print, write."""
    args = parse_args()
    if args.figure and not args.grow:
        raise UserError('--figure draws how the cost grows: add --grow')
    for name in ('size', 'classes', 'repeats', 'threads'):
        if getattr(args, name) < 1:
            raise UserError(f'--{name} must be at least 1, got {getattr(args, name)}')
    for path in filter(None, (args.figure, args.out)):
        check_writable('output', path, is_folder=False)
    torch.set_num_threads(args.threads)
    MMLogger.get_current_instance().setLevel('ERROR')
    common = dict(rois=args.rois, size=args.size, classes=args.classes, filters=args.filters)
    cases: list[tuple[str, dict]] = [('', {**common, 'exponent': p}) for p in args.exponents]
    if args.grow:
        common['exponent'] = args.exponents[0]
        cases = [(part, {**common, **change}) for part, changes in GROWTH.items() for change in changes]
    rows = [
        {'part': part, **measure(inputs, args.repeats, args.device, args.compile)}
        for part, inputs in track(cases, 'measuring')
    ]
    title = f'{describe_machine(args.device)}; {args.repeats} runs in turn; median [95 % interval]'
    # Wide enough even if the output goes to a file.
    console = Console()
    console.width = max(console.width, 160)
    console.print(make_table(rows, title))
    if args.figure:
        draw(rows, Path(args.figure))
    if args.out:
        Path(args.out).write_text(json.dumps(dict(machine=describe_machine(args.device), rows=rows), indent=1))


if __name__ == '__main__':
    main()
