import json

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch

# First: a process that is spawned imports this file before conftest.py.
import mmdet_edge  # noqa: F401

# isort: split
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.logging import MMLogger

from mmdet_edge.evaluation.boundary_coco_eval import boundary_width, mask_boundary
from mmdet_edge.evaluation.coco_boundary_metric import BACKENDS, CocoBoundaryMetric

CLASSES = ('disc', 'box')
ALL = ['bbox', 'segm', 'boundary']
BOTH = pytest.mark.parametrize('backend', BACKENDS)


def disc(height, width, x, y, radius):
    return cv2.circle(np.zeros((height, width), np.uint8), (x, y), radius, 1, -1)


def encode(mask):
    rle = mask_utils.encode(np.asfortranarray(mask))
    return dict(size=rle['size'], counts=rle['counts'].decode())


def box_of(mask):
    ys, xs = mask.nonzero()
    return [int(xs.min()), int(ys.min()), int(xs.max() + 1), int(ys.max() + 1)]


class Scene:
    """Images with discs and boxes of all sizes, one crowd among them, and predictions that are moved and misjudged."""

    def __init__(self, folder, num_images=6, height=120, width=160, seed=0):
        self.rng = np.random.default_rng(seed)
        self.truth = []
        for image_id in range(num_images):
            for _ in range(5):
                # Some objects reach beyond the image.
                x, y = int(self.rng.integers(0, width)), int(self.rng.integers(0, height))
                radius = int(self.rng.choice([5, 9, 20, 40]))
                mask = disc(height, width, x, y, radius)
                label = int(self.rng.integers(2))
                if label:
                    left, top, right, bottom = box_of(mask)
                    mask[top:bottom, left:right] = 1
                self.truth.append((image_id, label, mask))
        annotations = [
            dict(
                id=i + 1,
                image_id=image_id,
                # Ids against the order of the classes.
                category_id=7 - label,
                bbox=[b[0], b[1], b[2] - b[0], b[3] - b[1]],
                area=int(mask.sum()),
                iscrowd=int(i == 3),
                segmentation=encode(mask),
            )
            for i, (image_id, label, mask) in enumerate(self.truth)
            for b in [box_of(mask)]
        ]
        self.file = str(folder / 'truth.json')
        content = dict(
            images=[dict(id=i, height=height, width=width) for i in range(num_images)],
            annotations=annotations,
            categories=[dict(id=7, name='disc'), dict(id=6, name='box')],
        )
        with open(self.file, 'w') as file:
            json.dump(content, file)
        self.num_images, self.height, self.width = num_images, height, width

    def samples(self, moved=0):
        """Predictions: the truth, shifted by up to ``moved`` pixels, with some false positives."""
        result = []
        for image_id in range(self.num_images):
            found = [(label, mask) for i, label, mask in self.truth if i == image_id]
            masks = [np.roll(m, self.rng.integers(-moved, moved + 1, 2), (0, 1)) for _, m in found]
            labels = [label for label, _ in found]
            if moved:
                masks += masks[:2]
                labels += [1 - label for label in labels[:2]]
            pred = dict(
                bboxes=torch.tensor([box_of(m) for m in masks]).float(),
                labels=torch.tensor(labels),
                scores=torch.tensor(self.rng.uniform(0.1, 1, len(masks))) if moved else torch.ones(len(masks)),
                masks=torch.tensor(np.array(masks)).bool(),
            )
            result.append(dict(pred_instances=pred, img_id=image_id, ori_shape=(self.height, self.width)))
        return result


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


def rewrite(scene, change):
    """Change the annotation file."""
    with open(scene.file) as file:
        content = json.load(file)
    change(content)
    with open(scene.file, 'w') as file:
        json.dump(content, file)


def coco_eval_of(metric, iou_type, detections):
    """COCOeval of a metric's backend, as the metric makes it."""
    truth = metric._make_truth()
    return metric._make_evaluation(iou_type, truth, truth.loadRes([dict(d) for d in detections]))


