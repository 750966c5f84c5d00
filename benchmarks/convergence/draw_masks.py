"""Draw the masks of objects as settings predict them after the same number of iterations, on their photographs.

Reads what the runs of a mask-branch spec have written. The objects are not chosen by hand: they lie at equal distances
in the order of the gain of the last setting over the first one, from one of the worst to one of the best.
"""

import argparse
from pathlib import Path

import mmcv
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from pycocotools.coco import COCO

from benchmarks.convergence.gain_by_shape import METRIC
from mmdet_edge.analysis.figures import draw_image
from mmdet_edge.analysis.prediction_figures import (
    ADDED_COLOR,
    AGREEING_COLOR,
    MISSED_COLOR,
    Instances,
    paint_errors,
)
from mmdet_edge.errors import UserError, one_line_errors

MARGIN = 0.08
"""What is shown around the box of an object, relative to its sides."""


def read_run(work_dir: Path, budget: int, setting: str, seed: int) -> dict[str, np.ndarray]:
    """Return the scores and ``prob`` of the run with the highest mean over the learning rates.

    Raises:
        UserError: If there is none with masks.
    """
    pattern = f'runs/{budget}/{setting}_lr*/seed{seed}/scores.npz'
    runs = [run for run in map(np.load, sorted(work_dir.glob(pattern))) if 'prob' in run]
    if not runs:
        raise UserError(f'{work_dir}: no {pattern} with masks; is it the work dir of a mask-branch spec?')
    return dict(max(runs, key=lambda run: run[METRIC].mean()))


def choose_objects(gain: np.ndarray, sizes: np.ndarray, num: int, smallest: float) -> np.ndarray:
    """Return the indices of objects at equal distances in the order of their gain, best last.

    Args:
        gain (np.ndarray): Of each object, (N,).
        sizes (np.ndarray): Shorter side of each object's box, (N,), pixels.
        num (int): How many.
        smallest (float): Size below which an object is left out, pixels.

    Raises:
        UserError: If there are fewer objects.
    """
    order = [i for i in np.argsort(gain, kind='stable') if sizes[i] >= smallest]
    if len(order) < num:
        raise UserError(f'--min-size {smallest:g} leaves {len(order)} objects, {num} are to be drawn')
    return np.array(order)[((np.arange(num) + 0.5) / num * len(order)).astype(int)]


def paste(prob: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a mask of the size of the image, (H, W), bool, for probabilities (h, w), 0 to 255, and x1, y1, x2, y2."""
    maps, boxes = torch.from_numpy(prob / 255.0).float()[None, None], torch.from_numpy(box).float()[None]
    return _do_paste_mask(maps, boxes, height, width, skip_empty=False)[0][0].numpy() >= 0.5


def draw_objects(
    coco: COCO,
    image_dir: Path,
    targets: np.ndarray,
    runs: dict[str, dict[str, np.ndarray]],
    chosen: np.ndarray,
    caption: str,
) -> Figure:
    """Return a figure: a column for each object, a row for the ground truth and for each setting."""
    annotations = [ann for image in coco.dataset['images'] for ann in coco.imgToAnns[image['id']]]
    rows = ['ground truth', *runs]
    figure = Figure(figsize=(1.75 * len(chosen), 1.9 * len(rows) + 0.5), layout='constrained')
    grid = figure.subplots(len(rows), len(chosen), squeeze=False)
    for column, i in enumerate(chosen):
        ann = annotations[i]
        image = mmcv.imread(image_dir / coco.imgs[ann['image_id']]['file_name'], channel_order='rgb')
        x, y, w, h = ann['bbox']
        box, truth = np.array([x, y, x + w, y + h]), coco.annToMask(ann).astype(bool)
        target = paste(255 * targets[i].astype(np.uint8), box, *truth.shape)
        if (target & truth).sum() < 0.5 * (target | truth).sum():
            raise UserError(f'object {ann["id"]} is not RoI {i} of the runs: has the data set left an object out?')
        low = np.floor(np.maximum([x - MARGIN * w, y - MARGIN * h], 0)).astype(int)
        high = np.ceil([x + (1 + MARGIN) * w, y + (1 + MARGIN) * h]).astype(int)
        crop = slice(low[1], high[1]), slice(low[0], high[0])
        draw_image(grid[0, column], image[crop], [truth[crop]])
        for axes, run in zip(grid[1:, column], runs.values()):
            masks = (truth, paste(run['prob'][i], box, *truth.shape))
            instances = [Instances(mask[crop][None], np.zeros(1, int)) for mask in masks]
            draw_image(axes, paint_errors(image[crop], *instances))
            axes.set_xlabel(f'boundary IoU {run[METRIC][i]:.2f}')
    for axes, name in zip(grid[:, 0], rows):
        axes.set_ylabel(name)
    colors = dict(agreeing=AGREEING_COLOR, missed=MISSED_COLOR, added=ADDED_COLOR)
    handles = [Patch(color=np.array(color) / 255, label=label) for label, color in colors.items()]
    figure.legend(handles=handles, loc='outside upper center', ncols=3, frameon=False)
    figure.supxlabel(caption, fontsize=8)
    return figure


@one_line_errors
def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dir', type=Path, help='of a mask-branch spec')
    parser.add_argument('ann_file', help='annotations of the validation images')
    parser.add_argument('image_dir', type=Path, help='their folder')
    parser.add_argument('figure', type=Path, help='image file to draw')
    parser.add_argument('--settings', nargs='+', default=['baseline', 'sobel-p2-w3'], help='one row each')
    parser.add_argument('--labels', nargs='+', help='names of the rows (default: the settings)')
    parser.add_argument('--budget', type=int, default=240, help='iterations (default: 240)')
    parser.add_argument('--seed', type=int, default=0, help='of the runs (default: 0)')
    parser.add_argument('--objects', type=int, default=6, help='default: 6')
    parser.add_argument('--min-size', type=float, default=64, help='smallest shorter side, pixels (default: 64)')
    parser.add_argument('--caption', default='', help='below the figure, such as the licence of the photographs')
    args = parser.parse_args()
    labels = args.labels or args.settings
    if len(set(labels)) != len(args.settings):
        raise UserError(f'--labels: expected {len(args.settings)} different names, got {labels}')
    results = [read_run(args.work_dir, args.budget, setting, args.seed) for setting in args.settings]
    coco = COCO(args.ann_file)
    boxes = [ann['bbox'] for image in coco.dataset['images'] for ann in coco.imgToAnns[image['id']]]
    scores = [result[METRIC] for result in results]
    if len(boxes) < len(scores[0]):
        raise UserError(f'{args.ann_file}: {len(boxes)} objects, but the runs have {len(scores[0])}; is it theirs?')
    sizes = np.array(boxes)[: len(scores[0]), 2:].min(1)
    chosen = choose_objects(scores[-1] - scores[0], sizes, args.objects, args.min_size)
    targets = np.load(args.work_dir / 'features/val/targets.npy')
    figure = draw_objects(coco, args.image_dir, targets, dict(zip(labels, results)), chosen, args.caption)
    args.figure.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.figure, dpi=100)
    print(f'figure: {args.figure}')


if __name__ == '__main__':
    main()
