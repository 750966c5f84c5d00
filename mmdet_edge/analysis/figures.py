"""Figures that compare runs."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pycocotools.mask as mask_utils
from matplotlib.axes import Axes
from mmcv import imread
from pycocotools.coco import COCO

from .runs import Run

SCORE_THRESHOLD = 0.5
"""Predictions below this score are not drawn."""


def _draw_masks(axes: Axes, image: np.ndarray, masks: list[np.ndarray]) -> None:
    """Show an image with the outlines of masks."""
    axes.imshow(image, interpolation='nearest')
    for mask in masks:
        # A margin, so that the outline closes at the image border.
        height, width = mask.shape
        x, y = np.arange(-1, width + 1), np.arange(-1, height + 1)
        for colour, line_width in (('black', 2.6), ('yellow', 1.4)):
            axes.contour(x, y, np.pad(mask, 1), levels=[0.5], colors=colour, linewidths=line_width)
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(image.shape[0] - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_curves(axes: Axes, runs: dict[str, Run], key: str, title: str) -> None:
    for name, run in runs.items():
        steps, values = run.curve(key)
        axes.plot(steps, values, marker='o' if len(steps) < 20 else None, label=name)
    axes.set_title(title)
    axes.set_xlabel('training step')
    axes.grid(alpha=0.3)
    axes.legend()


def draw_comparison(
    runs: dict[str, Run],
    predictions: dict[str, list[dict[str, Any]]],
    coco: COCO,
    image_folder: Path,
    path: Path,
    num_images: int = 4,
) -> None:
    """Draw the first images with each run's predictions beside the truth, and the curves below.

    Args:
        runs (dict[str, Run]): Name -> run.
        predictions (dict[str, list[dict]]): Name -> what ``tools/test.py --out`` wrote for that run.
        coco (COCO): Annotations of the images.
        image_folder (Path): Where the images are.
        path (Path): File to write; its ending decides the format.
        num_images (int): Number of images, one per column. Defaults to 4.
    """
    rows = ['truth', *runs]
    figure = plt.figure(figsize=(3 * num_images, 3 * len(rows) + 3.4), layout='constrained')
    pictures, curves = figure.subfigures(2, 1, squeeze=False, height_ratios=[3 * len(rows), 3.4]).flat
    grid = pictures.subplots(len(rows), num_images, squeeze=False)
    by_image = {
        name: {sample['img_id']: sample['pred_instances'] for sample in samples}
        for name, samples in predictions.items()
    }
    for column, image_id in enumerate(sorted(coco.imgs)[:num_images]):
        image = imread(str(image_folder / coco.imgs[image_id]['file_name']), channel_order='rgb')
        _draw_masks(grid[0, column], image, [coco.annToMask(a) for a in coco.imgToAnns[image_id]])
        for row, name in enumerate(runs, start=1):
            instances = by_image[name][image_id]
            keep = (instances['scores'] >= SCORE_THRESHOLD).nonzero().flatten().tolist()
            _draw_masks(grid[row, column], image, [mask_utils.decode(instances['masks'][i]) for i in keep])
    for row, name in enumerate(rows):
        grid[row, 0].set_ylabel(name, fontsize=16)
    left, right = curves.subplots(1, 2)
    _draw_curves(left, runs, 'loss_mask', 'mask cross entropy in training (the same term in both)')
    _draw_curves(right, runs, 'coco/segm_mAP', 'mask AP on the validation images')
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    plt.close(figure)
