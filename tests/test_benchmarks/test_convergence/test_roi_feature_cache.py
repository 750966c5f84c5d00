"""What is cached of a detector: features, targets and labels of training and validation RoIs."""

import json
import shutil

import numpy as np
import pytest
import torch
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import load_checkpoint
from mmengine.structures import InstanceData
from mmengine.utils import get_installed_path

from benchmarks.convergence import (
    MaskBranch,
    MaskBranchMetric,
    RoIFeatureDataset,
    cache_roi_features,
    roi_feature_cache,
)
from mmdet_edge.evaluation.mask_branch import evaluate_mask_branch, ground_truth_rois, mask_targets

from .conftest import make_detector_cfg

NUM_TRAIN = 30
JITTER = 0.1


@pytest.fixture(scope='module')
def cached(shapes_folder, detector, tmp_path_factory):
    folder = tmp_path_factory.mktemp('cached')
    cache_roi_features(make_detector_cfg(shapes_folder), detector[1], folder, 1, 1000, JITTER)
    return folder


def evaluate_cached(folder, cfg, head):
    """Evaluate a mask head on cached features as a mask-branch run does."""
    model = MaskBranch(cfg.model.roi_head.mask_head).eval()
    model.mask_head.load_state_dict(head.state_dict())
    dataset, metric = RoIFeatureDataset(str(folder)), MaskBranchMetric()
    items = [dataset[i] for i in range(len(dataset))]
    batch = {key: torch.stack([item[key] for item in items]) for key in items[0]}
    with torch.no_grad():
        metric.process(None, model(**batch, mode='predict'))
    return metric.evaluate(len(dataset))


def test_validation_part_measures_what_the_detectors_evaluation_does(cached, detector_cfg, detector, val_dataset):
    model, _ = detector
    expected = evaluate_mask_branch(model, [pseudo_collate([item]) for item in val_dataset], len(val_dataset))
    values = evaluate_cached(cached / 'val', detector_cfg, model.roi_head.mask_head)
    assert len(RoIFeatureDataset(str(cached / 'val'))) == expected['num_instances'] > 5
    # The random head is undecided in places, so that a wrong channel or a wrong order of the RoIs would show.
    assert 0.02 < expected['mIoU'] < 0.9
    for name in ('mIoU', 'boundary_IoU_1px', 'boundary_IoU_2px', 'BCE'):
        assert values[f'mask_branch/{name}'] == pytest.approx(expected[name], rel=0.03), name


