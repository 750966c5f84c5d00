from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.models.roi_heads import SparseRoIHead
from mmdet.registry import DATASETS, MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.utils import get_installed_path

from mmdet_edge import get_config_path
from mmdet_edge.datasets import make_shapes_dataset
from mmdet_edge.evaluation import mask_branch
from mmdet_edge.evaluation.mask_branch import (
    NoInstancesError,
    boundary_iou,
    check_mask_branch,
    evaluate_mask_branch,
    score_batch,
)

SHAPES = get_config_path('mask_rcnn_edge/mask-rcnn_r18_fpn_1xb4-300i_shapes.py')
METRICS = [
    *('mIoU', 'IoU_50', 'IoU_75', 'IoU_85', 'boundary_IoU_1px', 'boundary_IoU_2px'),
    *('image_boundary_IoU_1px', 'image_boundary_IoU_2px', 'BCE'),
]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('data') / 'shapes'
    make_shapes_dataset(str(path), num_train=1, num_val=4, size=96)
    return path


def batches(folder, cfg, batch_size=2, pipeline=None):
    dataset = dict(cfg.val_dataloader.dataset, data_root=str(folder))
    if pipeline:
        dataset['pipeline'] = pipeline
    items = list(DATASETS.build(dataset))
    return [pseudo_collate(items[i : i + batch_size]) for i in range(0, len(items), batch_size)]


@pytest.fixture
def cfg():
    register_all_modules()
    return Config.fromfile(SHAPES)


def build(cfg):
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model.eval()


class Oracle:
    """Replaces the forward of a mask head: returns the masks of the batch's images, in order."""

    def __init__(self, batch, size=28, channels=6, spoil=None):
        logits = []
        for sample in batch['data_samples']:
            truth = sample.gt_instances
            boxes = getattr(truth.bboxes, 'tensor', truth.bboxes).numpy()
            target = truth.masks.crop_and_resize(boxes, (size, size), np.arange(len(boxes)), 'cpu')
            masks = torch.tensor(target.to_ndarray()).float()
            if spoil:
                masks = spoil(masks)
            # All other channels say the opposite.
            image = -40 * (masks[:, None].repeat(1, channels, 1, 1) - 0.5)
            image[range(len(masks)), truth.labels] *= -1
            logits.append(image)
        self.logits = torch.cat(logits)

    def __call__(self, features):
        assert len(features) == len(self.logits)
        return self.logits


def test_a_perfect_mask_branch(cfg, folder):
    model = build(cfg)
    for batch in batches(folder, cfg):
        model.roi_head.mask_head.forward = Oracle(batch)
        for image, sample in zip(score_batch(model, batch), batch['data_samples']):
            assert len(image) == len(sample.gt_instances) > 0
            for scores in image:
                assert list(scores) == METRICS
                for name in METRICS[:6]:
                    assert scores[name] == 1
                assert scores['BCE'] == pytest.approx(0, abs=1e-6)
                # 28x28 is coarser than the object or finer: pasting is nearly, not fully, without loss.
                assert scores['image_boundary_IoU_2px'] > 0.6


def test_a_spoilt_one(cfg, folder):
    """Upper halves only: compare with what that is by hand."""
    model = build(cfg)
    (batch, _) = batches(folder, cfg)

    def spoil(masks):
        masks = masks.clone()
        masks[:, 14:] = 0
        return masks

    model.roi_head.mask_head.forward = Oracle(batch, spoil=spoil)
    truth = Oracle(batch).logits
    labels = torch.cat([s.gt_instances.labels for s in batch['data_samples']])
    targets = truth[range(len(truth)), labels] > 0
    expected = (targets[:, :14].sum((1, 2)) / targets.sum((1, 2))).tolist()
    scores = [s for image in score_batch(model, batch) for s in image]
    assert [s['mIoU'] for s in scores] == pytest.approx(expected)
    assert [s['IoU_50'] for s in scores] == [float(e > 0.5) for e in expected]
    wrong = targets[:, 14:].float().mean((1, 2)).tolist()
    # A logit of 20 on the wrong side costs 20 a pixel, on half of the mask.
    assert [s['BCE'] for s in scores] == pytest.approx([20 * w / 2 for w in wrong], rel=1e-3)


def test_real_predictions_are_the_mask_heads_own(cfg, folder):
    """Compare the probabilities behind the scores with the plain way: extract RoI features, apply the head."""
    model = build(cfg)
    (batch, _) = batches(folder, cfg)
    scores = [s for image in score_batch(model, batch) for s in image]
    data = model.data_preprocessor(batch, False)
    with torch.no_grad():
        features = model.extract_feat(data['inputs'])
        # The config resizes to 160x160, and the annotations are loaded after that.
        boxes = [s.gt_instances.bboxes * 160 / 96 for s in data['data_samples']]
        rois = torch.cat([torch.cat([b.new_full((len(b), 1), i), b], 1) for i, b in enumerate(boxes)])
        logits = model.roi_head._mask_forward(features, rois)['mask_preds']
    labels = torch.cat([s.gt_instances.labels for s in data['data_samples']])
    targets = (Oracle(batch).logits[range(len(labels)), labels] > 0).float()
    bce = torch.nn.functional.binary_cross_entropy_with_logits(
        logits[range(len(labels)), labels], targets, reduction='none'
    ).mean((1, 2))
    assert [s['BCE'] for s in scores] == pytest.approx(bce.tolist(), rel=1e-4)


