"""The operators of mmcv that mmdet's configs with an FCN-like mask head need are served, and work in these models."""

import ast
import inspect
import re
import sys
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import mmcv.ops
import pytest
import torch
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.utils import get_installed_path

from mmdet_edge.compat.ops import SERVED, served_operators
from mmdet_edge.config.edge import EDGE_TWINS

MMDET = Path(get_installed_path('mmdet')) / '.mim' / 'configs'

# What mmdet's models use of mmcv.ops -> the compiled operators behind it.
OPERATORS = {
    'CARAFEPack': 'carafe',
    'DeformConv2d': 'deform_conv',
    'DeformConv2dPack': 'deform_conv',
    'ModulatedDeformConv2d': 'modulated_deform_conv',
    'ModulatedDeformConv2dPack': 'modulated_deform_conv',
    'RoIAlign': 'roi_align',
    'SAConv2d': 'deform_conv',
    'SyncBatchNorm': 'sync_bn',
    'batched_nms': 'nms',
    'nms': 'nms',
    'nms_match': 'nms_match',
    'sigmoid_focal_loss': 'sigmoid_focal_loss',
}
# 'type's that are neither registered nor in mmcv.ops: functions of NAS-FPN, ways to initialise, MMPretrain's backbone.
NOT_A_CLASS = {'Pretrained', 'conv', 'interpolation_conv', 'last_conv', 'mmpretrain.ConvNeXt'}

# Operators beyond NMS and RoIAlign -> configs in mmdet 3.3.0.
EXPECTED = {
    (): 195,
    ('deform_conv',): 13,
    ('sync_bn',): 10,
    ('sigmoid_focal_loss',): 5,
    ('modulated_deform_conv',): 3,
    ('nms_match',): 2,
    ('carafe',): 1,
}


def dicts_in(config):
    """All dicts of a config, the outer ones first."""
    if isinstance(config, dict):
        yield config
    if isinstance(config, (dict, list, tuple)):
        for value in config.values() if isinstance(config, dict) else config:
            yield from dicts_in(value)


@cache
def used_of_mmcv_ops(name):
    """Names of mmcv.ops that a registered class is, or imports in its module or a parent's."""
    found = MODELS.get(name) or TASK_UTILS.get(name)
    if found is None:
        return {name} if hasattr(mmcv.ops, name) else set()
    names = set()
    for parent in inspect.getmro(found) if inspect.isclass(found) else ():
        if parent.__module__.startswith('mmcv.ops.'):
            names.add(parent.__name__)
        elif parent.__module__.startswith('mmdet.'):
            for node in ast.walk(ast.parse(inspect.getsource(sys.modules[parent.__module__]))):
                if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('mmcv.ops'):
                    names.update(alias.name for alias in node.names)
    # The mask head's module imports it for one kind of upsampling, whose type is 'carafe'.
    return names - {'CARAFEPack'} if name != 'carafe' else names


@pytest.fixture(scope='module')
def needs(read_config):
    """(RoI head, mask head, operators beyond NMS and RoIAlign) -> names of configs."""
    register_all_modules()
    needs = defaultdict(list)
    for path in sorted(MMDET.rglob('*.py')):
        # The others would be read for nothing; how many have a mask head is known.
        if '_base_' in path.relative_to(MMDET).parts or not re.search(
            'mask|htc|ms-rcnn|scnet|queryinst|panoptic|instance', path.name
        ):
            continue
        try:
            model = read_config(path).get('model', {})
        except (FileNotFoundError, ModuleNotFoundError):
            continue
        model = model.get('detector', model)
        roi_head = model.get('roi_head') or {}
        heads = roi_head.get('mask_head')
        head = heads[0] if isinstance(heads, list) else heads
        if not head or head['type'] not in EDGE_TWINS:
            continue
        types = {part['type'] for part in dicts_in(model.to_dict()) if isinstance(part.get('type'), str)}
        for name in types:
            known = MODELS.get(name) or TASK_UTILS.get(name) or hasattr(mmcv.ops, name) or name in NOT_A_CLASS
            assert known, f'{path.name}: {name}'
        # A name that is not in the table is a failure: nobody has looked yet whether it is served.
        operators = {OPERATORS[used] for name in types for used in used_of_mmcv_ops(name)}
        key = roi_head['type'], head['type'], tuple(sorted(operators - {'nms', 'roi_align'}))
        needs[key].append(str(path.relative_to(MMDET)))
    return needs


def test_all_configs_of_mmdet_are_served(needs):
    counts = Counter()
    for (_, _, operators), names in needs.items():
        counts[operators] += len(names)
    assert counts == EXPECTED and sum(counts.values()) == 229
    assert {'nms', 'roi_align', *sum(counts, ())} <= set(served_operators())