def test_validation_part_is_the_true_boxes(cached, detector_cfg, detector, val_dataset):
    model, _ = detector
    dataset = RoIFeatureDataset(str(cached / 'val'))
    samples = [item['data_samples'] for item in val_dataset]
    labels = torch.cat([s.gt_instances.labels for s in samples])
    assert dataset.labels.tolist() == labels.tolist() and len(set(labels.tolist())) > 2
    targets = torch.cat([mask_targets(s.gt_instances, (28, 28)) for s in samples])
    assert np.array_equal(dataset.targets, targets.bool().numpy())
    data = model.data_preprocessor(pseudo_collate([val_dataset[0]]), False)
    (boxes,), _ = ground_truth_rois(data['data_samples'])
    rois = torch.cat([torch.zeros(len(boxes.bboxes), 1), boxes.bboxes], 1)
    with torch.no_grad():
        expected = model.roi_head.mask_roi_extractor(model.extract_feat(data['inputs']), rois)
    assert torch.allclose(torch.tensor(dataset.features[: len(rois)]).float(), expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize('jitter', [0, 0.1])
def test_training_part_is_what_the_mask_head_would_be_trained_on(detector_cfg, detector, tmp_path, monkeypatch, jitter):
    """Compare with what sampler, RoI extractor and the head's own get_targets say while it is made."""
    rois, extracted, sampled, found = [], [], [], []
    build = roi_feature_cache.MODELS.build

    def build_and_watch(cfg):
        model = build(cfg)
        if not hasattr(model, 'roi_head'):
            return model
        extractor, head = model.roi_head.mask_roi_extractor, model.roi_head.mask_head
        # Copies: get_targets clips what it is given to the image.
        extractor.register_forward_pre_hook(lambda _, args: rois.append(args[1].clone()))
        head.register_forward_pre_hook(lambda _, args: extracted.append(args[0]))
        get_targets = head.get_targets

        def targets_of(results, *args):
            sampled.extend(results)
            found.append(get_targets(results, *args))
            return found[-1]

        head.get_targets = targets_of
        return model

    monkeypatch.setattr(roi_feature_cache.MODELS, 'build', build_and_watch)
    cache_roi_features(detector_cfg, detector[1], tmp_path, NUM_TRAIN, 1, jitter)
    dataset = RoIFeatureDataset(str(tmp_path / 'train'))
    assert len(dataset) == NUM_TRAIN and dataset.features.shape == (NUM_TRAIN, 64, 14, 14)
    assert dataset.targets.dtype == bool and dataset.targets.shape == (NUM_TRAIN, 28, 28)
    assert 0.05 < dataset.targets.mean() < 0.95

    assert all(isinstance(result, SamplingResult) for result in sampled)
    labels = torch.cat([result.pos_gt_labels for result in sampled])
    assert dataset.labels.tolist() == labels[:NUM_TRAIN].tolist() and set(dataset.labels.tolist()) <= set(range(6))
    assert np.array_equal(dataset.targets, torch.cat(found)[:NUM_TRAIN].bool().numpy())
    # The last features are of the validation.
    features = torch.cat(extracted[: len(found)])[:NUM_TRAIN]
    assert torch.equal(torch.tensor(dataset.features), features.half())
    assert torch.equal(
        torch.cat(rois[: len(found)])[:NUM_TRAIN, 1:], torch.cat([r.pos_priors for r in sampled])[:NUM_TRAIN]
    )
    # Proposals of an untrained RPN are somewhere; the sampler adds the true boxes themselves.
    priors, boxes = (torch.cat([getattr(r, name) for r in sampled]) for name in ('pos_priors', 'pos_gt_bboxes'))
    shifts = ((priors - boxes).abs() / (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)).amax(1)
    assert (shifts == 0).sum() > 0 and (shifts > 0.01).sum() > 0
    assert shifts.max() <= 0.1 + 1e-5 if jitter else shifts.max() > 0.1
    # No more than one batch too many.
    assert sum(len(part) for part in found[:-1]) < NUM_TRAIN


def test_training_part_goes_over_the_images_again(detector_cfg, detector, tmp_path):
    """Also with a loader that ends after each epoch, as in configs that train by epochs."""
    detector_cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
    # At most 2 positive RoIs of each of the 4 images.
    detector_cfg.model.train_cfg.rcnn.sampler.num = 8
    cache_roi_features(detector_cfg, detector[1], tmp_path, 20, 1, JITTER)
    assert len(RoIFeatureDataset(str(tmp_path / 'train'))) == 20


def test_jittered_boxes():
    boxes = torch.tensor([[10.0, 20, 30, 60], [0, 0, 8, 4]]).repeat(200, 1)
    # Away from the border of the image.
    boxes += 10
    sample = DetDataSample(
        gt_instances=InstanceData(bboxes=boxes, labels=torch.zeros(400, dtype=torch.long)),
        metainfo=dict(img_shape=(100, 90)),
    )
    torch.manual_seed(0)
    (proposals,) = roi_feature_cache._jittered([sample], 0.2)
    shifts = (proposals.bboxes - boxes) / (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    # Each side on its own, evenly to both sides.
    assert shifts.abs().amax(0).tolist() == pytest.approx([0.2] * 4, rel=0.05) and shifts.abs().max() <= 0.2
    assert shifts.mean(0).abs().max() < 0.02
    assert torch.corrcoef(shifts.T).fill_diagonal_(0).abs().max() < 0.2
    assert torch.equal(proposals.scores, torch.ones(400))
    # The true boxes are still there.
    assert sample.gt_instances.bboxes is boxes and boxes[0].tolist() == [20, 30, 40, 70]


def test_jittered_boxes_stay_in_the_image():
    """A mask head cuts its targets out of the image: beyond it, features and targets would be of different boxes."""
    boxes = torch.tensor([[0.0, 0, 90, 100]]).repeat(50, 1)
    sample = DetDataSample(gt_instances=InstanceData(bboxes=boxes), metainfo=dict(img_shape=(100, 90, 3)))
    (proposals,) = roi_feature_cache._jittered([sample], 0.2)
    assert proposals.bboxes.amin(0).tolist()[:2] == [0, 0] and proposals.bboxes.amax(0).tolist()[2:] == [90, 100]
    assert proposals.bboxes.amax(0)[0] > 10 and proposals.bboxes.amin(0)[3] < 90


def test_number_of_validation_rois_is_at_most_that(detector_cfg, detector, tmp_path):
    cache_roi_features(detector_cfg, detector[1], tmp_path, 1, 2, JITTER)
    assert [len(RoIFeatureDataset(str(tmp_path / part))) for part in ('train', 'val')] == [1, 2]


def test_the_model_is_as_it_was(detector_cfg, detector):
    model, _ = detector
    loader = roi_feature_cache.Runner.build_dataloader(detector_cfg.train_dataloader, seed=0)
    features, _, _ = roi_feature_cache._training_rois(model, next(iter(loader)), JITTER)
    assert len(features) > 0
    assert 'loss_and_target' not in vars(model.roi_head.mask_head)
    assert not model.roi_head.mask_head._forward_pre_hooks


def empty_images(shapes_folder, folder, image_ids):
    """Copy the data set without the validation objects of some images."""
    shutil.copytree(shapes_folder, folder)
    content = json.loads((folder / 'val.json').read_text())
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] not in image_ids]
    (folder / 'val.json').write_text(json.dumps(content))
    return len(content['annotations'])


