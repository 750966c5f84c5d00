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
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO, COCOeval
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.logging import MMLogger
from rich.console import Console
from rich.table import Table

from .boundary_coco_eval import BoundaryCOCOeval

BACKENDS = ('faster-coco-eval', 'pycocotools')
METRIC_NAMES = ('bbox', 'segm', 'boundary', 'proposal', 'proposal_fast')


def metric_items_of(proposal_nums: Sequence[int]) -> dict[str, tuple[str, float | None, int, int]]:
    """Return the values that COCO's evaluation gives for limits on the number of detections, in any order.

    CocoMetric's name (with the limit, for recalls) -> what the value is the mean of: 'precision' or 'recall', IoU
    threshold (None for all), index of the area range, limit.
    """
    limits = sorted(proposal_nums)
    # As in pycocotools: mAP at 100 detections an image, the others at the third limit.
    last = limits[min(2, len(limits) - 1)]
    sizes = tuple(enumerate('sml', start=1))
    return {
        'mAP': ('precision', None, 0, 100 if 100 in limits else last),
        'mAP_50': ('precision', 0.5, 0, last),
        'mAP_75': ('precision', 0.75, 0, last),
        **{f'mAP_{size}': ('precision', None, area, last) for area, size in sizes},
        **{f'AR@{limit}': ('recall', None, 0, limit) for limit in limits},
        **{f'AR_{size}@{last}': ('recall', None, area, last) for area, size in sizes},
    }


