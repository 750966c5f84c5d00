"""COCO metrics with Boundary AP.

Source of Boundary AP: Cheng et al., *Boundary IoU: Improving Object-Centric Image Segmentation Evaluation* (arXiv
2103.16562).

Shape letters, of COCOeval's arrays: T IoU thresholds, R recall thresholds, K categories, A area ranges (all, small,
medium, large), M limits on the number of detections.
"""

import importlib.util
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, Union

import cv2
import numpy as np
import pycocotools.mask as mask_utils
from mmdet.datasets.api_wrappers import COCO, COCOeval
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.fileio import get
from mmengine.logging import MMLogger
from rich.console import Console
from rich.table import Table

BACKENDS = ('faster-coco-eval', 'pycocotools')

# What CocoMetric calls the numbers: (precision or recall, IoU threshold, area range, index of the detection limit).
# mAP is COCO's own, at 100 detections an image; the others allow the last of the limits, as pycocotools has them.
METRIC_ITEMS: dict[str, tuple[str, Optional[float], int, Optional[int]]] = {
    'mAP': ('precision', None, 0, None),
    'mAP_50': ('precision', 0.5, 0, -1),
    'mAP_75': ('precision', 0.75, 0, -1),
    'mAP_s': ('precision', None, 1, -1),
    'mAP_m': ('precision', None, 2, -1),
    'mAP_l': ('precision', None, 3, -1),
    'AR@100': ('recall', None, 0, 0),
    'AR@300': ('recall', None, 0, 1),
    'AR@1000': ('recall', None, 0, 2),
    'AR_s@1000': ('recall', None, 1, -1),
    'AR_m@1000': ('recall', None, 2, -1),
    'AR_l@1000': ('recall', None, 3, -1),
}


def boundary_width(height: int, width: int, dilation_ratio: float) -> int:
    """Return the width of the boundary band of an image, in pixels, at least 1."""
    return max(1, round(dilation_ratio * float(np.hypot(height, width))))


def mask_boundary(mask: np.ndarray, distance: int) -> np.ndarray:
    """Return the pixels of a mask that are at most ``distance`` away from what lies outside it.

    Args:
        mask (np.ndarray): Binary mask, (H, W), uint8.
        distance (int): Width of the band in pixels, at least 1.

    Returns:
        np.ndarray: Binary mask, (H, W), uint8. The image border counts as boundary.
    """
    # Zeros beyond the border, so that an object cut off by it has an edge there.
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
        dilation_ratio (float): Width of the band as a share of the image diagonal.
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
        """Compute the overlaps of one image and category: (detections by score, ground truths)."""
        ious = super().computeIoU(imgId, catId)
        if len(ious) == 0:
            return ious
        categories = [catId] if self.params.useCats else self.params.catIds
        truths = [g for c in categories for g in self._gts[imgId, c]]
        detections = [d for c in categories for d in self._dts[imgId, c]]
        order = np.argsort([-d['score'] for d in detections], kind='mergesort')[: self.params.maxDets[-1]]
        crowd = [int(g['iscrowd']) for g in truths]
        boundaries = mask_utils.iou(
            [self._boundary(detections[i]) for i in order], [self._boundary(g) for g in truths], crowd
        )
        return np.where(np.array(crowd, bool), ious, np.minimum(ious, boundaries))