def evaluate(scene, samples, metric_class=CocoBoundaryMetric, **options):
    metric = metric_class(ann_file=scene.file, **{'metric': ALL, **options})
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, samples)
    return metric.evaluate(size=len(samples))


@BOTH
def test_truth_as_prediction_is_perfect(scene, backend):
    values = evaluate(scene, scene.samples(), backend=backend)
    for metric in ALL:
        for item in ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m'):
            assert values[f'coco/{metric}_{item}'] == pytest.approx(1.0)


@pytest.mark.parametrize('moved', [1, 3, 8])
def test_backends_agree(scene, moved):
    samples = scene.samples(moved)
    first, second = (evaluate(scene, samples, backend=b, proposal_nums=(1, 10, 100)) for b in BACKENDS)
    assert first.keys() == second.keys()
    for key in first:
        assert first[key] == pytest.approx(second[key], abs=1e-9), key
    assert 0 < first['coco/boundary_mAP'] < first['coco/segm_mAP'] < 1


@pytest.mark.parametrize('size', [(225, 300), (375, 500), (405, 540), (480, 640)])
def test_backends_agree_where_the_band_is_a_half_pixel(tmp_path, size):
    """0.02 of the diagonal of 225x300 is 7.5, which float32 and float64 round differently."""
    scene = Scene(tmp_path, 3, *size)
    samples = scene.samples(5)
    first, second = (evaluate(scene, samples, backend=b, metric='boundary') for b in BACKENDS)
    for key in first:
        assert first[key] == pytest.approx(second[key], abs=1e-9), key
    metrics = [CocoBoundaryMetric(ann_file=scene.file, metric='boundary', backend=b) for b in BACKENDS]
    detections = [
        dict(image_id=i, category_id=7 - label, score=0.9, segmentation=encode(np.roll(mask, 3, 1)))
        for i, label, mask in scene.truth
    ]
    evaluations = [coco_eval_of(metric, 'boundary', detections) for metric in metrics]
    for evaluation in evaluations:
        evaluation.params.maxDets = [1, 10, 100]
        evaluation.evaluate()
    for key, ious in evaluations[0].ious.items():
        assert np.allclose(ious, evaluations[1].ious[key], atol=1e-12), key


@BOTH
def test_equals_coco_metric_but_for_rounding(scene, backend):
    samples = scene.samples(3)
    theirs = evaluate(scene, samples, CocoMetric, metric=['bbox', 'segm'])
    ours = evaluate(scene, samples, backend=backend, metric=['bbox', 'segm'])
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key] == pytest.approx(value, abs=5.1e-4)
    assert any(round(v, 3) != v for v in ours.values())


def test_proposals_equal_coco_metrics(tmp_path):
    # One image: mmdet's proposal_fast cannot stack images with different numbers of objects under numpy 2.
    scene = Scene(tmp_path, num_images=1)
    samples = scene.samples(3)
    for metric in ('proposal', 'proposal_fast'):
        theirs = evaluate(scene, samples, CocoMetric, metric=[metric])
        ours = evaluate(scene, samples, metric=[metric])
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            assert ours[key] == pytest.approx(value, abs=5.1e-4)


@BOTH
@pytest.mark.parametrize('limits', [(100, 1, 10), (10, 100, 1), (1000, 300, 100), (3, 100, 1, 5)])
def test_limits_in_any_order_give_coco_metrics_values(scene, backend, limits):
    samples = scene.samples(3)
    theirs = evaluate(scene, samples, CocoMetric, metric=['bbox', 'segm'], proposal_nums=limits)
    ours = evaluate(scene, samples, backend=backend, metric=['bbox', 'segm'], proposal_nums=limits)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key] == pytest.approx(value, abs=5.1e-4), key
    # With one detection an image, which an index into the unsorted limits would find, it is another value.
    one = evaluate(scene, samples, backend=backend, metric='segm', proposal_nums=(1,))
    assert one['coco/segm_mAP'] < 0.8 * ours['coco/segm_mAP']


