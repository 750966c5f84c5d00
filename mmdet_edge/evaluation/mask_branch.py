"""The quality of the mask branch alone: ground-truth boxes and labels as RoIs.

A mask AP mixes the quality of the boxes with that of the masks. With ground-truth boxes only the mask branch remains,
and the noise of short training runs falls by an order of magnitude: the way to compare mask losses.

Shape letters: K instances of an image, C channels of the mask head, h and w size of its masks, H and W of the image.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.models.detectors import BaseDetector
from mmdet.models.roi_heads import SparseRoIHead
from mmdet.structures.bbox import get_box_tensor
from mmengine.dist import broadcast_object_list, collect_results
from mmengine.structures import InstanceData
from torch import Tensor, nn

from .boundary_coco_eval import mask_boundary

IOU_THRESHOLDS = (0.5, 0.75, 0.85)
"""Fractions of instances with a better IoU are reported."""

BOUNDARY_WIDTHS = (1, 2)
"""Widths of the boundary band in pixels, of the head's mask and of the image."""


class NoInstancesError(ValueError):
    """The validation set has no instance to evaluate the mask branch with."""


@contextmanager
def ground_truth_boxes(roi_head: Any, boxes: list[InstanceData]) -> Iterator[list]:
    """Let a RoI head use given boxes instead of those that its box branch predicts.

    The head predicts the masks in its own way, so that this works for standard, cascade and HTC heads.

    Args:
        roi_head (nn.Module): RoI head of a two-stage detector, with a mask branch.
        boxes (list[:obj:`InstanceData`]): ``bboxes``, ``labels`` and ``scores`` of each image.

    Yields:
        list: Receives the input of the mask head's prediction: (mask predictions per image, whether they are
        probabilities already).
    """
    heads = roi_head.mask_head
    head: Any = heads[-1] if isinstance(heads, nn.ModuleList) else heads
    predict_by_feat = head.predict_by_feat
    captured: list[tuple[Any, bool]] = []

    def capture(mask_preds: Any, *args: Any, activate_map: bool = False, **kwargs: Any) -> Any:
        captured.append((mask_preds, activate_map))
        return predict_by_feat(mask_preds, *args, activate_map=activate_map, **kwargs)

    patch_boxes = patch.object(roi_head, 'predict_bbox', lambda *args, **kwargs: boxes)
    with patch_boxes, patch.object(head, 'predict_by_feat', capture):
        yield captured


def boundary_iou(first: np.ndarray, second: np.ndarray, width: int) -> float:
    """Return the IoU of the boundary bands of two binary masks, (H, W), uint8; 1 if both are empty.

    The bands are ``width`` pixels wide and lie inside the masks.
    """
    bands = mask_boundary(first, width), mask_boundary(second, width)
    union = np.count_nonzero(bands[0] | bands[1])
    return np.count_nonzero(bands[0] & bands[1]) / union if union else 1.0


