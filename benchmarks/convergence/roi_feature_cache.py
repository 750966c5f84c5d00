"""Caching the inputs and targets of the mask head of a trained detector.

Shape letters as in roi_feature_dataset.py.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.registry import MODELS
from mmdet.structures.bbox import get_box_tensor
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, load_checkpoint, set_random_seed
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdet_edge.evaluation.mask_branch import check_mask_branch, ground_truth_boxes, ground_truth_rois, mask_targets

from .roi_feature_dataset import save_roi_features

RoIs = tuple[Tensor, Tensor, Tensor]
"""Features (N, C, h, w), targets (N, H, W), labels (N,)."""


@torch.no_grad()
def cache_roi_features(
    cfg: Config,
    checkpoint: str | Path,
    folder: str | Path,
    num_train: int,
    num_val: int,
    jitter: float,
    report: Callable[[float], None] = lambda fraction: None,
) -> None:
    """Write the RoI features of a trained detector: training RoIs, and ground-truth boxes for validation.

    The training part is what the detector's own pipeline and sampler give (its weights frozen, batch normalization in
    evaluation mode) for jittered ground-truth boxes beside the exact ones, so that the mask branch is measured and not
    the RPN of a short training run. The validation part has the ground-truth boxes and labels, as in
    :func:`mmdet_edge.evaluation.evaluate_mask_branch`.

    Args:
        cfg (Config): The detector and its data.
        checkpoint (str | Path): Its weights.
        folder (str | Path): Receives train/ and val/ (see :class:`RoIFeatureDataset`); val/ is written last.
        num_train (int): Number of training RoIs; images are repeated, with new augmentation, until there are as many.
        num_val (int): Number of validation RoIs at most.
        jitter (float): How far the sides of a training box are moved at most, as a fraction of its width or height. 0
            takes the proposals of the RPN instead.
        report (Callable): Is called with the fraction of the RoIs that are collected, in [0, 1]. Defaults to nothing.

    Raises:
        TypeError: If the RoI head is not a StandardRoIHead with one mask head (a cascade has several).
        ValueError: If the model has no mask branch, or the validation data no masks or no instance.
    """
    init_default_scope('mmdet')
    set_random_seed(0)
    model = MODELS.build(cfg.model)
    val = Runner.build_dataloader(cfg.val_dataloader, seed=0)
    check_mask_branch(model, val.dataset[0]['data_samples'])
    if type(model.roi_head) is not StandardRoIHead:
        raise TypeError(f'RoI features are cached from a StandardRoIHead, got {type(model.roi_head).__name__}')
    load_checkpoint(model, str(checkpoint), map_location='cpu', strict=True)
    model.to(get_device()).eval()

    def training_rois(model: Any, batch: dict) -> RoIs:
        return _training_rois(model, batch, jitter)

    total = num_train + num_val
    batches = _endless(Runner.build_dataloader(cfg.train_dataloader, seed=0))
    rois = _collect(model, batches, training_rois, num_train, lambda found: report(found / total))
    save_roi_features(Path(folder, 'train'), *rois)
    rois = _collect(model, val, _validation_rois, num_val, lambda found: report((num_train + found) / total))
    save_roi_features(Path(folder, 'val'), *rois)


def _endless(loader: Any) -> Iterator[dict]:
    """Yield the batches of a loader again and again, whether or not it ends after each epoch."""
    while True:
        yield from loader


def _collect(
    model: nn.Module,
    batches: Iterable[dict],
    rois_of: Callable[..., RoIs | None],
    number: int,
    report: Callable[[int], None],
) -> RoIs:
    """Collect ``number`` RoIs, or as many as there are."""
    parts: list[RoIs] = []
    found = 0
    for batch in batches:
        rois = rois_of(model, batch)
        if rois is None:
            continue
        features, targets, labels = (part.cpu() for part in rois)
        parts.append((features.half(), targets, labels))
        found += len(labels)
        report(min(found, number))
        if found >= number:
            break
    if not parts:
        raise ValueError('the validation data have no instance to cache RoI features of')
    features, targets, labels = (torch.cat(part)[:number] for part in zip(*parts))
    return features, targets, labels


def _training_rois(model: Any, batch: dict, jitter: float) -> RoIs:
    """Return what the mask head would be trained on with a batch."""
    head = model.roi_head.mask_head
    targets: list[Tensor] = []
    labels: list[Tensor] = []

    def record(mask_preds: Tensor, sampling_results: list, batch_gt_instances: list, rcnn_train_cfg: Any) -> dict:
        targets.append(head.get_targets(sampling_results, batch_gt_instances, rcnn_train_cfg))
        labels.append(torch.cat([result.pos_gt_labels for result in sampling_results]))
        return dict(loss_mask=dict(loss_mask=mask_preds.sum()), mask_targets=targets[-1])

    data = model.data_preprocessor(batch, True)
    samples = data['data_samples']
    with patch.object(head, 'loss_and_target', record), _features(head) as features:
        if jitter:
            model.roi_head.loss(model.extract_feat(data['inputs']), _jittered(samples, jitter), samples)
        else:
            model.loss(data['inputs'], samples)
    return torch.cat(features), torch.cat(targets), torch.cat(labels)


def _jittered(samples: list[Any], jitter: float) -> list[InstanceData]:
    """Return the ground-truth boxes of each image, each side moved at random, in the form of RPN's proposals."""
    proposals = []
    for sample in samples:
        boxes = get_box_tensor(sample.gt_instances.bboxes)
        size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        moved = boxes + jitter * size * (2 * torch.rand_like(boxes) - 1)
        # Clipped, as RPN does: mask heads cut their targets out of the image, and features must be of the same box.
        height, width = sample.img_shape[:2]
        moved = torch.minimum(moved.clamp(min=0), moved.new_tensor([width, height, width, height]))
        proposals.append(InstanceData(bboxes=moved, scores=boxes.new_ones(len(boxes))))
    return proposals


def _validation_rois(model: Any, batch: dict) -> RoIs | None:
    """Return the ground-truth boxes of a batch; None if there are none: the RoI head would not call its mask head."""
    data = model.data_preprocessor(batch, False)
    samples = data['data_samples']
    boxes, rescale = ground_truth_rois(samples)
    if not any(len(box.labels) for box in boxes):
        return None
    with ground_truth_boxes(model.roi_head, boxes) as captured, _features(model.roi_head.mask_head) as features:
        model.roi_head.predict(model.extract_feat(data['inputs']), boxes, samples, rescale=rescale)
    size = captured[0][0][0].shape[-2:]
    targets = [mask_targets(s.gt_instances, size) for s in samples if len(s.gt_instances.labels)]
    return torch.cat(features), torch.cat(targets), torch.cat([s.gt_instances.labels for s in samples])


@contextmanager
def _features(mask_head: Any) -> Iterator[list[Tensor]]:
    """Record what a mask head is called with."""
    recorded: list[Tensor] = []
    forward = mask_head.forward
    with patch.object(mask_head, 'forward', lambda x: recorded.append(x) or forward(x)):
        yield recorded