@BOTH
def test_the_keys_of_recalls_name_their_limit(scene, backend):
    samples = scene.samples(3)
    values = evaluate(scene, samples, backend=backend, metric='proposal', proposal_nums=(100, 1, 10))
    assert list(values) == [f'coco/AR{name}' for name in ('@1', '@10', '@100', '_s@100', '_m@100', '_l@100')]
    for limit in (1, 10, 100):
        alone = evaluate(scene, samples, backend=backend, metric='proposal', proposal_nums=(limit,))
        assert values[f'coco/AR@{limit}'] == alone[f'coco/AR@{limit}']
    assert values['coco/AR@1'] < values['coco/AR@10'] <= values['coco/AR@100']
    # CocoMetric's names do not depend on the limits.
    theirs = evaluate(scene, samples, CocoMetric, metric='proposal', proposal_nums=(100, 1, 10))
    assert values['coco/AR@1'] == pytest.approx(theirs['coco/AR@100'], abs=5.1e-4)


def test_fast_recalls_do_not_depend_on_the_order_of_the_limits(tmp_path):
    scene = Scene(tmp_path, num_images=1)
    samples = scene.samples(3)
    first, second = (
        evaluate(scene, samples, metric='proposal_fast', proposal_nums=limits) for limits in ((1, 2, 100), (100, 1, 2))
    )
    assert first == second and first['coco/AR@2'] < first['coco/AR@100']


@BOTH
@pytest.mark.parametrize(
    'number',
    [lambda i: i, lambda i: None, lambda i: 7, lambda i: f'a{i}', lambda i: i / 2, lambda i: -i],
    ids=['from 0', 'None', 'all the same', 'strings', 'fractions', 'negative'],
)
def test_annotation_ids_of_any_kind(scene, backend, number):
    """From 0, missing, all the same, strings, fractions, negative: the truth as prediction is perfect."""

    def change(content):
        for i, annotation in enumerate(content['annotations']):
            annotation['id'] = number(i)

    rewrite(scene, change)
    values = evaluate(scene, scene.samples(), backend=backend)
    for metric in ALL:
        assert values[f'coco/{metric}_mAP'] == pytest.approx(1.0)


def test_fast_recalls_with_one_id_for_all(tmp_path):
    scene = Scene(tmp_path, num_images=1)
    samples = scene.samples(3)
    expected = evaluate(scene, samples, metric='proposal_fast')
    rewrite(scene, lambda content: [annotation.update(id=1) for annotation in content['annotations']])
    assert evaluate(scene, samples, metric='proposal_fast') == expected


@pytest.mark.parametrize('name', [str, float, 'image {}'.format], ids=['digits', 'floats', 'words'])
def test_image_ids_that_the_faster_backend_does_not_take(scene, name):
    samples = scene.samples(3)
    expected = evaluate(scene, samples)

    def change(content):
        for image in content['images']:
            image['id'] = name(image['id'])
        for annotation in content['annotations']:
            annotation['image_id'] = name(annotation['image_id'])

    rewrite(scene, change)
    for sample in samples:
        sample['img_id'] = name(sample['img_id'])
    values = evaluate(scene, samples)
    theirs = evaluate(scene, samples, CocoMetric, metric=['bbox', 'segm'])
    assert values == pytest.approx(expected, abs=1e-9)
    for key, value in theirs.items():
        assert values[key] == pytest.approx(value, abs=5.1e-4)


@BOTH
def test_annotations_of_no_image_and_without_iscrowd_are_as_if_not_there(scene, backend):
    samples = scene.samples(3)
    rewrite(scene, lambda content: [annotation.update(iscrowd=0) for annotation in content['annotations']])
    expected = evaluate(scene, samples, backend=backend)

    def change(content):
        first, second = content['annotations'][:2]
        content['annotations'] += [{**first, 'image_id': '0'}, {**second, 'category_id': 99}]
        del first['iscrowd']
        second['iscrowd'] = None

    rewrite(scene, change)
    assert evaluate(scene, samples, backend=backend) == expected


