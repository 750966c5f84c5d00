"""The edge loss in mmdet's heads that predict masks of the whole image: what they log against the plain functions."""

from pathlib import Path

import mmdet
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config

from mmdet_edge import edge_loss

register_all_modules()

NUM_CLASSES = 3
SMALL_RESNET = {
    'backbone.depth': 18,
    'backbone.init_cfg': None,
    'neck.in_channels': [64, 128, 256, 512],
    'neck.out_channels': 32,
}
SMALL_SOLO = {'mask_head.in_channels': 32, 'mask_head.feat_channels': 32, 'mask_head.stacked_convs': 1}
SMALL_SOLO.update({'mask_head.num_classes': NUM_CLASSES, **SMALL_RESNET})
# Config, part of the model with the loss, key of the loss, options that make the model small.
MODELS_WITH_MAPS = {
    'RTMDet-Ins': (
        'rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py',
        'bbox_head',
        'loss_mask',
        {'backbone.init_cfg': None, 'bbox_head.num_classes': NUM_CLASSES},
    ),
    'CondInst': (
        'condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py',
        'mask_head',
        'loss_mask',
        {
            **SMALL_RESNET,
            'bbox_head.in_channels': 32,
            'bbox_head.feat_channels': 32,
            'bbox_head.num_classes': NUM_CLASSES,
            'mask_head.mask_feature_head.in_channels': 32,
        },
    ),
    'SOLO': ('solo/solo_r50_fpn_1x_coco.py', 'mask_head', 'loss_mask', SMALL_SOLO),
    'DecoupledSOLO': ('solo/decoupled-solo_r50_fpn_1x_coco.py', 'mask_head', 'loss_mask', SMALL_SOLO),
    'SOLOv2': ('solov2/solov2_r50_fpn_1x_coco.py', 'mask_head', 'loss_mask', SMALL_SOLO),
    'MaskFormer': (
        'maskformer/maskformer_r50_ms-16xb1-75e_coco.py',
        'panoptic_head',
        'loss_dice',
        {
            'backbone.depth': 18,
            'backbone.init_cfg': None,
            'panoptic_head.in_channels': [64, 128, 256, 512],
            'panoptic_head.num_things_classes': NUM_CLASSES,
            'panoptic_head.num_stuff_classes': 0,
            'panoptic_head.loss_cls.class_weight': [1.0] * NUM_CLASSES + [0.1],
            'panoptic_fusion_head.num_things_classes': NUM_CLASSES,
            'panoptic_fusion_head.num_stuff_classes': 0,
        },
    ),
}


def build(name, losses=None):
    """Return a small model, with these losses beside its own, and its config."""
    file, part, key, options = MODELS_WITH_MAPS[name]
    cfg = Config.fromfile(Path(mmdet.__file__).parent / '.mim/configs' / file)
    cfg.merge_from_dict({f'model.{option}': value for option, value in options.items()})
    model = Config(dict(model=_without_sync(cfg.model.to_dict()))).model
    model.data_preprocessor.pop('batch_augments', None)
    head = model[part]
    if losses:
        probabilities = dict(activate=False) if not head[key].get('activate', True) else {}
        head[key] = dict(
            type='SumMaskLoss', losses=[head[key], *(dict(x, **probabilities) for x in losses)], **probabilities
        )
    torch.manual_seed(0)
    return MODELS.build(model).train()


def _without_sync(node):
    """Return a model for one process."""
    if isinstance(node, dict):
        return {key: 'BN' if value == 'SyncBN' else _without_sync(value) for key, value in node.items()}
    return [_without_sync(x) for x in node] if isinstance(node, (list, tuple)) else node


def run(model, num_items=(3, 2)):
    """Return the losses of one step on two images, with so many objects."""
    torch.manual_seed(1)
    data = demo_mm_inputs(2, [[3, 128, 128]] * 2, num_items=list(num_items), num_classes=NUM_CLASSES, with_mask=True)
    return model(**model.data_preprocessor(data, True), mode='loss')


@pytest.mark.parametrize('normalize_by', ['map', 'edges'])
@pytest.mark.parametrize('name', MODELS_WITH_MAPS)
def test_a_config_alone_adds_the_edge_loss(name, normalize_by):
    _, part, key, _ = MODELS_WITH_MAPS[name]
    edge = dict(type='EdgeLoss', loss_weight=3.0, normalize_by=normalize_by)
    plain, model = run(build(name)), build(name, [edge])
    calls = []
    loss = getattr(getattr(model, part), key)
    loss.register_forward_hook(lambda _, args, kwargs, value: calls.append((args, kwargs)), with_kwargs=True)
    losses = run(model)
    assert losses.keys() == plain.keys()
    # MaskFormer has one call for each layer of its decoder; the last one is logged under the key alone.
    calls = calls[-1:] if name == 'MaskFormer' else calls
    assert calls and all(args[0].dim() == 3 for args, _ in calls)
    options = dict(loss_weight=3.0, normalize_by=normalize_by, activate=name != 'DecoupledSOLO')
    # Mean over all masks of both images.
    values = torch.cat([edge_loss(*args, reduction='none', **options) for args, _ in calls])
    torch.testing.assert_close((losses[key] - plain[key]).sum(), values.mean(), rtol=1e-4, atol=1e-5)
    losses[key].backward()


@pytest.mark.parametrize('name', MODELS_WITH_MAPS)
def test_an_image_without_objects(name):
    losses = run(build(name, [dict(type='EdgeLoss')]), num_items=(0, 2))
    assert all(torch.as_tensor(value).isfinite().all() for value in losses.values() if torch.is_tensor(value))


@pytest.mark.parametrize('shape', [(4, 100), (400,), (400, 1)])
@pytest.mark.parametrize('loss', [dict(type='EdgeLoss'), dict(type='SumMaskLoss', losses=[dict(type='EdgeLoss')])])
def test_sampled_points_and_flattened_pixels_are_refused(loss, shape):
    """As Mask2Former calls its losses, and MaskFormer its loss_mask."""
    with pytest.raises(ValueError, match='the loss needs whole maps, not points sampled from them'):
        MODELS.build(loss)(torch.zeros(shape), torch.zeros(shape), avg_factor=4)


def test_the_points_of_pointrend_are_refused():
    head = MODELS.build(dict(type='MaskPointHead', num_classes=3, loss_point=dict(type='EdgeLoss')))
    with pytest.raises(ValueError, match=r'EdgeLoss: with label, pred must be \(N, C, H, W\).*not points sampled'):
        head.loss_point(torch.zeros(4, 3, 196), torch.zeros(4, 196), torch.zeros(4, dtype=torch.long))