SMALL = {
    ('StandardRoIHead', 'FCNMaskHead', ()): 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    ('StandardRoIHead', 'FCNMaskHead', ('carafe',)): 'carafe/mask-rcnn_r50_fpn-carafe_1x_coco.py',
    ('StandardRoIHead', 'FCNMaskHead', ('deform_conv',)): 'dcn/mask-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py',
    ('StandardRoIHead', 'FCNMaskHead', ('modulated_deform_conv',)): 'dcnv2/mask-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py',
    ('StandardRoIHead', 'FCNMaskHead', ('sync_bn',)): (
        'simple_copy_paste/mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_32xb2-ssj-270k_coco.py'
    ),
    ('CascadeRoIHead', 'FCNMaskHead', ()): 'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
    ('CascadeRoIHead', 'FCNMaskHead', ('deform_conv',)): 'dcn/cascade-mask-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py',
    ('HybridTaskCascadeRoIHead', 'HTCMaskHead', ()): 'htc/htc_r50_fpn_1x_coco.py',
    # Switchable atrous convolution.
    ('HybridTaskCascadeRoIHead', 'HTCMaskHead', ('deform_conv',)): 'detectors/detectors_htc-r50_1x_coco.py',
    ('MaskScoringRoIHead', 'FCNMaskHead', ()): 'ms_rcnn/ms-rcnn_r50_fpn_1x_coco.py',
    ('PISARoIHead', 'FCNMaskHead', ('nms_match',)): 'pisa/mask-rcnn_r50_fpn_pisa_1x_coco.py',
    ('SCNetRoIHead', 'SCNetMaskHead', ()): 'scnet/scnet_r50_fpn_1x_coco.py',
    ('SparseRoIHead', 'DynamicMaskHead', ('sigmoid_focal_loss',)): 'queryinst/queryinst_r50_fpn_1x_coco.py',
}


CALLED = {
    'carafe': ('carafe_forward', 'carafe_backward'),
    'deform_conv': ('deform_conv_forward', 'deform_conv_backward_input', 'deform_conv_backward_parameters'),
    'modulated_deform_conv': ('modulated_deform_conv_forward', 'modulated_deform_conv_backward'),
    'nms_match': ('nms_match',),
    'sigmoid_focal_loss': ('sigmoid_focal_loss_forward', 'sigmoid_focal_loss_backward'),
    'sync_bn': ('sync_bn_forward_output', 'sync_bn_backward_data'),
}


def test_each_combination_is_built(needs):
    assert set(SMALL) == set(needs)
    assert all(name in needs[key] for key, name in SMALL.items())


@pytest.fixture(scope='module')
def process_group(tmp_path_factory):
    """A group of one process: mmcv's SyncBN asks for its size."""
    store = tmp_path_factory.mktemp('process_group') / 'store'
    torch.distributed.init_process_group('gloo', init_method=f'file://{store}', rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(sys.modules['mmcv._ext'].nms is not SERVED['nms'], reason='mmcv is compiled here')
@pytest.mark.parametrize('key', SMALL, ids=lambda key: '-'.join([*key[:2], *key[2]]))
def test_one_of_each_combination_trains_and_predicts(key, read_config, process_group, device, monkeypatch):
    register_all_modules()
    called = set()
    for name, function in SERVED.items():
        spy = lambda *args, name=name, function=function, **kwargs: called.add(name) or function(*args, **kwargs)  # noqa: E731
        monkeypatch.setattr(sys.modules['mmcv._ext'], name, spy)
    cfg = read_config(MMDET / SMALL[key])
    shrink(cfg.model)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).to(device)
    model.init_weights()
    data = demo_mm_inputs(2, [[3, 128, 128]] * 2, num_items=[3, 0], with_mask=True, with_semantic=True)
    losses = model.train()(**model.data_preprocessor(data, True), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        predictions = model.eval()(**model.data_preprocessor(data, False), mode='predict')
    assert all(len(sample.pred_instances.masks) == len(sample.pred_instances) > 0 for sample in predictions)
    expected = {'nms', 'roi_align_forward', 'roi_align_backward', *CALLED.get(''.join(key[2]), ())}
    if key[0] == 'SparseRoIHead':
        # It suppresses nothing, and on a CPU mmdet has a focal loss of its own.
        expected -= {'nms'} if device.type == 'cuda' else {'nms', *CALLED['sigmoid_focal_loss']}
    assert expected <= called


def shrink(model):
    """Make a model small; all of its kinds of layers stay."""
    for part in dicts_in(model):
        part.pop('init_cfg', None)
        part.pop('pretrained', None)
        if part.get('type') in ('ResNet', 'DetectoRS_ResNet'):
            # Batch statistics: without trained weights, activations grow from layer to layer.
            part.update(base_channels=8, norm_eval=False)
        if part.get('type') in ('BN', 'SyncBN'):
            # torch's SyncBN is for GPUs.
            part.update(type='BN', momentum=1.0)
        if part.get('in_channels') == [256, 512, 1024, 2048]:
            part['in_channels'] = [32, 64, 128, 256]
        for name, value in part.items():
            if name.endswith(('channels', 'channel')) and value in (256, 1024):
                part[name] = 32
        if 'num' in part.get('sampler', {}):
            part['sampler']['num'] = 16
        if part.get('type') == 'ScoreHLRSampler':
            # Groups the negatives of which the head is sure; untrained, it is sure of nothing.
            part['score_thr'] = 0
        if 'bbox_coder' in part:
            # Untrained, a head may put boxes beyond the image, where mmdet cannot paste a mask on a CPU.
            part['bbox_coder']['clip_border'] = True
        part.update({name: 20 for name in ('max_per_img', 'num_proposals') if name in part})
        part.pop('batch_augments', None)
    model.test_cfg.rcnn.score_thr = 0