@pytest.mark.parametrize('metric', ['segm', 'boundary'])
def test_masks_of_another_size_than_the_image_are_refused(scene, metric):
    samples = scene.samples()

    def turn(content):
        content['images'][2].update(height=scene.width, width=scene.height)

    rewrite(scene, turn)
    message = (
        r'^CocoBoundaryMetric: the predicted masks of image 2 have height and width \(120, 160\), but the annotations '
        r'state \(160, 120\)\. .*EXIF'
    )
    with pytest.raises(ValueError, match=message):
        evaluate(scene, samples, metric=metric)
    # Boxes have no size to compare.
    assert evaluate(scene, samples, metric='bbox')['coco/bbox_mAP'] == pytest.approx(1.0)
    # Predicted at the stated size, beside annotated masks of another.
    for sample in samples:
        if sample['img_id'] == 2:
            sample['pred_instances']['masks'] = sample['pred_instances']['masks'].transpose(1, 2)
    with pytest.raises(ValueError, match=r'the annotated masks of image 2 have height and width \(120, 160\)'):
        evaluate(scene, samples, metric=metric)


def test_an_image_that_the_annotation_file_does_not_have(scene):
    samples = scene.samples()
    samples[1]['img_id'] = 99
    with pytest.raises(ValueError, match='image 99 of the data set is not in the annotation file of the evaluator'):
        evaluate(scene, samples)


@BOTH
def test_by_hand(tmp_path, backend):
    """A 40x40 square in a 100x100 image, predicted 2 pixels too far right; band of round(0.02 * 141.4) = 3 pixels."""
    truth, moved = np.zeros((2, 100, 100), np.uint8)
    truth[30:70, 30:70] = 1
    moved[30:70, 32:72] = 1
    # Bands: 40x40 minus 34x34. Overlap of the bands, counted in rows: the 6 outer rows share 38 pixels; in the 34 inner
    # rows the truth has columns 30-32 and 67-69, the prediction 32-34 and 69-71: columns 32 and 69.
    overlap = 6 * 38 + 34 * 2
    union = 2 * (40**2 - 34**2) - overlap
    assert boundary_width(100, 100, 0.02) == 3
    bands = mask_boundary(truth, 3), mask_boundary(moved, 3)
    assert (bands[0] & bands[1]).sum() == overlap and (bands[0] | bands[1]).sum() == union
    boundary_iou, mask_iou = overlap / union, 38 / 42
    assert boundary_iou == pytest.approx(0.5, abs=0.002) and mask_iou > 0.9
    # AP over the thresholds that the overlap reaches: it is 1 at each of them.
    for metric, iou in (('segm', mask_iou), ('boundary', boundary_iou)):
        scene = Scene.__new__(Scene)
        scene.file = str(tmp_path / 'truth.json')
        annotation = dict(id=1, image_id=0, category_id=7, bbox=[30, 30, 40, 40], area=1600, iscrowd=0)
        annotation['segmentation'] = encode(truth)
        images, categories = [dict(id=0, height=100, width=100)], [dict(id=7, name='disc'), dict(id=6, name='box')]
        (tmp_path / 'truth.json').write_text(
            json.dumps(dict(images=images, annotations=[annotation], categories=categories))
        )
        pred = dict(bboxes=torch.tensor([[32.0, 30, 72, 70]]), labels=torch.tensor([0]), scores=torch.ones(1))
        pred['masks'] = torch.tensor(moved[None]).bool()
        sample = dict(pred_instances=pred, img_id=0, ori_shape=(100, 100))
        values = evaluate(scene, [sample], backend=backend, metric=[metric])
        reached = np.mean(iou >= np.linspace(0.5, 0.95, 10) - 1e-12)
        assert values[f'coco/{metric}_mAP'] == pytest.approx(reached)


def test_the_image_border_is_boundary():
    mask = np.zeros((20, 30), np.uint8)
    mask[:10, :12] = 1
    band = mask_boundary(mask, 2)
    assert band[0, 5] == band[5, 0] == band[1, 1] == 1
    assert mask.sum() - band.sum() == 6 * 8


