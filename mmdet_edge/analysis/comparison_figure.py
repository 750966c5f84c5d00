"""The figure of the demo: the first images with the predictions of several runs, and the curves of the runs."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pycocotools.mask as mask_utils
from mmcv import imread
from pycocotools.coco import COCO

from .figures import draw_band, draw_image, line_styles, title_panel
from .runs import Run

SCORE_THRESHOLD = 0.5
"""Predictions below this score are not drawn."""

MATCH_IOU = 0.5
"""Mask IoU from which a prediction counts as that of an object."""


def _best_matches(masks: list[dict[str, Any]], truth: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each object (RLE) the predicted mask (RLE) that overlaps it most, if it does by :data:`MATCH_IOU`."""
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
    """Draw the first images with each run's predictions below the ground truth, and the curves of the runs.

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
    rows = ['ground truth', *runs]
    figure = plt.figure(figsize=(3 * num_images, 3 * len(rows) + 3.4), layout='constrained')
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[3 * len(rows), 3.4]).flat
    grid = upper.subplots(len(rows), num_images, squeeze=False)
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
    titles = {
        'loss_mask': 'mask cross entropy in training (the same term in both)',
        'coco/segm_mAP': 'mask AP on the validation images',
    }
    for axes, (metric, title) in zip(lower.subplots(1, 2), titles.items()):
        for style, run in zip(line_styles(list(runs)).values(), runs.values()):
            iterations, values = run.curve(metric)
            draw_band(axes, iterations, np.array(values), 0.0, style)
        title_panel(axes, title, metric)
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    plt.close(figure)