def _crop_to_both(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Crop two masks of an image to their union, with a margin of zeros, so that the image border is an edge too."""
    rows, columns = (np.flatnonzero((first | second).any(axis)) for axis in (1, 0))
    if len(rows) == 0:
        return first[:0, :0], second[:0, :0]
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return np.pad(first[box], 1), np.pad(second[box], 1)


def score_mask(prob: Tensor, target: Tensor, threshold: float = 0.5) -> dict[str, float]:
    """Return the metrics of one instance at the size of the head's masks.

    ``prob`` has the predicted probabilities and ``target`` is 0 or 1, both (h, w), on the CPU. A pixel belongs to the
    mask from the probability ``threshold`` on.

    Returns:
        dict[str, float]: ``mIoU``; for each IoU threshold whether the IoU is above it, as 0 or 1 (``IoU_75``, ...);
        ``boundary_IoU_1px`` and ``_2px``, with bands that are as many pixels of the head's mask wide; ``BCE``.
    """
    mask, goal = (prob >= threshold).numpy().astype(np.uint8), target.numpy().astype(np.uint8)
    union = np.count_nonzero(mask | goal)
    iou = np.count_nonzero(mask & goal) / union if union else 1.0
    scores = {'mIoU': iou, **{f'IoU_{round(100 * t)}': float(iou > t) for t in IOU_THRESHOLDS}}
    for width in BOUNDARY_WIDTHS:
        scores[f'boundary_IoU_{width}px'] = boundary_iou(mask, goal, width)
    scores['BCE'] = F.binary_cross_entropy(prob, target).item()
    return scores


def mask_targets(instances: InstanceData, size: tuple[int, int]) -> Tensor:
    """Return the targets of a mask head for ground-truth boxes as RoIs: (K, h, w), float32, 0 or 1, on the CPU.

    ``instances`` has ``bboxes`` and ``masks``; ``size`` is the height and width of the head's masks.
    """
    boxes = get_box_tensor(instances.bboxes).cpu().numpy()
    cropped = instances.masks.crop_and_resize(boxes, size, np.arange(len(boxes)), device='cpu', binarize=True)
    return cropped.to_tensor(torch.float32, 'cpu')


def _score_image(prob: Tensor, sample: Any, pasted: Tensor, threshold: float) -> list[dict[str, float]]:
    """Return the metrics of all instances of an image; ``prob`` is (K, h, w), ``pasted`` (K, H, W)."""
    truth = sample.gt_instances
    targets = mask_targets(truth, (prob.shape[-2], prob.shape[-1]))
    pasted_masks = pasted.cpu().numpy().astype(np.uint8)
    # If Pad came after the annotations, the masks are padded, on the right and at the bottom, and predictions are not.
    masks = truth.masks.to_ndarray().astype(np.uint8)[:, : pasted.shape[1], : pasted.shape[2]]
    scores = []
    for p, target, pasted_mask, mask in zip(prob, targets, pasted_masks, masks):
        at_head = score_mask(p, target, threshold)
        bce = at_head.pop('BCE')
        crops = _crop_to_both(pasted_mask, mask)
        in_image = {f'image_boundary_IoU_{width}px': boundary_iou(*crops, width) for width in BOUNDARY_WIDTHS}
        scores.append({**at_head, **in_image, 'BCE': bce})
    return scores


def ground_truth_rois(samples: list[Any]) -> tuple[list[InstanceData], bool]:
    """Return the ground-truth boxes of preprocessed samples in the form and scale in which a RoI head predicts boxes.

    Returns:
        tuple[list[:obj:`InstanceData`], bool]: ``bboxes``, ``labels`` and ``scores`` of each image, and whether the
        annotations have the size of the original images.
    """
    # Annotations loaded after Resize, as in mmdet's test pipelines, have the size of the original image. How far it
    # was resized is in scale_factor: img_shape is the size after Pad.
    sizes = [(sample.gt_instances.masks.height, sample.gt_instances.masks.width) for sample in samples]
    in_original_size = all(size == tuple(sample.ori_shape[:2]) for size, sample in zip(sizes, samples))
    boxes = []
    for sample in samples:
        tensor = get_box_tensor(sample.gt_instances.bboxes)
        scale = sample.scale_factor if in_original_size else (1.0, 1.0)
        boxes.append(
            InstanceData(
                bboxes=tensor * tensor.new_tensor([*scale, *scale]),
                labels=sample.gt_instances.labels,
                scores=tensor.new_ones(len(tensor)),
            )
        )
    return boxes, in_original_size


def check_mask_branch(model: nn.Module, sample: Any) -> None:
    """Raise ValueError if the mask branch of a model, unwrapped, cannot be evaluated.

    It needs a RoI head with a mask branch whose masks come from boxes, and ``sample``, of the validation data, with
    masks.
    """
    if not getattr(model, 'with_mask', False) or not hasattr(model, 'roi_head'):
        raise ValueError(f'{type(model).__name__} has no RoI head with a mask branch')
    if isinstance(model.roi_head, SparseRoIHead):
        raise ValueError(
            f'the mask branch of {type(model).__name__} cannot be evaluated with ground-truth boxes: it predicts the '
            'masks of its own queries, not those of boxes'
        )
    if 'masks' not in sample.get('gt_instances', {}):
        raise ValueError(
            'the mask branch is evaluated with ground-truth boxes and masks, and the data samples have none: the '
            "pipeline needs dict(type='LoadAnnotations', with_bbox=True, with_mask=True)"
        )


@torch.no_grad()
def score_batch(model: BaseDetector, batch: dict) -> list[list[dict[str, float]]]:
    """Return the metrics of each instance of each image of a batch.

    Args:
        model (BaseDetector): Two-stage detector with an FCN-like mask head, in evaluation mode.
        batch (dict): A batch of the dataloader; its samples must have ``gt_instances`` with masks.
    """
    data = model.data_preprocessor(batch, False)
    samples = data['data_samples']
    check_mask_branch(model, samples[0])
    boxes, rescale = ground_truth_rois(samples)
    features = model.extract_feat(data['inputs'])
    with ground_truth_boxes(model.roi_head, boxes) as captured:
        predicted = model.roi_head.predict(features, boxes, samples, rescale=rescale)
    threshold = model.roi_head.test_cfg.mask_thr_binary
    results: list[list[dict[str, float]]] = []
    for index, sample in enumerate(samples):
        labels = sample.gt_instances.labels
        if len(labels) == 0:
            results.append([])
            continue
        mask_preds, are_probabilities = captured[0]
        channels = mask_preds[index]
        chosen = labels if channels.shape[1] > 1 else torch.zeros_like(labels)
        prob = channels[torch.arange(len(labels), device=channels.device), chosen].float()
        prob = (prob if are_probabilities else prob.sigmoid()).cpu()
        results.append(_score_image(prob, sample, predicted[index].masks, threshold))
    return results


def evaluate_mask_branch(model: BaseDetector, dataloader: Iterable, num_images: int) -> dict[str, float]:
    """Evaluate the mask branch with ground-truth boxes and labels as RoIs.

    Works for any two-stage detector with an FCN-like mask head (Mask R-CNN, Cascade, HTC, but not QueryInst; with or
    without edge loss), also distributed: every rank evaluates its part of the images.

    Args:
        model (BaseDetector): The detector, unwrapped.
        dataloader (Iterable): Batches of the validation set, with annotations.
        num_images (int): Number of images in the validation set, in all ranks together.

    Returns:
        dict[str, float]: Means over the instances (crowds left out), the same in every rank:

            - mIoU: IoU of mask and target at the size of the head's masks;
            - IoU_50, IoU_75, IoU_85: fraction of instances with an IoU above 0.5, 0.75, 0.85;
            - boundary_IoU_1px, boundary_IoU_2px: IoU of the inner boundaries, 1 and 2 pixels wide, at that size;
            - image_boundary_IoU_1px, image_boundary_IoU_2px: the same after pasting the mask into the image;
            - BCE: binary cross entropy per pixel, at the size of the head's masks;
            - num_instances: how many.

    Raises:
        ValueError: If the model has no mask branch, or the samples have no masks.
        NoInstancesError: If the data set has no instance.
    """
    training = model.training
    model.eval()
    try:
        images = [scores for batch in dataloader for scores in score_batch(model, batch)]
    finally:
        model.train(training)
    gathered = collect_results(images, num_images, 'cpu')
    means: list = [None]
    if gathered is not None:
        instances = [scores for image in gathered for scores in image]
        if instances:
            means = [{name: float(np.mean([s[name] for s in instances])) for name in instances[0]}]
            means[0]['num_instances'] = len(instances)
    broadcast_object_list(means)
    if means[0] is None:
        raise NoInstancesError('the validation set has no instance to evaluate the mask branch with')
    return means[0]