@pytest.mark.parametrize('pad', [[], [dict(type='Pad', size=(256, 224))], [dict(type='Pad', size_divisor=128)]])
@pytest.mark.parametrize('annotations_first', [False, True])
@pytest.mark.parametrize('scale', [2, 1, 0.5])
def test_resized_and_padded_images(cfg, folder, annotations_first, pad, scale):
    """Annotations loaded before or after Resize and Pad: the RoIs are the same, and so is a perfect branch."""
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
    resize = [dict(type='Resize', scale=(int(96 * scale), int(96 * scale)), keep_ratio=True), *pad]
    pipeline = [
        load[0],
        *([load[1], *resize] if annotations_first else [*resize, load[1]]),
        cfg.val_dataloader.dataset.pipeline[-1],
    ]
    model = build(cfg)
    (batch, _) = batches(folder, cfg, pipeline=pipeline)
    seen = []
    extract = model.roi_head.mask_roi_extractor.forward
    model.roi_head.mask_roi_extractor.forward = lambda x, rois: (seen.append(rois), extract(x, rois))[1]
    model.roi_head.mask_head.forward = Oracle(batch)
    scores = [s for image in score_batch(model, batch) for s in image]
    assert all(s['mIoU'] == 1 and s['image_boundary_IoU_2px'] > 0.5 for s in scores)
    (plain, _) = batches(folder, cfg)
    original = torch.cat([s.gt_instances.bboxes.tensor for s in plain['data_samples']])
    assert torch.allclose(seen[0][:, 1:], scale * original, atol=2.1)


@pytest.mark.parametrize(
    'name', ['cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py', 'htc/htc-without-semantic_r50_fpn_1x_coco.py']
)
def test_cascades(cfg, folder, name):
    theirs = Config.fromfile(f'{get_installed_path("mmdet")}/.mim/configs/{name}').model
    theirs.backbone.update(depth=18, init_cfg=None)
    theirs.neck.in_channels = [64, 128, 256, 512]
    model = MODELS.build(theirs).eval()
    (batch, _) = batches(folder, cfg)
    images = score_batch(model, batch)
    assert [len(i) for i in images] == [len(s.gt_instances) for s in batch['data_samples']]
    # The model is as it was: it predicts its own boxes again.
    assert 'predict_bbox' not in vars(model.roi_head)
    assert 'predict_by_feat' not in vars(model.roi_head.mask_head[-1])


def test_class_agnostic(cfg, folder):
    cfg.model.roi_head.mask_head.class_agnostic = True
    model = build(cfg)
    (batch, _) = batches(folder, cfg)
    oracle = Oracle(batch)
    labels = torch.cat([s.gt_instances.labels for s in batch['data_samples']])
    oracle.logits = oracle.logits[range(len(labels)), labels][:, None]
    model.roi_head.mask_head.forward = oracle
    assert all(s['mIoU'] == 1 for image in score_batch(model, batch) for s in image)


def test_evaluation_averages_over_instances_and_keeps_the_mode(cfg, folder):
    model = build(cfg).train()
    data = batches(folder, cfg, batch_size=1)
    values = evaluate_mask_branch(model, data, 4)
    model.eval()
    scores = [s for batch in data for image in score_batch(model, batch) for s in image]
    assert list(values) == [*METRICS, 'num_instances'] and values['num_instances'] == len(scores)
    for name in METRICS:
        assert values[name] == pytest.approx(np.mean([s[name] for s in scores]))
    model.train()
    evaluate_mask_branch(model, data, 4)
    assert model.training


def test_image_without_instances(cfg, folder):
    model = build(cfg)
    (batch,) = batches(folder, cfg, batch_size=4)
    empty = batch['data_samples'][1].gt_instances
    batch['data_samples'][1].gt_instances = empty[torch.zeros(len(empty), dtype=torch.bool)]
    images = score_batch(model, batch)
    assert images[1] == [] and all(images[i] for i in (0, 2, 3))
    for sample in batch['data_samples']:
        sample.gt_instances = sample.gt_instances[torch.zeros(len(sample.gt_instances), dtype=torch.bool)]
    with pytest.raises(NoInstancesError, match='no instance to evaluate'):
        evaluate_mask_branch(model, [batch], 4)


def test_wrong_use(cfg, folder):
    pipeline = [dict(type='LoadImageFromFile'), cfg.val_dataloader.dataset.pipeline[-1]]
    (batch, _) = batches(folder, cfg, pipeline=pipeline)
    with pytest.raises(ValueError, match='the data samples have none.*LoadAnnotations'):
        score_batch(build(cfg), batch)
    cfg.model.roi_head.update(mask_head=None, mask_roi_extractor=None)
    with pytest.raises(ValueError, match='MaskRCNN has no RoI head with a mask branch'):
        evaluate_mask_branch(build(cfg), [batch], 4)
    query_inst = SimpleNamespace(with_mask=True, roi_head=object.__new__(SparseRoIHead))
    with pytest.raises(
        ValueError, match='cannot be evaluated with ground-truth boxes: it predicts the masks of its own'
    ):
        check_mask_branch(query_inst, batch['data_samples'][0])


def test_boundary_iou_by_hand():
    square, moved = np.zeros((2, 12, 12), np.uint8)
    square[2:8, 2:8] = 1
    moved[2:8, 3:9] = 1
    # One pixel wide: rings of 20. Shared: 5 of the top row, 5 of the bottom row, no column.
    assert boundary_iou(square, moved, 1) == pytest.approx(10 / 30)
    assert boundary_iou(square, square, 2) == 1
    assert boundary_iou(np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8), 1) == 1
    first, second = mask_branch._crop_to_both(square, moved)
    assert first.shape == (8, 9)
    assert boundary_iou(first, second, 1) == boundary_iou(square, moved, 1)