@pytest.mark.parametrize('batch_size', [1, 3])
@pytest.mark.parametrize('empty', [{0}, {1, 2}])
def test_images_without_instances(detector_cfg, detector, shapes_folder, tmp_path, batch_size, empty):
    number = empty_images(shapes_folder, tmp_path / 'data', empty)
    detector_cfg.val_dataloader.batch_size = batch_size
    detector_cfg.val_dataloader.dataset.data_root = str(tmp_path / 'data')
    cache_roi_features(detector_cfg, detector[1], tmp_path, 1, 1000, JITTER)
    assert len(RoIFeatureDataset(str(tmp_path / 'val'))) == number > 0


def test_no_instance_at_all(detector_cfg, detector, shapes_folder, tmp_path):
    empty_images(shapes_folder, tmp_path / 'data', {0, 1, 2})
    detector_cfg.val_dataloader.dataset.data_root = str(tmp_path / 'data')
    with pytest.raises(ValueError, match='the validation data have no instance'):
        cache_roi_features(detector_cfg, detector[1], tmp_path, 1, 1000, JITTER)
    assert not (tmp_path / 'val').exists()


def test_wrong_models(detector_cfg, detector, tmp_path):
    _, checkpoint = detector
    theirs = f'{get_installed_path("mmdet")}/.mim/configs/cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py'
    cfg = detector_cfg.copy()
    cfg.model = Config.fromfile(theirs).model
    cfg.model.backbone.update(depth=18, init_cfg=None)
    cfg.model.neck.in_channels = [64, 128, 256, 512]
    with pytest.raises(TypeError, match='from a StandardRoIHead, got CascadeRoIHead'):
        cache_roi_features(cfg, checkpoint, tmp_path, 1, 1, JITTER)
    cfg = detector_cfg.copy()
    cfg.model.roi_head.update(mask_head=None, mask_roi_extractor=None)
    with pytest.raises(ValueError, match='MaskRCNN has no RoI head with a mask branch'):
        cache_roi_features(cfg, checkpoint, tmp_path, 1, 1, JITTER)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_detector(detector_cfg, detector, tmp_path):
    model, checkpoint = detector
    # Not that only some of the weights are loaded, and the features are those of a random detector.
    detector_cfg.model.roi_head.mask_head.num_convs = 5
    with pytest.raises(RuntimeError, match='mask_head.convs.4'):
        cache_roi_features(detector_cfg, checkpoint, tmp_path, 1, 1, JITTER)
    load_checkpoint(model, str(checkpoint), strict=True)
