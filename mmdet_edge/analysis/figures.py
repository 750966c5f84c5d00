"""Figures that compare runs."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pycocotools.mask as mask_utils
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator, StrMethodFormatter
from mmcv import imread
from pycocotools.coco import COCO

from .comparison import Comparison, Curve
from .runs import Run
from .statistics import lower_is_better

SCORE_THRESHOLD = 0.5
"""Predictions below this score are not drawn."""

MATCH_IOU = 0.5
"""From this mask IoU on a prediction is taken for that of an object."""

COLOURS = ('#333333', '#d55e00', '#0072b2', '#009e73', '#cc79a7', '#e69f00', '#56b4e9')
"""Of the baseline and of the settings after it: tell-apart for the colour-blind too (Okabe and Ito)."""

LINE_STYLES = ('-', '--', ':')
"""Change when all colours are used up."""


def draw_image(axes: Axes, image: np.ndarray, masks: Iterable[np.ndarray] = (), interpolation: str = 'nearest') -> None:
    """Show an image, without a scale, and the outlines of masks.

    Args:
        axes (Axes): Where to draw.
        image (np.ndarray): Shape (H, W, 3), RGB, uint8.
        masks (Iterable[np.ndarray]): Binary masks, (H, W) each. Defaults to none.
        interpolation (str): Of the image, one of matplotlib's. Defaults to 'nearest'.
    """
    height, width = image.shape[:2]
    axes.imshow(image, interpolation=interpolation)
    # A margin, so that the outline closes at the image border.
    x, y = np.arange(-1, width + 1), np.arange(-1, height + 1)
    for mask in masks:
        for colour, line_width in (('black', 2.6), ('yellow', 1.4)):
            axes.contour(x, y, np.pad(mask, 1), levels=[0.5], colors=colour, linewidths=line_width)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks([])


def _plot(axes: Axes, steps: Any, values: Any, **style: Any) -> None:
    """Plot a curve, its points marked if there are few."""
    axes.plot(steps, values, marker='o' if len(steps) < 20 else None, **style)


def _finish(axes: Axes, title: str) -> None:
    """Add what all curves have."""
    axes.set_title(title)
    axes.set_xlabel('training step')
    axes.grid(alpha=0.3)


def _draw_curves(axes: Axes, runs: dict[str, Run], key: str, title: str) -> None:
    for colour, (name, run) in zip(COLOURS, runs.items()):
        _plot(axes, *run.curve(key), label=name, color=colour)
    _finish(axes, title)
    axes.legend()


def _draw_panel(axes: Axes, metric: str, curves: dict[str, Curve], styles: dict[str, dict[str, Any]]) -> None:
    """Draw mean and band of all settings, and what time-to-target aims at."""
    baseline, lowest = next(iter(styles)), math.inf
    for name, curve in curves.items():
        mean, spread = curve.mean, curve.spread
        _plot(axes, curve.steps, mean, **styles[name], markersize=3.5, linewidth=1.6)
        if spread is not None:
            axes.fill_between(curve.steps, mean - spread, mean + spread, color=styles[name]['color'], alpha=0.18, lw=0)
        lowest = min(lowest, float(np.min(mean - (0 if spread is None else spread))))
    if baseline in curves:
        axes.axhline(curves[baseline].mean[-1], color=styles[baseline]['color'], linestyle=(0, (1, 2)), linewidth=1)
    # On two lines: side by side, long names would run into each other.
    _finish(axes, f'{metric}\n({"lower" if lower_is_better(metric) else "higher"} is better)')
    axes.title.set_fontsize(10)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    if lower_is_better(metric) and lowest > 0:
        # The first steps of a loss would flatten the rest.
        axes.set_yscale('log')
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
        axes.yaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_formatter(NullFormatter())


def draw_curves(comparison: Comparison, columns: int = 3) -> Figure:
    """Draw the settings of a comparison over the training steps, one panel per metric.

    Args:
        comparison (Comparison): Smoothed mean over the seeds as a line, standard deviation as a band, the baseline's
            final value, at which time-to-target aims, as a dotted line.
        columns (int): Largest number of panels side by side. Defaults to 3.

    Returns:
        Figure: To be saved, and closed with ``plt.close``.
    """
    columns = min(columns, len(comparison.curves))
    rows = math.ceil(len(comparison.curves) / columns)
    styles: dict[str, dict[str, Any]] = {
        name: dict(
            color=COLOURS[i % len(COLOURS)], linestyle=LINE_STYLES[i // len(COLOURS) % len(LINE_STYLES)], label=name
        )
        for i, name in enumerate(comparison.runs)
    }
    longest = max(map(len, styles))
    legend_columns = max(1, min(len(styles), 40 * columns // (longest + 6)))
    legend_height = 0.22 * math.ceil(len(styles) / legend_columns) + 0.1
    figure = plt.figure(figsize=(max(4.2 * columns, 0.09 * longest + 0.8), 3.25 * rows + legend_height))
    figure.set_layout_engine('constrained', w_pad=0.08, h_pad=0.06)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (metric, curves) in zip(grid, comparison.curves.items()):
        _draw_panel(axes, metric, curves, styles)
    for axes in list(figure.axes)[len(comparison.curves) :]:
        axes.remove()
    lines = [plt.Line2D([], [], **style) for style in styles.values()]
    figure.legend(handles=lines, loc='outside upper left', ncols=legend_columns, frameon=False, borderaxespad=0)
    return figure


def _best_matches(masks: list[dict[str, Any]], truth: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the predicted mask that overlaps each object most, if one does enough.

    Args:
        masks (list[dict]): Predictions, RLE.
        truth (list[dict]): Objects, RLE.

    Returns:
        list[dict]: One mask at most for each object.
    """
    if not masks or not truth:
        return []
    overlaps = mask_utils.iou(masks, truth, [0] * len(truth))
    return [masks[best] for best in {int(column.argmax()) for column in overlaps.T if column.max() >= MATCH_IOU}]