def independent_boundary_iou(first, second, distance):
    """Boundary IoU by its definition: within ``distance`` (in the maximum norm) of a pixel outside, or beyond."""
    bands = []
    for mask in (first, second):
        band = np.zeros_like(mask)
        for y, x in zip(*mask.nonzero()):
            window = np.zeros((2 * distance + 1, 2 * distance + 1))
            part = mask[max(0, y - distance) : y + distance + 1, max(0, x - distance) : x + distance + 1]
            window[: part.shape[0], : part.shape[1]] = part
            band[y, x] = window.sum() < window.size
        bands.append(band.astype(bool))
    return (bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum()


@BOTH
def test_agrees_with_an_independent_implementation(scene, backend):
    scene.truth = [t for t in scene.truth if t[0] == 0]
    metric = CocoBoundaryMetric(ann_file=scene.file, metric=['boundary'], backend=backend)
    metric.dataset_meta = dict(classes=CLASSES)
    detections, pairs = [], []
    for _, label, mask in scene.truth:
        moved = np.roll(mask, (2, -1), (0, 1))
        detections.append(dict(image_id=0, category_id=7 - label, score=0.9, segmentation=encode(moved)))
        pairs.append((mask, moved))
    evaluation = coco_eval_of(metric, 'boundary', detections)
    evaluation.params.imgIds, evaluation.params.maxDets = [0], [1, 10, 100]
    evaluation.evaluate()
    distance = boundary_width(scene.height, scene.width, 0.02)
    crowd = 3
    for label in range(2):
        members = [i for i, t in enumerate(scene.truth) if t[1] == label]
        ious = np.asarray(evaluation.ious[0, 7 - label])
        assert ious.shape == (len(members), len(members))
        for row, i in enumerate(members):
            for column, j in enumerate(members):
                if j != crowd:
                    truth, prediction = pairs[j][0], pairs[i][1]
                    mask_iou = (truth & prediction).sum() / (truth | prediction).sum()
                    expected = min(mask_iou, independent_boundary_iou(truth, prediction, distance))
                    assert ious[row, column] == pytest.approx(expected, abs=1e-12)


@BOTH
def test_objects_narrower_than_the_band(tmp_path, backend):
    scene = Scene(tmp_path, num_images=2)
    samples = scene.samples(3)
    values = evaluate(scene, samples, backend=backend, boundary_dilation_ratio=0.5)
    assert values['coco/boundary_mAP'] == pytest.approx(values['coco/segm_mAP'])


def test_warns_if_most_objects_are(tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'warning', warnings.append)
    scene = Scene(tmp_path, num_images=2)
    samples = scene.samples(1)
    evaluate(scene, samples)
    assert not warnings
    evaluate(scene, samples, boundary_dilation_ratio=0.2)
    (line,) = warnings
    assert 'of the objects are no wider than twice the boundary band (ratio 0.2' in line
    evaluate(scene, samples, metric=['segm'], boundary_dilation_ratio=0.2)
    assert len(warnings) == 1


@BOTH
def test_classwise_outfile_and_format_only(scene, backend, tmp_path):
    samples = scene.samples(3)
    prefix = str(tmp_path / 'out')
    values = evaluate(scene, samples, backend=backend, classwise=True, outfile_prefix=prefix)
    mean = np.mean([values[f'coco/boundary_{name}_precision'] for name in CLASSES])
    assert mean == pytest.approx(values['coco/boundary_mAP'])
    theirs = evaluate(scene, samples, CocoMetric, metric=['segm'])
    mean = np.mean([values[f'coco/{name}_precision'] for name in CLASSES])
    assert mean == pytest.approx(theirs['coco/segm_mAP'], abs=5.1e-4)
    assert (tmp_path / 'out.segm.json').is_file() and (tmp_path / 'out.bbox.json').is_file()
    only = str(tmp_path / 'only')
    assert evaluate(scene, samples, backend=backend, format_only=True, outfile_prefix=only) == {}
    assert (tmp_path / 'only.segm.json').is_file()


def test_classwise_follows_the_ids_not_the_order(scene):
    # Only discs are found: their id, 7, comes after that of the boxes, 6, which are the second class.
    samples = scene.samples()
    for sample in samples:
        pred = sample['pred_instances']
        sample['pred_instances'] = {k: v[pred['labels'] == 0] for k, v in pred.items()}
    for backend in BACKENDS:
        values = evaluate(scene, samples, backend=backend, classwise=True, metric=['segm'])
        assert (values['coco/disc_precision'], values['coco/box_precision']) == (pytest.approx(1), 0)


@BOTH
def test_no_prediction_at_all(scene, backend):
    samples = scene.samples()
    for sample in samples:
        sample['pred_instances'] = {k: v[:0] for k, v in sample['pred_instances'].items()}
    assert evaluate(scene, samples, backend=backend) == {}


def test_metric_items_and_registry(scene):
    metric = METRICS.build(dict(type='mmdet.CocoBoundaryMetric', ann_file=scene.file, metric='boundary'))
    assert metric.backend == 'faster-coco-eval'
    values = evaluate(scene, scene.samples(2), metric='boundary', metric_items=['mAP_75', 'AR@100'])
    assert list(values) == ['coco/boundary_mAP_75', 'coco/boundary_AR@100']


def evaluate_a_part(rank, file, samples, queue):
    """One of two processes: every second image."""
    torch.distributed.init_process_group('gloo', init_method=f'file://{file}.store', rank=rank, world_size=2)
    metric = CocoBoundaryMetric(ann_file=file, metric=ALL)
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, samples[rank::2])
    values = metric.evaluate(size=len(samples))
    if rank == 0:
        queue.put(values)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(scene):
    samples = scene.samples(3)
    expected = evaluate(scene, samples)
    assert 0 < expected['coco/boundary_mAP'] < 1
    context = torch.multiprocessing.get_context('spawn')
    queue = context.SimpleQueue()
    torch.multiprocessing.spawn(evaluate_a_part, (scene.file, samples, queue), nprocs=2)
    assert queue.get() == expected


