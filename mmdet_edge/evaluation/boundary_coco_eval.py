"""Boundary bands of masks, and pycocotools' evaluation with the boundary IoU."""

from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_utils
from mmdet.datasets.api_wrappers import COCO, COCOeval


def boundary_width(height: int, width: int, dilation_ratio: float) -> int:
    """Return the width of the boundary band of an image, in pixels, at least 1."""
    return max(1, round(dilation_ratio * float(np.hypot(height, width))))


def mask_boundary(mask: np.ndarray, distance: int) -> np.ndarray:
    """Return the pixels of a binary mask, (H, W), uint8, that are at most ``distance`` pixels away from its outside.

    The image border counts as boundary.
    """
    # Zeros beyond the border, so that an object that the border cuts has an edge there.
    eroded = cv2.erode(
        mask, np.ones((3, 3), np.uint8), iterations=distance, borderType=cv2.BORDER_CONSTANT, borderValue=0
    )
    return mask - eroded


class BoundaryCOCOeval(COCOeval):
    """pycocotools' evaluation on min(mask IoU, boundary IoU).

    Differs from ``COCOeval`` with ``iouType='segm'`` by the overlap alone. Crowd regions are matched by mask IoU.

    Args:
        coco_gt (COCO): Ground truth.
        coco_dt (COCO): Detections.
        dilation_ratio (float): Width of the band as a fraction of the image diagonal.
    """

    def __init__(self, coco_gt: COCO, coco_dt: COCO, dilation_ratio: float) -> None:
        super().__init__(coco_gt, coco_dt, 'segm')
        self.dilation_ratio = dilation_ratio

    def _boundary(self, annotation: dict) -> dict:
        """Return the run-length encoded boundary of an annotation, whose segmentation is run-length encoded."""
        mask = mask_utils.decode(annotation['segmentation'])
        distance = boundary_width(mask.shape[0], mask.shape[1], self.dilation_ratio)
        return mask_utils.encode(np.asfortranarray(mask_boundary(np.ascontiguousarray(mask), distance)))

    def computeIoU(self, imgId: int, catId: int) -> Any:  # noqa: N802, N803
        """Compute the overlaps of one image and category: (detections by score, ground-truth objects)."""
        ious = super().computeIoU(imgId, catId)
        if len(ious) == 0:
            return ious
        categories = [catId] if self.params.useCats else self.params.catIds
        objects = [g for c in categories for g in self._gts[imgId, c]]
        detections = [d for c in categories for d in self._dts[imgId, c]]
        order = np.argsort([-d['score'] for d in detections], kind='mergesort')[: self.params.maxDets[-1]]
        crowd = [int(g['iscrowd']) for g in objects]
        boundaries = mask_utils.iou(
            [self._boundary(detections[i]) for i in order], [self._boundary(g) for g in objects], crowd
        )
        return np.where(np.array(crowd, bool), ious, np.minimum(ious, boundaries))