@METRICS.register_module()
class CocoBoundaryMetric(CocoMetric):
    """``CocoMetric`` that also knows Boundary AP, does not round, and is fast.

    Differs from ``CocoMetric`` by ``metric='boundary'`` (any mix with the others), by values at full precision, by the
    C++ evaluation of faster-coco-eval, and where COCOeval is wrong without a message: annotation ids of any kind,
    masks of another size than the image, names of recalls. Use ``CocoMetric`` for numbers rounded to three decimals.

    Boundary AP is COCO's AP with min(mask IoU, boundary IoU) in place of the mask IoU. The boundary IoU is the IoU of
    the two bands of pixels that lie inside a mask and at most d away from its outline; d is
    ``boundary_dilation_ratio`` of the image diagonal; the image border counts as outline. The keys are
    'boundary_mAP', 'boundary_mAP_50', ... like those of the other metrics.

    Args:
        metric (str | Sequence[str]): One or several of 'bbox', 'segm', 'boundary', 'proposal', 'proposal_fast'.
            Defaults to 'bbox'.
        proposal_nums (Sequence[int]): Limits on the number of detections of an image, in any order. Defaults to
            (100, 300, 1000).
        metric_items (Sequence[str], optional): Values to return, of 'mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m',
            'mAP_l', 'AR@100', ... (a key for each limit), 'AR_s@1000', 'AR_m@1000', 'AR_l@1000' (the third limit).
            Defaults to None: those with 'mAP', or for 'proposal' those with 'AR'.
        use_mp_eval (bool): Has no effect; the other options without a description are those of ``CocoMetric``.
        backend (str, optional): 'faster-coco-eval' or 'pycocotools'. Defaults to None: the first if it is installed.
            Ids of images and categories that are not integers are evaluated with the second.
        boundary_dilation_ratio (float): Width of the band as a fraction of the image diagonal, in (0, 1). Defaults to
            0.02, as in the paper.

    Raises:
        ValueError: If ``metric``, ``metric_items`` or ``backend`` is unknown, the ratio is out of range, or
            ``format_only`` has no ``outfile_prefix``.
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
        ann_file: str | None = None,
        metric: str | Sequence[str] = 'bbox',
        classwise: bool = False,
        proposal_nums: Sequence[int] = (100, 300, 1000),
        iou_thrs: float | Sequence[float] | None = None,
        metric_items: Sequence[str] | None = None,
        format_only: bool = False,
        outfile_prefix: str | None = None,
        backend_args: dict | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
        sort_categories: bool = False,
        use_mp_eval: bool = False,
        *,
        backend: str | None = None,
        boundary_dilation_ratio: float = 0.02,
    ) -> None:
        metrics = [metric] if isinstance(metric, str) else list(metric)
        self._items = metric_items_of(proposal_nums)
        self._check_options(metrics, metric_items, backend, boundary_dilation_ratio)
        if format_only and outfile_prefix is None:
            raise ValueError(
                f'{type(self).__name__}: format_only=True writes the predictions and needs outfile_prefix, the path '
                'and beginning of the names of the files, got None'
            )
        super().__init__(
            ann_file=ann_file,
            metric=[item for item in metrics if item != 'boundary'],
            classwise=classwise,
            # mmdet's fast_eval_recall takes the last one for the largest.
            proposal_nums=sorted(proposal_nums),
            iou_thrs=iou_thrs,
            metric_items=metric_items,
            format_only=format_only,
            outfile_prefix=outfile_prefix,
            backend_args=backend_args,
            collect_device=collect_device,
            prefix=prefix,
            sort_categories=sort_categories,
            use_mp_eval=use_mp_eval,
        )
        self.metrics = metrics
        self.backend = backend or BACKENDS[0 if importlib.util.find_spec('faster_coco_eval') else 1]
        self.boundary_dilation_ratio = boundary_dilation_ratio
        if self._coco_api is not None:
            # Before anything looks up annotations by id: of two with the same id one would count twice.
            for number, annotation in enumerate(self._coco_api.dataset.get('annotations', []), start=1):
                annotation['id'] = number
            self._coco_api.createIndex()

    def _check_options(
        self, metrics: list[str], items: Sequence[str] | None, backend: str | None, ratio: float
    ) -> None:
        """Raise for an option that is unknown, out of range or not installed."""
        name = type(self).__name__
        for what, given, known in (
            ('metric', metrics, METRIC_NAMES),
            ('metric_items', items or [], tuple(self._items)),
            ('backend', [] if backend is None else [backend], BACKENDS),
        ):
            for item in given:
                if item not in known:
                    raise ValueError(f'{name}: {what} must be among {known}, got {item!r}')
        if backend == 'faster-coco-eval' and not importlib.util.find_spec('faster_coco_eval'):
            raise ImportError(f'{name}: backend {backend!r} is not installed: pip install faster-coco-eval')
        if not 0 < ratio < 1:
            raise ValueError(f'{name}: boundary_dilation_ratio must lie in (0, 1), got {ratio!r}')

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the predictions of a batch, ``data_samples``.

        Raises:
            ValueError: If an image is not in the annotation file, or its predicted masks have another size than the
                file states.
        """
        before = len(self.results)
        super().process(data_batch, data_samples)
        for stated, found in self.results[before:]:
            if self._coco_api is not None:
                stated = self._coco_api.imgs.get(found['img_id'])
                if stated is None:
                    raise ValueError(
                        f'{type(self).__name__}: image {found["img_id"]!r} of the data set is not in the annotation '
                        'file of the evaluator: give both the same ann_file'
                    )
            for mask in found.get('masks', ()):
                self._check_size('predicted masks', mask['size'], stated, found['img_id'])

    def _check_size(self, what: str, size: Sequence[int], stated: dict, image_id: Any) -> None:
        """Raise if a mask has another size than its image; COCOeval would count it as matching nothing."""
        if {'segm', 'boundary'} & set(self.metrics) and tuple(size) != (stated['height'], stated['width']):
            raise ValueError(
                f'{type(self).__name__}: the {what} of image {image_id!r} have height and width {tuple(size)}, but '
                f'the annotations state {(stated["height"], stated["width"])}. Likely the image file has another '
                'size than stated, or its EXIF orientation turns it when it is loaded'
            )

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics from what was gathered from all ranks: a pair of ground truth and prediction per image.

        Returns:
            dict[str, float]: 'segm_mAP', 'boundary_mAP_75', ...; unrounded, -1 where there is no such object. Empty
            with ``format_only``, or if there is no prediction at all.
        """
        logger: MMLogger = MMLogger.get_current_instance()
        truths, predictions = zip(*results)
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
                return {}
            return self._evaluate_files(files, predictions, logger)

    def _evaluate_files(self, files: dict[str, str], predictions: Sequence[dict], logger: MMLogger) -> dict[str, float]:
        """Evaluate all metrics; annotations and each file of predictions (kind -> path) are read once."""
        values: dict[str, float] = {}
        truth = self._make_truth()
        detections: dict[str, Any] = {}
        for metric in self.metrics:
            logger.info(f'Evaluating {metric} with {self.backend}...')
            if metric == 'proposal_fast':
                recalls = self.fast_eval_recall(predictions, self.proposal_nums, self.iou_thrs, logger=logger)
                values.update({f'AR@{n}': float(r) for n, r in zip(self.proposal_nums, recalls)})
                continue
            source = {'boundary': 'segm', 'proposal': 'bbox'}.get(metric, metric)
            if source not in files:
                raise KeyError(f'{type(self).__name__}: {metric} needs masks, and the predictions have none')
            if source not in detections:
                found = json.loads(Path(files[source]).read_text())
                if not found:
                    logger.error('The testing results of the whole dataset is empty.')
                    break
                if source == 'segm':
                    # With a box in the result, COCO would take the box's area for the object's.
                    found = [{key: value for key, value in item.items() if key != 'bbox'} for item in found]
                detections[source] = truth.loadRes(found)
            values.update(self._evaluate(metric, truth, detections[source], logger))
        return values

    def _make_truth(self) -> Any:
        """Return COCO of the chosen backend with a copy of the ground truth, since the evaluation adds keys to it."""
        images, categories = self._coco_api.imgs, self._coco_api.cats
        if not all(type(key) is int for key in (*images, *categories)):
            # The C++ code takes integers only.
            self.backend = 'pycocotools'
        annotations = [
            {**annotation, 'iscrowd': int(annotation.get('iscrowd') or 0)}
            for annotation in self._coco_api.dataset.get('annotations', [])
            if annotation['image_id'] in images and annotation['category_id'] in categories
        ]
        for annotation in annotations:
            if isinstance(mask := annotation.get('segmentation'), dict):
                image_id = annotation['image_id']
                self._check_size('annotated masks', mask['size'], images[image_id], image_id)
        content = {**self._coco_api.dataset, 'annotations': annotations}
        if self.backend == 'pycocotools':
            truth = COCO()
            truth.dataset = content
            truth.createIndex()
            return truth
        from faster_coco_eval import COCO as FasterCOCO  # noqa: N811

        return FasterCOCO(content)

    def _evaluate(self, metric: str, truth: Any, detections: Any, logger: MMLogger) -> dict[str, float]:
        """Evaluate one metric on ground truth and predictions (COCO of the backend); return its values by key."""
        if metric == 'boundary':
            self._warn_of_small_objects(truth, logger)
        evaluation = self._make_evaluation('bbox' if metric == 'proposal' else metric, truth, detections)
        evaluation.params.catIds = self.cat_ids
        evaluation.params.imgIds = self.img_ids
        evaluation.params.maxDets = list(self.proposal_nums)
        evaluation.params.iouThrs = np.atleast_1d(self.iou_thrs)
        evaluation.params.useCats = int(metric != 'proposal')
        evaluation.evaluate()
        evaluation.accumulate()

        kind = 'recall' if metric == 'proposal' else 'precision'
        items = self.metric_items or [name for name, item in self._items.items() if item[0] == kind]
        key = '{}' if metric == 'proposal' else f'{metric}_{{}}'
        values = {key.format(item): self._read(evaluation.eval, item) for item in items}
        if self.classwise and metric != 'proposal':
            values.update(self._classwise(metric, evaluation.eval, logger))
        logger.info('  '.join(f'{k}: {v:.4f}' for k, v in values.items() if not k.endswith('_precision')))
        return values

    def _make_evaluation(self, iou_type: str, truth: Any, detections: Any) -> Any:
        """Return COCOeval of the chosen backend for an overlap type."""
        ratio = self.boundary_dilation_ratio
        if self.backend == 'faster-coco-eval':
            from .faster_boundary_coco_eval import FasterBoundaryCOCOeval

            return FasterBoundaryCOCOeval(truth, detections, iou_type, boundary_dilation_ratio=ratio)
        if iou_type == 'boundary':
            return BoundaryCOCOeval(truth, detections, ratio)
        return COCOeval(truth, detections, iou_type)

    def _read(self, arrays: dict, name: str, category: int | None = None) -> float:
        """Return the mean of COCOeval's precision (T, R, K, A, M) or recall (T, K, A, M), -1 if there is no value.

        ``arrays`` is ``COCOeval.eval``; the mean is over all categories unless the index of one is given.
        """
        kind, threshold, area, limit = self._items[name]
        values = np.asarray(arrays[kind])[..., area, self.proposal_nums.index(limit)]
        if threshold is not None:
            values = values[np.isclose(np.atleast_1d(self.iou_thrs), threshold)]
        if category is not None:
            values = values[..., category]
        values = values[values > -1]
        return float(values.mean()) if values.size else -1.0

    def _classwise(self, metric: str, arrays: dict, logger: MMLogger) -> dict[str, float]:
        """Log a table with a row per category; return the AP of each.

        The keys are CocoMetric's, '<class>_precision'; those of 'boundary' begin with 'boundary_', so that they do not
        overwrite them.
        """
        values = {}
        columns = [name for name, item in self._items.items() if item[0] == 'precision']
        table = Table('category', *columns, title=f'{metric} by category')
        # COCOeval sorts the categories by id; CocoMetric's order of classes may differ.
        for index, category in enumerate(sorted(self.cat_ids)):
            name = self._coco_api.cats[category]['name']
            row = [self._read(arrays, column, index) for column in columns]
            table.add_row(name, *(f'{v:.4f}' for v in row))
            prefix = 'boundary_' if metric == 'boundary' else ''
            values[f'{prefix}{name}_precision'] = row[0]
        console = Console(width=100)
        with console.capture() as capture:
            console.print(table)
        logger.info(f'\n{capture.get()}')
        return values

    def _warn_of_small_objects(self, truth: Any, logger: MMLogger) -> None:
        """Warn if most objects are so small that boundary AP is mask AP."""
        ratios = []
        for annotation in truth.anns.values():
            if annotation['category_id'] in self.cat_ids and not annotation['iscrowd']:
                image = truth.imgs[annotation['image_id']]
                # The largest ratio at which something remains inside the band.
                ratios.append(min(annotation['bbox'][2:]) / 2 / np.hypot(image['height'], image['width']))
        small = float(np.mean(np.array(ratios) <= self.boundary_dilation_ratio)) if ratios else 0.0
        if small > 0.5:
            ratio, advice = self.boundary_dilation_ratio, np.quantile(ratios, 0.25) / 2
            logger.warning(
                f'{small:.0%} of the objects are no wider than twice the boundary band (ratio {ratio:g} of the image '
                f'diagonal): their boundary AP is hardly more than mask AP. {advice:.1g} would suit this data'
            )