@METRICS.register_module()
class CocoBoundaryMetric(CocoMetric):
    """``CocoMetric`` that also knows Boundary AP, does not round, and is fast.

    Differs from ``CocoMetric`` by ``metric='boundary'`` (any mix with 'bbox', 'segm', 'proposal', 'proposal_fast'), by
    values at full precision, and by the C++ evaluation of faster-coco-eval; use ``CocoMetric`` for numbers rounded to
    three decimals.

    Boundary AP is COCO's AP with min(mask IoU, boundary IoU) in place of the mask IoU. The boundary IoU is the IoU of
    the two bands of pixels that lie inside a mask and at most d away from its outline; d is
    ``boundary_dilation_ratio`` of the image diagonal; the image border counts as outline. The keys are
    'boundary_mAP', 'boundary_mAP_50', ... like those of the other metrics.

    Args:
        metric (str | Sequence[str]): One or several of 'bbox', 'segm', 'boundary', 'proposal', 'proposal_fast'.
            Defaults to 'bbox'.
        backend (str, optional): 'faster-coco-eval' or 'pycocotools'. Defaults to None: the first if it is installed.
        boundary_dilation_ratio (float): Width of the band as a share of the image diagonal, in (0, 1). Defaults to
            0.02, as in the paper.
        **kwargs: The arguments of ``CocoMetric``; ``use_mp_eval`` has no effect.

    Raises:
        ValueError: If ``metric`` or ``backend`` is unknown or the ratio is out of range.
        ImportError: If ``backend`` names a package that is not installed.

    Note:
        An object no wider than 2 d consists of boundary only; for a prediction no wider either, the boundary IoU is
        the mask IoU: at 640x480, d is 16 pixels. If more than half of the annotated objects are like that, a warning
        says so and names a ratio that suits the data. Results with different ratios cannot be compared.
    """

    _coco_api: Any
    cat_ids: Any
    img_ids: Any

    def __init__(
        self,
        *args: Any,
        metric: Union[str, Sequence[str]] = 'bbox',
        backend: Optional[str] = None,
        boundary_dilation_ratio: float = 0.02,
        **kwargs: Any,
    ) -> None:
        name = type(self).__name__
        metrics = [metric] if isinstance(metric, str) else list(metric)
        known = ('bbox', 'segm', 'boundary', 'proposal', 'proposal_fast')
        for item in metrics:
            if item not in known:
                raise ValueError(f'{name}: metric must be one of {known}, got {item!r}')
        if backend not in (None, *BACKENDS):
            raise ValueError(f'{name}: backend must be one of {BACKENDS} or None, got {backend!r}')
        installed = importlib.util.find_spec('faster_coco_eval') is not None
        if backend == 'faster-coco-eval' and not installed:
            raise ImportError(f'{name}: backend {backend!r} is not installed: pip install faster-coco-eval')
        if not 0 < boundary_dilation_ratio < 1:
            raise ValueError(f'{name}: boundary_dilation_ratio must lie in (0, 1), got {boundary_dilation_ratio!r}')
        super().__init__(*args, metric=[item for item in metrics if item != 'boundary'], **kwargs)
        for item in self.metric_items or []:
            if item not in METRIC_ITEMS:
                raise ValueError(f'{name}: metric_items must be among {tuple(METRIC_ITEMS)}, got {item!r}')
        self.metrics = metrics
        self.backend = backend or BACKENDS[0 if installed else 1]
        self.boundary_dilation_ratio = boundary_dilation_ratio

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics from what was gathered from all processes.

        Args:
            results (list): One pair of ground truth and prediction per image.

        Returns:
            dict[str, float]: 'segm_mAP', 'boundary_mAP_75', ...; unrounded, -1 where there is no such object. Empty
            with ``format_only``, or if there is no prediction at all.
        """
        logger: MMLogger = MMLogger.get_current_instance()
        truths, predictions = zip(*results)
        values: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as folder:
            prefix = self.outfile_prefix or str(Path(folder) / 'results')
            if self._coco_api is None:
                self._coco_api = COCO(self.gt_to_coco_json(gt_dicts=truths, outfile_prefix=prefix))
            if self.cat_ids is None:
                self.cat_ids = self._coco_api.get_cat_ids(cat_names=self.dataset_meta['classes'])
            if self.img_ids is None:
                self.img_ids = self._coco_api.get_img_ids()
            files = self.results2json(predictions, prefix)
            if self.format_only:
                logger.info(f'results are saved in {Path(prefix).parent}')
                return values
            for metric in self.metrics:
                logger.info(f'Evaluating {metric} with {self.backend}...')
                if metric == 'proposal_fast':
                    recalls = self.fast_eval_recall(predictions, self.proposal_nums, self.iou_thrs, logger=logger)
                    values.update({f'AR@{n}': float(r) for n, r in zip(self.proposal_nums, recalls)})
                    continue
                source = 'segm' if metric == 'boundary' else metric
                if source not in files:
                    raise KeyError(f'{type(self).__name__}: {metric} needs masks, and the predictions have none')
                detections = json.loads(get(files[source]))
                if not detections:
                    logger.error('The testing results of the whole dataset is empty.')
                    break
                values.update(self._evaluate(metric, detections, logger))
        return values

    def _evaluate(self, metric: str, detections: list[dict], logger: MMLogger) -> dict[str, float]:
        """Evaluate one metric.

        Args:
            metric (str): 'bbox', 'segm', 'boundary' or 'proposal'.
            detections (list[dict]): COCO results.
            logger (MMLogger): Where the summary goes.

        Returns:
            dict[str, float]: Its values, by key.
        """
        if metric in ('segm', 'boundary'):
            # With a box in the result, COCO would take the box's area for the object's.
            for detection in detections:
                detection.pop('bbox')
        if metric == 'boundary':
            self._warn_of_small_objects(logger)
        evaluation = self._make_evaluation('bbox' if metric == 'proposal' else metric, detections)
        evaluation.params.catIds = self.cat_ids
        evaluation.params.imgIds = self.img_ids
        evaluation.params.maxDets = list(self.proposal_nums)
        evaluation.params.iouThrs = np.atleast_1d(self.iou_thrs)
        evaluation.params.useCats = int(metric != 'proposal')
        evaluation.evaluate()
        evaluation.accumulate()

        names = list(METRIC_ITEMS)
        items = self.metric_items or (names[6:] if metric == 'proposal' else names[:6])
        key = '{}' if metric == 'proposal' else f'{metric}_{{}}'
        values = {key.format(item): self._read(evaluation.eval, item) for item in items}
        if self.classwise and metric != 'proposal':
            values.update(self._classwise(metric, evaluation.eval, logger))
        logger.info('  '.join(f'{k}: {v:.4f}' for k, v in values.items() if not k.endswith('_precision')))
        return values

    def _make_evaluation(self, iou_type: str, detections: list[dict]) -> Any:
        """Return COCOeval of the chosen backend for an overlap type."""
        if self.backend == 'pycocotools':
            coco_dt = self._coco_api.loadRes(detections)
            if iou_type == 'boundary':
                return BoundaryCOCOeval(self._coco_api, coco_dt, self.boundary_dilation_ratio)
            return COCOeval(self._coco_api, coco_dt, iou_type)
        from faster_coco_eval import COCO as FasterCOCO  # noqa: N811
        from faster_coco_eval import COCOeval_faster
        from faster_coco_eval.core import mask as faster_mask

        ratio = self.boundary_dilation_ratio

        class Evaluation(COCOeval_faster):
            """Rounds the width of the band as the paper's code does, where its own float32 may not."""

            def _prepare(self) -> None:
                super()._prepare()
                for annotation in (*self.cocoGt.anns.values(), *self.cocoDt.anns.values()):
                    if 'boundary' not in annotation:
                        continue
                    height, width = annotation['rle']['size']
                    diagonal = float(np.hypot(height, width))
                    if abs(ratio * diagonal % 1 - 0.5) < 1e-3:
                        distance = boundary_width(height, width, ratio)
                        annotation['boundary'] = faster_mask.rleToBoundary(annotation['rle'], distance / diagonal)

        # The evaluation adds keys to the annotations: let them not be CocoMetric's own.
        dataset = self._coco_api.dataset
        copies = dict(dataset, annotations=[dict(a) for a in dataset.get('annotations', [])])
        coco_gt = FasterCOCO(copies)
        return Evaluation(coco_gt, coco_gt.loadRes(detections), iou_type, boundary_dilation_ratio=ratio)

    def _read(self, arrays: dict, item: str, category: Optional[int] = None) -> float:
        """Return the mean of COCOeval's precision (T, R, K, A, M) or recall (T, K, A, M) for one item.

        Args:
            arrays (dict): ``COCOeval.eval``.
            item (str): Key of :data:`METRIC_ITEMS`.
            category (int, optional): Index of a category. Defaults to None, the mean of all.

        Returns:
            float: The mean over what there is, -1 if there is nothing.
        """
        kind, threshold, area, limit = METRIC_ITEMS[item]
        if limit is None:
            limit = self.proposal_nums.index(100) if 100 in self.proposal_nums else -1
        values = np.asarray(arrays[kind])[..., area, min(limit, len(self.proposal_nums) - 1)]
        if threshold is not None:
            values = values[np.isclose(np.atleast_1d(self.iou_thrs), threshold)]
        if category is not None:
            values = values[..., category]
        values = values[values > -1]
        return float(values.mean()) if values.size else -1.0

    def _classwise(self, metric: str, arrays: dict, logger: MMLogger) -> dict[str, float]:
        """Log a table with a row per category; return the AP of each.

        The keys are CocoMetric's, '<class>_precision', for its metrics; those of 'boundary' begin with 'boundary_', so
        that they do not overwrite them.
        """
        values = {}
        table = Table(title=f'{metric} by category')
        columns = list(METRIC_ITEMS)[:6]
        for column in ('category', *columns):
            table.add_column(column)
        # COCOeval sorts the categories by id, which CocoMetric's order of classes need not be.
        for index, category in enumerate(sorted(self.cat_ids)):
            name = self._coco_api.loadCats(category)[0]['name']
            row = [self._read(arrays, column, index) for column in columns]
            table.add_row(name, *(f'{v:.4f}' for v in row))
            prefix = 'boundary_' if metric == 'boundary' else ''
            values[f'{prefix}{name}_precision'] = row[0]
        console = Console(width=100)
        with console.capture() as capture:
            console.print(table)
        logger.info(f'\n{capture.get()}')
        return values

    def _warn_of_small_objects(self, logger: MMLogger) -> None:
        """Warn if most objects are so small that boundary AP is mask AP."""
        images, ratios = self._coco_api.imgs, []
        for annotation in self._coco_api.anns.values():
            if annotation['category_id'] in self.cat_ids and not annotation.get('iscrowd', 0):
                image = images[annotation['image_id']]
                # The largest ratio at which something remains inside the band.
                ratios.append(min(annotation['bbox'][2:]) / 2 / np.hypot(image['height'], image['width']))
        small = float(np.mean(np.array(ratios) <= self.boundary_dilation_ratio)) if ratios else 0.0
        if small > 0.5:
            ratio, advice = self.boundary_dilation_ratio, np.quantile(ratios, 0.25) / 2
            logger.warning(
                f'{small:.0%} of the objects are no wider than twice the boundary band (ratio {ratio:g} of the image '
                f'diagonal): their boundary AP is hardly more than mask AP. {advice:.1g} would suit this data'
            )
