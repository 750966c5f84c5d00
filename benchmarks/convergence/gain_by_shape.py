"""Print and draw the gain of settings in boundary IoU over the jaggedness or the size of the masks.

Reads the scores of each RoI that the runs of a mask-branch spec have written, as means over the seeds, and the
ground-truth masks. The jaggedness of a mask is P^2 / (16 A), with its perimeter P along pixel edges and its area A, at
the size of the head's masks: 1 for a square, 1.27 for a disc. With --sizes it is the square root of the area in the
image instead. All bins have the same number of masks. Intervals are
95 % bootstrap intervals over the masks of a bin.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from pycocotools.coco import COCO

from mmdet_edge.errors import UserError, one_line_errors

METRIC = 'boundary_IoU_1px'
COLORS = ('#d55e00', '#0072b2', '#009e73', '#cc79a7')

Gain = tuple[float, float, float]
"""Relative gain in percent, and the ends of its interval."""


def jaggedness(masks: np.ndarray) -> np.ndarray:
    """Return P^2 / (16 A) of masks, (N, H, W), 0 or 1; nan for an empty one. The border of the box is an edge."""
    padded = np.pad(masks.astype(np.int8), ((0, 0), (1, 1), (1, 1)))
    edges = (padded[:, 1:] != padded[:, :-1]).sum((1, 2)) + (padded[:, :, 1:] != padded[:, :, :-1]).sum((1, 2))
    area = masks.sum((1, 2))
    return np.where(area > 0, edges**2 / (16 * np.maximum(area, 1)), np.nan)


def object_sizes(ann_file: str) -> np.ndarray:
    """Return the square root of the area of each object of a COCO file, (N,), pixels, in the order of the RoIs."""
    coco = COCO(ann_file)
    areas = [ann['area'] for image in coco.dataset['images'] for ann in coco.imgToAnns[image['id']]]
    return np.sqrt(areas)


def mean_scores(work_dir: Path, budget: int, setting: str) -> np.ndarray:
    """Return the mean score over the seeds of each mask, (N,).

    Of several learning rates, that with the most runs counts; among these, that with the highest mean.

    Raises:
        UserError: If there are no runs of the setting.
    """
    rates: dict[str, list[np.ndarray]] = {}
    for path in sorted(work_dir.glob(f'runs/{budget}/{setting}_lr*/seed*/scores.npz')):
        rates.setdefault(path.parts[-3], []).append(np.load(path)[METRIC])
    if not rates:
        raise UserError(f'{work_dir}: no scores of {setting} at {budget} iterations; is it a mask-branch work dir?')
    return np.mean(max(rates.values(), key=lambda runs: (len(runs), np.mean(runs))), axis=0)


def gain_in_percent(scores: np.ndarray, baseline: np.ndarray) -> Gain:
    """Return the relative gain of the mean, and its interval over the masks."""
    draws = np.random.default_rng(0).integers(len(scores), size=(2000, len(scores)))
    spread = 100 * (scores[draws].mean(1) / baseline[draws].mean(1) - 1)
    low, high = np.quantile(spread, [0.025, 0.975])
    return float(100 * (scores.mean() / baseline.mean() - 1)), float(low), float(high)


def print_gains(
    name: str, folder: Path, ann_file: str | None, args: argparse.Namespace
) -> list[tuple[float, dict[str, Gain]]]:
    """Print the table of one data set.

    Args:
        name (str): Of the data set.
        folder (Path): Work dir of its mask-branch spec.
        ann_file (str, optional): Where the sizes are; without it the masks are binned by jaggedness.
        args (argparse.Namespace): The command line.

    Returns:
        list[tuple[float, dict[str, Gain]]]: For each bin the median jaggedness or size, and the gain of each setting.

    Raises:
        UserError: If the folder has no masks or no scores, or the file fewer objects than it.
    """
    path = folder / 'features/val/targets.npy'
    if not path.is_file():
        raise UserError(f'{folder}: no ground-truth masks in {path}; is it the work dir of a mask-branch spec?')
    masks = np.load(path)
    shape = object_sizes(ann_file)[: len(masks)] if ann_file else jaggedness(masks)
    if len(shape) < len(masks):
        raise UserError(f'{ann_file}: {len(shape)} objects, but {path} has {len(masks)}; is it that of the validation?')
    order = np.argsort(shape)[: np.isfinite(shape).sum()]
    baseline = mean_scores(folder, args.budget, args.baseline)
    scores = {setting: mean_scores(folder, args.budget, setting) for setting in args.settings}
    print(f'\n{name}: gain of boundary IoU (1 px), {args.budget} iterations\n')
    print(f'| {"size, pixels" if ann_file else "P^2 / (16 A)"} | masks | baseline | ' + ' | '.join(scores) + ' |')
    print('|---|---:|---:' + '|---:' * len(scores) + '|')
    bins = []
    for part in np.array_split(order, args.bins):
        row = {setting: gain_in_percent(values[part], baseline[part]) for setting, values in scores.items()}
        bins.append((float(np.median(shape[part])), row))
        cells = ' | '.join('{:+.1f} % [{:+.1f}, {:+.1f}]'.format(*gain) for gain in row.values())
        span = ' to '.join(f'{shape[i]:.0f}' if ann_file else f'{shape[i]:.2f}' for i in part[[0, -1]])
        print(f'| {span} | {len(part)} | {baseline[part].mean():.3f} | {cells} |')
    return bins


def draw_gains(axes: plt.Axes, name: str, bins: list[tuple[float, dict[str, Gain]]], by_size: bool) -> None:
    """Draw the gains that :func:`print_gains` returns."""
    for color, setting in zip(COLORS, bins[0][1]):
        mean, low, high = np.array([row[setting] for _, row in bins]).T
        x = [median for median, _ in bins]
        axes.errorbar(x, mean, [mean - low, high - mean], fmt='o-', color=color, capsize=3, label=setting)
    axes.axhline(0, color='#333333', linewidth=0.8)
    if by_size:
        axes.set_xscale('log', base=2)
        axes.xaxis.set_major_formatter('{x:g}')
    axes.set(
        title=name,
        xlabel='size, pixels' if by_size else 'jaggedness: P² / (16 A)',
        ylabel='gain of boundary IoU (1 px), %',
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


@one_line_errors
def main() -> None:
    """Print a table for each data set, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dirs', nargs='+', metavar='NAME=WORK_DIR', help='of mask-branch specs, one per data set')
    parser.add_argument('--settings', nargs='+', required=True, help='compared with the baseline')
    parser.add_argument(
        '--sizes', nargs='+', metavar='ANN_FILE', help='bin by size: annotations, one file per data set'
    )
    parser.add_argument('--baseline', default='baseline', help='default: baseline')
    parser.add_argument('--budget', type=int, default=240, help='iterations (default: 240)')
    parser.add_argument('--bins', type=int, default=5, help='default: 5')
    parser.add_argument('--figure', type=Path, help='image file to draw')
    args = parser.parse_args()
    if args.bins < 1:
        raise UserError(f'--bins must be at least 1, got {args.bins}')
    if args.sizes and len(args.sizes) != len(args.work_dirs):
        raise UserError(f'--sizes: expected {len(args.work_dirs)} files, got {len(args.sizes)}')
    ann_files = args.sizes or [None] * len(args.work_dirs)
    figure, grid = plt.subplots(1, len(args.work_dirs), figsize=(4.6 * len(args.work_dirs), 3.6), layout='constrained')
    for axes, argument, ann_file in zip(np.atleast_1d(grid), args.work_dirs, ann_files):
        name, _, folder = argument.rpartition('=')
        draw_gains(axes, name, print_gains(name, Path(folder), ann_file, args), bool(ann_file))
    if args.figure:
        args.figure.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(args.figure, dpi=100)


if __name__ == '__main__':
    main()