def draw_comparison(
    runs: dict[str, Run],
    predictions: dict[str, list[dict[str, Any]]],
    coco: COCO,
    image_folder: Path,
    path: Path,
    num_images: int = 4,
) -> None:
    """Draw the first images with each run's predictions beside the truth, and the curves below.

    Of each object one prediction is drawn, the one that overlaps it most: duplicates with other boxes would hide it.

    Args:
        runs (dict[str, Run]): Name -> run.
        predictions (dict[str, list[dict]]): Name -> the run's predicted masks in COCO's result format, as CocoMetric
            writes them to ``outfile_prefix``.
        coco (COCO): Annotations of the images.
        image_folder (Path): Where the images are.
        path (Path): File to write; its ending decides the format.
        num_images (int): Number of images, one per column. Defaults to 4.
    """
    rows = ['truth', *runs]
    figure = plt.figure(figsize=(3 * num_images, 3 * len(rows) + 3.4), layout='constrained')
    pictures, curves = figure.subfigures(2, 1, squeeze=False, height_ratios=[3 * len(rows), 3.4]).flat
    grid = pictures.subplots(len(rows), num_images, squeeze=False)
    for column, image_id in enumerate(sorted(coco.imgs)[:num_images]):
        image = imread(str(image_folder / coco.imgs[image_id]['file_name']), channel_order='rgb')
        truth = [coco.annToRLE(annotation) for annotation in coco.imgToAnns[image_id]]
        draw_image(grid[0, column], image, map(mask_utils.decode, truth))
        for row, name in enumerate(runs, start=1):
            masks = [
                result['segmentation']
                for result in predictions[name]
                if result['image_id'] == image_id and result['score'] >= SCORE_THRESHOLD
            ]
            draw_image(grid[row, column], image, map(mask_utils.decode, _best_matches(masks, truth)))
    for row, name in enumerate(rows):
        grid[row, 0].set_ylabel(name, fontsize=16)
    left, right = curves.subplots(1, 2)
    _draw_curves(left, runs, 'loss_mask', 'mask cross entropy in training (the same term in both)')
    _draw_curves(right, runs, 'coco/segm_mAP', 'mask AP on the validation images')
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    plt.close(figure)
