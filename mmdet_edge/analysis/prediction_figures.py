"""Figures that compare the predictions of two models, A and B, on the same images.

Shape letters: G ground-truth objects, P predicted objects, H and W image height and width.
"""

import random
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mmdet.datasets.transforms import LoadAnnotations
from mmengine.dataset import BaseDataset

from .figures import draw_image

MISSED_COLOR = (0, 90, 255)
"""Blue: in the ground truth, not in the prediction."""

ADDED_COLOR = (255, 60, 0)
"""Red: in the prediction, not in the ground truth."""

AGREEING_COLOR = (255, 220, 60)
"""Yellow, a light tint: in both."""

DPI = 100


@dataclass
class Instances:
    """The objects of an image.

    Attributes:
        masks (np.ndarray): Shape (N, H, W), bool.
        labels (np.ndarray): Classes, (N,), integer.
    """

    masks: np.ndarray
    labels: np.ndarray


@dataclass
class ImageComparison:
    """How well A and B found the objects of one image.

    Attributes:
        image_id (int | str): Id of the image in its data set.
        index (int): Position of the image in its data set.
        ious_a (np.ndarray): For each ground-truth object the mask IoU of A's best matching prediction, (G,).
        ious_b (np.ndarray): The same of B.
    """

    image_id: int | str
    index: int
    ious_a: np.ndarray
    ious_b: np.ndarray

    @property
    def mean_a(self) -> float | None:
        """Mean IoU of A; None without objects."""
        return float(self.ious_a.mean()) if len(self.ious_a) else None

    @property
    def mean_b(self) -> float | None:
        """Mean IoU of B; None without objects."""
        return float(self.ious_b.mean()) if len(self.ious_b) else None

    @property
    def difference(self) -> float:
        """Mean over the objects of ``|IoU of A - IoU of B|``: 0 without objects."""
        return float(np.abs(self.ious_a - self.ious_b).mean()) if len(self.ious_a) else 0.0

    @property
    def better(self) -> str | None:
        """'A' or 'B', the one with the higher mean IoU; None if they are equal."""
        total_a, total_b = self.ious_a.sum(), self.ious_b.sum()
        return None if total_a == total_b else 'A' if total_a > total_b else 'B'


def load_truth(dataset: BaseDataset, index: int) -> Instances:
    """Read the ground-truth objects of an image of mmdet's data set, at the size of the image; without crowds.

    The pipeline of the data set is not used. ``index`` is the position of the image.
    """
    info = dataset.get_data_info(index)
    info['ori_shape'] = (info['height'], info['width'])
    results = LoadAnnotations(with_bbox=True, with_mask=True)(info)
    keep = ~results['gt_ignore_flags']
    masks = results['gt_masks'].to_ndarray().astype(bool)
    return Instances(masks[keep], results['gt_bboxes_labels'][keep])


def mask_ious(truth: Instances, prediction: Instances) -> np.ndarray:
    """Compute the IoU of each object with each prediction, (G, P), float; 0 where the classes differ.

    Raises:
        ValueError: If the masks differ in size.
    """
    if truth.masks.shape[1:] != prediction.masks.shape[1:] and len(truth.masks) and len(prediction.masks):
        raise ValueError(
            f'mask_ious: the masks must have one size, got {truth.masks.shape[1:]} in the ground truth and '
            f'{prediction.masks.shape[1:]} predicted. Height and width in the annotation file may not be those of the '
            'image'
        )
    if not len(truth.masks) or not len(prediction.masks):
        return np.zeros((len(truth.masks), len(prediction.masks)))
    codes = [
        [mask_utils.encode(np.asfortranarray(mask, np.uint8)) for mask in instances.masks]
        for instances in (truth, prediction)
    ]
    ious = np.asarray(mask_utils.iou(*codes, [0] * len(codes[1])))
    return np.where(truth.labels[:, None] == prediction.labels[None], ious, 0.0)


def best_ious(truth: Instances, prediction: Instances) -> np.ndarray:
    """Return each object's mask IoU with the best matching prediction of its class, (G,); 0 if none touches it."""
    return mask_ious(truth, prediction).max(axis=1, initial=0.0)


