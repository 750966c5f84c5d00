"""Who gains? The boundary IoU of settings beyond the baseline's over how jagged a mask is.

Reads the scores of every RoI that the runs of a mask-branch spec have kept, means over the seeds, and the true masks
beside them. How jagged: P^2 / (16 A) of the true mask at the head's size, P its perimeter along pixels and A its area;
1 for a box, 1.27 for a disc. Bins have equally many masks; intervals are 95 %, over the masks of a bin (bootstrap).
"""

import argparse
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

METRIC = 'boundary_IoU_1px'
COLOURS = ('#d55e00', '#0072b2', '#009e73', '#cc79a7')


def jaggedness(masks: np.ndarray) -> np.ndarray:
    """Return P^2 / (16 A) of masks, (N, H, W), 0 or 1; nan for an empty one. The border of the box is an edge."""
    padded = np.pad(masks.astype(np.int8), ((0, 0), (1, 1), (1, 1)))
    edges = (padded[:, 1:] != padded[:, :-1]).sum((1, 2)) + (padded[:, :, 1:] != padded[:, :, :-1]).sum((1, 2))
    area = masks.sum((1, 2))
    return np.where(area > 0, edges**2 / (16 * np.maximum(area, 1)), np.nan)


def mean_scores(work_dir: Path, budget: int, setting: str) -> np.ndarray:
    """Return the score of each mask, the mean over the seeds; at the learning rate with the most, then best, runs."""
    rates: dict[str, list[np.ndarray]] = {}
    for path in sorted(work_dir.glob(f'runs/{budget}/{setting}_lr*/seed*/scores.npz')):
        rates.setdefault(path.parts[-3], []).append(np.load(path)[METRIC])
    if not rates:
        raise FileNotFoundError(f'{work_dir}: no scores of {setting} at {budget} iterations')
    return np.mean(max(rates.values(), key=lambda runs: (len(runs), np.mean(runs))), axis=0)


def gain_in_percent(scores: np.ndarray, baseline: np.ndarray) -> tuple[float, float, float]:
    """Return the relative gain of the mean, and its interval over the masks."""
    draws = np.random.default_rng(0).integers(len(scores), size=(2000, len(scores)))
    spread = 100 * (scores[draws].mean(1) / baseline[draws].mean(1) - 1)
    low, high = np.quantile(spread, [0.025, 0.975])
    return float(100 * (scores.mean() / baseline.mean() - 1)), float(low), float(high)


def main() -> None:
    """Print a table and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dirs', nargs='+', metavar='NAME=WORK_DIR', help='of convergence.py, one a data set')
    parser.add_argument('--settings', nargs='+', required=True, help='compared with the baseline')
    parser.add_argument('--baseline', default='baseline', help='default: baseline')
    parser.add_argument('--budget', type=int, default=240, help='iterations (default: 240)')
    parser.add_argument('--bins', type=int, default=5, help='default: 5')
    parser.add_argument('--figure', type=Path, help='image file to draw')
    args = parser.parse_args()
    figure, grid = plt.subplots(1, len(args.work_dirs), figsize=(4.6 * len(args.work_dirs), 3.6), layout='constrained')
    try:
        for axes, argument in zip(np.atleast_1d(grid), args.work_dirs):
            name, _, folder = argument.rpartition('=')
            masks = np.load(Path(folder, 'features/val/targets.npy'))
            shape, bins = jaggedness(masks), []
            order = np.argsort(shape)[: np.isfinite(shape).sum()]
            baseline = mean_scores(Path(folder), args.budget, args.baseline)
            print(f'\n{name}: gain of boundary IoU (1 px), {args.budget} iterations\n')
            print('| P^2 / (16 A) | masks | baseline | ' + ' | '.join(args.settings) + ' |')
            print('|---|---:|---:' + '|---:' * len(args.settings) + '|')
            scores = {setting: mean_scores(Path(folder), args.budget, setting) for setting in args.settings}
            for part in np.array_split(order, args.bins):
                row = {s: gain_in_percent(values[part], baseline[part]) for s, values in scores.items()}
                bins.append((float(np.median(shape[part])), row))
                cells = ' | '.join('{:+.1f} % [{:+.1f}, {:+.1f}]'.format(*row[s]) for s in args.settings)
                span = f'{shape[part[0]]:.2f} to {shape[part[-1]]:.2f}'
                print(f'| {span} | {len(part)} | {baseline[part].mean():.3f} | {cells} |')
            for colour, setting in zip(COLOURS, args.settings):
                x = [place for place, _ in bins]
                mean, low, high = (np.array([row[setting][i] for _, row in bins]) for i in range(3))
                axes.errorbar(x, mean, [mean - low, high - mean], fmt='o-', color=colour, capsize=3, label=setting)
            axes.axhline(0, color='#333333', linewidth=0.8)
            axes.set(title=name, xlabel='how jagged: P² / (16 A)', ylabel='gain of boundary IoU (1 px), %')
            axes.grid(alpha=0.3)
            axes.legend(frameon=False)
    except (OSError, ValueError) as error:
        sys.exit(f'error: {error}')
    if args.figure:
        args.figure.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(args.figure, dpi=100)


if __name__ == '__main__':
    main()