def test_twice_gives_the_same(scene):
    samples = scene.samples(2)
    metric = CocoBoundaryMetric(ann_file=scene.file, metric=ALL)
    metric.dataset_meta = dict(classes=CLASSES)
    runs = []
    for _ in range(2):
        metric.process({}, samples)
        runs.append(metric.evaluate(size=len(samples)))
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        (dict(metric='boundry'), ValueError, "metric must be among .*got 'boundry'"),
        (dict(backend='cocoapi'), ValueError, "backend must be among .*got 'cocoapi'"),
        (dict(boundary_dilation_ratio=0), ValueError, 'boundary_dilation_ratio must lie in'),
        (dict(boundary_dilation_ratio=2), ValueError, 'boundary_dilation_ratio must lie in'),
        (dict(metric_items=['AP']), ValueError, "metric_items must be among .*got 'AP'"),
        (
            dict(metric_items=['AR@300'], proposal_nums=(100, 1, 10)),
            ValueError,
            "metric_items .*'AR@10',.*got 'AR@300'",
        ),
        (dict(format_only=True), ValueError, 'format_only=True writes the predictions and needs outfile_prefix, the'),
    ],
)
def test_wrong_options(options, error, message):
    with pytest.raises(error, match=f'^CocoBoundaryMetric: {message}'):
        CocoBoundaryMetric(**options)


def test_backend_that_is_not_installed(monkeypatch):
    from mmdet_edge.evaluation import coco_boundary_metric as module

    monkeypatch.setattr(module.importlib.util, 'find_spec', lambda name: None)
    assert CocoBoundaryMetric().backend == 'pycocotools'
    with pytest.raises(ImportError, match='pip install faster-coco-eval'):
        CocoBoundaryMetric(backend='faster-coco-eval')


def test_boxes_only(scene):
    samples = scene.samples()
    for sample in samples:
        sample['pred_instances'].pop('masks')
    with pytest.raises(KeyError, match='boundary needs masks'):
        evaluate(scene, samples, metric='boundary')