def error_maps(truth: Instances, prediction: Instances) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pixels that are missed, added and agreeing, each (H, W), bool, disjoint.

    An object is compared with the best matching prediction of its class, a prediction with the best matching object.
    An object or prediction without a match is missed or added as a whole, so that an object predicted as another class
    is both. There, and where objects overlap, missed goes before added, and both go before agreeing.
    """
    ious = mask_ious(truth, prediction)
    missed, added, agreeing = np.zeros((3, *truth.masks.shape[1:]), bool)
    for mask, row in zip(truth.masks, ious):
        found = prediction.masks[row.argmax()] if row.max(initial=0) > 0 else np.zeros_like(mask)
        missed |= mask & ~found
        agreeing |= mask & found
    for mask, column in zip(prediction.masks, ious.T):
        added |= mask & ~truth.masks[column.argmax()] if column.max(initial=0) > 0 else mask
    return missed, added & ~missed, agreeing & ~missed & ~added


def paint_errors(image: np.ndarray, truth: Instances, prediction: Instances) -> np.ndarray:
    """Color the errors in a pale gray copy of an image, (H, W, 3), RGB, uint8.

    Missed and added pixels are in :data:`MISSED_COLOR` and :data:`ADDED_COLOR`, agreeing ones tinted with
    :data:`AGREEING_COLOR`; see :func:`error_maps`.
    """
    missed, added, agreeing = error_maps(truth, prediction)
    gray = image.mean(axis=2, keepdims=True).repeat(3, axis=2) * 0.6 + 255 * 0.3
    gray[agreeing] = 0.7 * gray[agreeing] + 0.3 * np.array(AGREEING_COLOR)
    gray[missed] = MISSED_COLOR
    gray[added] = ADDED_COLOR
    return gray.round().astype(np.uint8)


def choose_images(
    comparisons: Sequence[ImageComparison], num_images: int, seed: int = 0
) -> tuple[list[ImageComparison], list[ImageComparison]]:
    """Choose the images in which two models differ most, and random ones; at most ``num_images`` of each.

    The random ones are drawn from all images, also those of the first list: they show how the models differ on average.

    Returns:
        tuple[list[ImageComparison], list[ImageComparison]]: By falling difference, then by id; images without any
        difference are left out. And the random ones, by id.
    """
    by_id = sorted(comparisons, key=lambda c: c.image_id)
    different = [c for c in sorted(by_id, key=lambda c: -c.difference) if c.difference > 0]
    # Chosen by id, whatever the order of the data set.
    chosen = random.Random(seed).sample(range(len(by_id)), min(num_images, len(by_id)))
    return different[:num_images], [by_id[i] for i in sorted(chosen)]


def draw_predictions(
    image: np.ndarray,
    truth: Instances,
    predictions: Sequence[Instances],
    names: Sequence[str],
    comparison: ImageComparison,
    path: Path,
    title: str = '',
) -> None:
    """Draw an image three times: errors of A, ground truth, errors of B.

    Args:
        image (np.ndarray): Shape (H, W, 3), RGB, uint8.
        truth (Instances): The objects.
        predictions (Sequence[Instances]): Predictions of A and B.
        names (Sequence[str]): Names of A and B.
        comparison (ImageComparison): The scores to write above.
        path (Path): File to write; its ending decides the format.
        title (str): Heading of the figure. Defaults to ''.
    """
    height, width = image.shape[:2]
    # Errors are a pixel or two wide: enlarge the image as far as the size of the figure allows.
    panel = float(np.clip(1.5 * width, 480, 1500))
    font = 11 * max(1, panel / 640)
    figure = Figure(
        figsize=((3 * panel + 60) / DPI, (panel * height / width + 12 * font) / DPI), dpi=DPI, layout='constrained'
    )
    panels = figure.subplots(1, 3)
    interpolation = 'nearest' if width <= panel else 'auto'
    means = [comparison.mean_a, comparison.mean_b]
    for axes, letter, name, prediction, mean in zip(panels[::2], 'AB', names, predictions, means):
        draw_image(axes, paint_errors(image, truth, prediction), interpolation=interpolation)
        score = 'no objects' if mean is None else f'mean mask IoU {mean:.3f}'
        axes.set_title(f'{textwrap.fill(f"{letter}: {name}", int(panel / font * 1.35))}\n{score}', fontsize=font)
    draw_image(panels[1], image, truth.masks, interpolation)
    count = len(truth.masks)
    panels[1].set_title(f'ground truth\n{count} object{"" if count == 1 else "s"}', fontsize=font)
    figure.suptitle(title, fontsize=1.2 * font)
    # Tinted as lightly as in the image, on a medium gray.
    tint = tuple(0.3 * channel + 0.7 * 150 for channel in AGREEING_COLOR)
    patches = [
        Patch(color='#{:02x}{:02x}{:02x}'.format(*map(round, color)), label=label)
        for color, label in (
            (MISSED_COLOR, 'missed: object not predicted here'),
            (ADDED_COLOR, 'added: predicted outside its object'),
            (tint, 'agreeing'),
        )
    ]
    figure.legend(handles=patches, loc='outside lower center', ncols=3, frameon=False, fontsize=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def describe(comparison: ImageComparison) -> dict[str, Any]:
    """Return the scores of an image, for JSON: mean IoU of A and B, and the mean difference of the objects' IoU."""
    return dict(
        image_id=comparison.image_id,
        num_objects=len(comparison.ious_a),
        mean_iou_a=comparison.mean_a,
        mean_iou_b=comparison.mean_b,
        difference=comparison.difference,
        better=comparison.better,
    )
