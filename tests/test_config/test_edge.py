"""apply_edge_agreement: what it does and refuses, and all of mmdet's configs."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.utils import get_installed_path

from mmdet_edge import EdgeLoss, apply_edge_agreement
from mmdet_edge.config.edge import EDGE_TWINS, WHOLE_IMAGE_LOSS
from mmdet_edge.config.types import as_list

MMDET = Path(get_installed_path('mmdet')) / '.mim' / 'configs'
FCN, EDGE = 'FCNMaskHead', 'EdgeAgreementMaskHead'

# (RoI head, mask head) -> configs in mmdet 3.3.0. Three of them, ConvNeXt's, only read where MMPretrain is installed.
CONVERTED = {
    ('StandardRoIHead', 'FCNMaskHead'): 144,
    ('CascadeRoIHead', 'FCNMaskHead'): 48,
    ('HybridTaskCascadeRoIHead', 'HTCMaskHead'): 17,
    ('MaskScoringRoIHead', 'FCNMaskHead'): 8,
    ('SCNetRoIHead', 'SCNetMaskHead'): 5,
    ('SparseRoIHead', 'DynamicMaskHead'): 5,
    ('PISARoIHead', 'FCNMaskHead'): 2,
    ('CondInst', 'CondInstMaskHead'): 1,
}
# The types of model.mask_head of detectors without RoIs, and PointRend's.
REFUSED = {
    'CoarseMaskHead': 2,
    'BoxInstMaskHead': 2,
    'DecoupledSOLOHead': 2,
    'DecoupledSOLOLightHead': 1,
    'SOLOHead': 5,
    'SOLOV2Head': 9,
    'YOLACTProtonet': 3,
}


def config(mask_head, **roi_head):
    return Config(dict(model=dict(type='Detector', roi_head=dict(mask_head=mask_head, **roi_head))))


def cascade(mask_head=None, num_stages=3):
    mask_head = mask_head or dict(type=FCN, num_classes=3)
    return config(mask_head, type='CascadeRoIHead', num_stages=num_stages)


def types(cfg):
    return [head['type'] for head in cfg.model.roi_head.mask_head]


def test_standard_head():
    cfg = config(dict(type=FCN, num_classes=3), type='StandardRoIHead')
    apply_edge_agreement(cfg)
    assert cfg.model.to_dict() == dict(
        type='Detector', roi_head=dict(type='StandardRoIHead', mask_head=dict(type=EDGE, num_classes=3))
    )
    assert cfg.custom_imports == dict(imports=['mmdet_edge'], allow_failed_imports=False)


def test_loss_edge_is_written_copied_and_replaced():
    cfg = config(dict(type=FCN))
    loss = dict(type='EdgeLoss', filters=['sobel', 'laplacian'])
    apply_edge_agreement(cfg, loss_edge=loss)
    assert cfg.model.roi_head.mask_head.loss_edge == loss
    loss['filters'].append('roberts')
    assert cfg.model.roi_head.mask_head.loss_edge.filters == ['sobel', 'laplacian']
    # Without one, what is there stays: by a config, or --cfg-options model.roi_head.mask_head.loss_edge.exponent=2.
    apply_edge_agreement(cfg)
    assert cfg.model.roi_head.mask_head.loss_edge.filters == ['sobel', 'laplacian']
    apply_edge_agreement(cfg, loss_edge=dict(exponent=2))
    assert cfg.model.roi_head.mask_head.loss_edge == dict(exponent=2)


@pytest.mark.parametrize(
    ('stages', 'selected'), [('all', [0, 1, 2]), ('last', [2]), ([1, 2], [1, 2]), ((0,), [0]), ([2, 0, 2], [0, 2])]
)
@pytest.mark.parametrize('given', ['dict', 'list', 'list of edge heads'])
def test_stages(stages, selected, given):
    head = dict(type=FCN, num_classes=3)
    if given == 'list of edge heads':
        head = dict(head, type=EDGE, loss_edge=dict(exponent=2), feature_grad_scale=1, edge_feature_grad_scale=0)
    cfg = cascade(head if given == 'dict' else [head] * 3)
    apply_edge_agreement(cfg, stages=stages)
    heads = cfg.model.roi_head.mask_head
    if (given, stages) == ('dict', 'all'):
        assert heads == dict(type=EDGE, num_classes=3)
        return
    edge = dict(head, type=EDGE)
    assert heads == [edge if stage in selected else dict(type=FCN, num_classes=3) for stage in range(3)]
    # One dict for all would get what is meant for one.
    assert len({id(head) for head in heads}) == 3


def test_stages_can_be_changed_again():
    cfg = cascade()
    for stages, expected in (('last', [FCN, FCN, EDGE]), ([0], [EDGE, FCN, FCN]), ('all', [EDGE] * 3)):
        apply_edge_agreement(cfg, stages=stages)
        assert types(cfg) == expected


@pytest.mark.parametrize(
    ('cfg', 'stages', 'message'),
    [
        (cascade(), [3], r'stages of model.roi_head.mask_head must be from 0 to 2, got \[3\]; .* counted from 0'),
        (cascade(), [-1], r'must be from 0 to 2, got \[-1\]'),
        (cascade(), [], r"must be 'all', 'last' or a list of numbers counted from 0, such as \[1, 2\], got \[\]"),
        (cascade(), 'first', "got 'first'"),
        (cascade(), 2, 'got 2'),
        (cascade(), ['last'], 'got .*last'),
        (cascade(), [True], 'got .*True'),
        (config(dict(type=FCN)), 'last', "stages must be 'all' for model.roi_head.mask_head, which is one head"),
        # Its boxes are a cascade, its mask head is one.
        (config(dict(type='SCNetMaskHead'), type='SCNetRoIHead', num_stages=3), [0], "stages must be 'all' for"),
    ],
)
def test_wrong_stages(cfg, stages, message):
    before = cfg.to_dict()
    with pytest.raises(ValueError, match=f'^apply_edge_agreement: .*{message}'):
        apply_edge_agreement(cfg, stages=stages)
    assert cfg.to_dict() == before


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (config(dict(type='CoarseMaskHead')), 'got CoarseMaskHead; its map of 7x7 pixels is too coarse'),
        (
            config(dict(type='MyHead')),
            'model.roi_head.mask_head must be of type FCNMaskHead, .*got MyHead; .*EdgeAgreeme',
        ),
        (config(dict(num_classes=3)), 'got None'),
        (config(None), 'expected a model with a mask head of type FCNMaskHead, .*got one of type Detector without any'),
        (Config(dict(model=dict(type='Mask2Former'))), 'got one of type Mask2Former without any mask_head'),
        (Config(dict(model=dict(type='RTMDet'))), 'for masks of the whole image, make its loss_mask a SumMaskLoss'),
        (
            Config(dict(model=dict(mask_head=dict(type='SOLOHead')))),
            'SOLOHead; .*for masks of the whole image, make its loss_mask a SumMaskLoss',
        ),
        (Config(dict(a=1)), 'got one of type None'),
        # Its RoI head would drop the loss without a word.
        (config(dict(type=FCN), type='SCNetRoIHead', num_stages=3), 'must be of type SCNetMaskHead, got FCNMaskHead'),
        # The first head could be converted, the second cannot.
        (cascade([dict(type=FCN), dict(type='CoarseMaskHead')], 2), 'got CoarseMaskHead'),
    ],
)
def test_what_cannot_be_converted(cfg, message):
    before = cfg.to_dict()
    with pytest.raises(ValueError, match=f'^apply_edge_agreement: .*{message}'):
        apply_edge_agreement(cfg)
    assert cfg.to_dict() == before


DICE = dict(type='DiceLoss', loss_weight=2.0)


def condinst(loss_mask, prefix=''):
    return Config(
        dict(model=dict(type='CondInst', mask_head=dict(type=f'{prefix}CondInstMaskHead', loss_mask=loss_mask)))
    )


@pytest.mark.parametrize(
    ('calls', 'options'),
    [
        ([None], {}),
        ([None, None], {}),
        ([dict(exponent=1.5)], dict(exponent=1.5)),
        ([None, dict(exponent=1.5), None], dict(exponent=1.5)),
        ([dict(exponent=1.5), dict(loss_weight=1.0)], dict(loss_weight=1.0)),
    ],
)
def test_condinst_gets_one_edge_loss_beside_its_own(calls, options):
    cfg = condinst(DICE)
    for loss_edge in calls:
        apply_edge_agreement(cfg, loss_edge=loss_edge)
    losses = [DICE, {**WHOLE_IMAGE_LOSS, **options}]
    assert cfg.model.mask_head == dict(type='CondInstMaskHead', loss_mask=dict(type='SumMaskLoss', losses=losses))
    assert cfg.custom_imports.imports == ['mmdet_edge']


def test_condinst_keeps_the_sum_that_it_has():
    focal, edge = dict(type='FocalLoss'), dict(type='EdgeLoss', exponent=3, activate=False)
    cfg = condinst(dict(type='SumMaskLoss', losses=[edge, DICE, focal], activate=False))
    apply_edge_agreement(cfg)
    assert cfg.model.mask_head.loss_mask == dict(type='SumMaskLoss', losses=[DICE, focal, edge], activate=False)
    cfg = condinst(DICE, 'mmdet.')
    cfg.model.mask_head.loss_mask.type = 'mmdet.DiceLoss'
    apply_edge_agreement(cfg)
    assert cfg.model.mask_head.loss_mask.type == 'mmdet.SumMaskLoss'
    assert cfg.model.mask_head.loss_mask.losses[1] == {**WHOLE_IMAGE_LOSS, 'type': 'mmdet.EdgeLoss'}


@pytest.mark.parametrize(
    'loss_mask',
    [
        None,
        [DICE],
        {},
        dict(loss_weight=1.0),
        *(dict(type='SumMaskLoss', losses=x) for x in (None, [], 'DiceLoss', [None], DICE)),
    ],
)
def test_condinst_without_a_loss(loss_mask):
    cfg = condinst(loss_mask)
    with pytest.raises(ValueError, match='model.mask_head must have a loss_mask, .* got'):
        apply_edge_agreement(cfg)
    assert cfg.to_dict() == condinst(loss_mask).to_dict()


def test_condinst_takes_no_other_edge_loss():
    cfg = condinst(DICE)
    with pytest.raises(ValueError, match="loss_edge of model.mask_head must be of type EdgeLoss, got 'EdgeWeighted"):
        apply_edge_agreement(cfg, loss_edge=dict(type='EdgeWeightedCrossEntropyLoss'))
    assert cfg.to_dict() == condinst(DICE).to_dict()


def test_condinst_stays_as_it_was_if_another_part_is_refused():
    cfg = condinst(DICE)
    cfg.model.other = dict(mask_head=dict(type='CoarseMaskHead'))
    before = cfg.to_dict()
    with pytest.raises(ValueError, match='too coarse'):
        apply_edge_agreement(cfg)
    assert cfg.to_dict() == before


def test_condinst_has_no_stages():
    cfg = condinst(DICE)
    with pytest.raises(ValueError, match="stages must be 'all' for model.mask_head, which is one head"):
        apply_edge_agreement(cfg, stages='last')
    assert cfg.to_dict() == condinst(DICE).to_dict()


def test_wrong_types():
    with pytest.raises(TypeError, match='cfg must be a parsed config, got str; read a file with mmengine.Config'):
        apply_edge_agreement('config.py')
    with pytest.raises(TypeError, match="loss_edge must be a config, .*got 'EdgeLoss'"):
        apply_edge_agreement(config(dict(type=FCN)), loss_edge='EdgeLoss')


def test_wherever_the_head_stands():
    inner = dict(type='MaskRCNN', roi_head=dict(mask_head=dict(type=FCN)))
    for model, find in (
        (dict(type='SoftTeacher', detector=inner), lambda m: m.detector.roi_head),
        (dict(type='DetTTAModel', module=inner), lambda m: m.module.roi_head),
        (dict(type='Mine', roi_head=[inner['roi_head']]), lambda m: m.roi_head[0]),
    ):
        cfg = Config(dict(model=model))
        apply_edge_agreement(cfg)
        assert find(cfg.model).mask_head.type == EDGE


def test_scope_and_class_of_a_type():
    # The class is what mmengine's pure Python configs have, and the path to it what they are dumped as.
    for given in ('mmdet.FCNMaskHead', FCNMaskHead, 'mmdet.models.FCNMaskHead'):
        cfg = config(dict(type=given))
        apply_edge_agreement(cfg)
        assert cfg.model.roi_head.mask_head.type == 'mmdet.EdgeAgreementMaskHead'


@pytest.mark.parametrize('given', [dict(imports='mine', allow_failed_imports=True), dict(imports=['mine']), None])
def test_custom_imports_are_kept(given):
    cfg = config(dict(type=FCN))
    cfg.custom_imports = given
    for _ in range(2):
        apply_edge_agreement(cfg)
        assert cfg.custom_imports.imports == (['mine', 'mmdet_edge'] if given else ['mmdet_edge'])
    assert cfg.custom_imports.get('allow_failed_imports') == (given or dict(allow_failed_imports=False)).get(
        'allow_failed_imports'
    )


def test_all_configs_of_mmdet(read_config):
    register_all_modules()
    converted, refused, unreadable, mask_heads = Counter(), Counter(), [], {}
    for path in sorted(MMDET.rglob('*.py')):
        if '_base_' in path.relative_to(MMDET).parts:
            continue
        try:
            cfg = read_config(path)
        except (FileNotFoundError, ModuleNotFoundError):
            unreadable.append(path.name)
            continue
        before = cfg.to_dict()
        try:
            apply_edge_agreement(cfg)
        except ValueError as error:
            message = str(error)
            refused[None if 'without any mask_head' in message else message.partition('got ')[2].partition(';')[0]] += 1
            assert cfg.to_dict() == before
            continue
        after = cfg.to_dict()
        apply_edge_agreement(cfg)
        assert cfg.to_dict() == after
        (part, heads), (changed, edge_heads) = mask_heads_of(before), mask_heads_of(after)
        (plain,) = {head['type'] for head in heads}
        converted[part['type'], plain] += 1
        if plain in EDGE_TWINS:
            assert edge_heads == [dict(head, type=EDGE_TWINS[plain]) for head in heads]
        mask_heads.update({repr(head): head for head in edge_heads})
        # Nothing else has changed.
        imports = after.pop('custom_imports')['imports']
        assert imports == [*before.pop('custom_imports', dict(imports=[]))['imports'], 'mmdet_edge']
        changed['mask_head'] = part['mask_head']
        assert after == before
    assert converted == CONVERTED
    assert {name: count for name, count in refused.items() if name} == REFUSED
    # Bases that mmdet lacks, and MMPretrain's: trackers, detectors of boxes and classifiers.
    assert len(unreadable) == 9 and not [name for name in unreadable if 'mask' in name or 'htc' in name]
    with_rois = sum(count for (_, head), count in converted.items() if head in EDGE_TWINS)
    assert with_rois + refused['CoarseMaskHead'] == 231
    readme = ' '.join((Path(__file__).parents[2] / 'README.md').read_text().split())
    assert f'convert {with_rois} of the 231 configs' in readme
    for head in mask_heads.values():
        if 'SyncBN' in (head.get('norm_cfg') or {}).get('type', ''):
            # Needs a process group.
            head['norm_cfg']['type'] = 'BN'
        losses = [part for part in MODELS.build(head).modules() if type(part) is EdgeLoss]
        assert len(losses) == 1 and losses[0].loss_weight == (0.5 if head['type'] == 'CondInstMaskHead' else 3)


def mask_heads_of(cfg):
    """The RoI head, or the model without RoIs, and its mask heads."""
    model = cfg['model'].get('detector', cfg['model'])
    part = model.get('roi_head', model)
    heads = part['mask_head']
    return part, heads if isinstance(heads, list) else [heads]


SMALL = [
    ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', ['loss_edge']),
    ('cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py', ['s0.loss_edge', 's1.loss_edge', 's2.loss_edge']),
    ('htc/htc_r50_fpn_1x_coco.py', ['s0.loss_edge', 's1.loss_edge', 's2.loss_edge']),
    ('ms_rcnn/ms-rcnn_r50_fpn_1x_coco.py', ['loss_edge']),
    # Part of loss_mask.
    ('scnet/scnet_r50_fpn_1x_coco.py', []),
    ('queryinst/queryinst_r50_fpn_1x_coco.py', ['s0.loss_edge', 's1.loss_edge']),
    ('pisa/mask-rcnn_r50_fpn_pisa_1x_coco.py', ['loss_edge']),
]


def test_each_kind_is_built(read_config):
    # CondInst's loss is in tests/test_models/test_losses/test_whole_image_masks.py.
    kinds = {('CondInst', 'CondInstMaskHead')}
    for name, _ in SMALL:
        roi_head, heads = mask_heads_of(read_config(MMDET / name))
        kinds.add((roi_head['type'], heads[0]['type']))
    assert kinds == set(CONVERTED)


@pytest.mark.parametrize(('name', 'keys'), SMALL)
def test_one_of_each_kind_trains_and_predicts_as_its_plain_twin(name, keys, read_config):
    register_all_modules()
    cfg = read_config(MMDET / name)
    shrink(cfg.model)
    plain = MODELS.build(cfg.model).eval()
    apply_edge_agreement(cfg)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    data = demo_mm_inputs(2, [[3, 64, 64]] * 2, num_items=[3, 0], with_mask=True, with_semantic=True)
    losses = model.train()(**model.data_preprocessor(data, True), mode='loss')
    assert [key for key in losses if 'edge' in key] == keys
    total, _ = model.parse_losses(losses)
    total.backward()
    edge_losses = [losses[key] for key in keys or ['loss_mask']]
    assert all(loss.requires_grad and loss > 0 for loss in edge_losses)
    if len(keys) == 3:
        # Stages are weighted 1, 0.5 and 0.25, and the losses of untrained stages differ little.
        assert losses[keys[2]] < 0.6 * losses[keys[0]]
    heads = model.roi_head.mask_head
    for head in heads if len(keys) > 1 else [heads]:
        assert head.conv_logits.weight.grad.abs().sum() > 0
    # Strictly: both have the same parameters.
    plain.load_state_dict(model.state_dict())
    predicted, expected = (
        [sample.pred_instances for sample in m.eval()(**m.data_preprocessor(data, False), mode='predict')]
        for m in (model, plain)
    )
    for instances, others in zip(predicted, expected):
        assert len(instances) > 0 and set(instances.keys()) >= {'bboxes', 'scores', 'labels', 'masks'}
        assert 0 < instances.masks.float().mean() < 1
        assert set(instances.keys()) == set(others.keys())
        assert all(torch.equal(value, others[key]) for key, value in instances.items())


@pytest.mark.parametrize(('name', 'num_losses'), [(SMALL[0][0], 2), (SMALL[2][0], 6), (SMALL[5][0], 4)])
def test_a_scale_for_the_edge_loss_alone_changes_its_gradient_only(name, num_losses, read_config):
    register_all_modules()
    cfg = read_config(MMDET / name)
    shrink(cfg.model)
    apply_edge_agreement(cfg)
    losses = []
    for scale in (None, 0):
        for head in as_list(cfg.model.roi_head.mask_head):
            head.edge_feature_grad_scale = scale
        torch.manual_seed(0)
        model = MODELS.build(cfg.model).train()
        model.init_weights()
        data = demo_mm_inputs(2, [[3, 64, 64]] * 2, num_items=[3, 0], with_mask=True, with_semantic=True)
        torch.manual_seed(1)
        returned = model(**model.data_preprocessor(data, True), mode='loss')
        total, log = model.parse_losses(returned)
        # The semantic segmentation of the data is random.
        losses.append({key: value for key, value in log.items() if key.endswith(('loss_mask', 'loss_edge'))})
        edge = sum(value for key, value in returned.items() if key.endswith('loss_edge'))
        edge.backward(retain_graph=True)
        trained = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        # The RoI features come from the neck.
        assert any(name.startswith('neck') for name in trained) == (scale is None)
        assert all(name.startswith('roi_head.mask_head') for name in trained) == (scale == 0)
        total.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    torch.testing.assert_close(losses[0], losses[1])
    assert len(losses[0]) == num_losses


def shrink(model):
    """Make a model small, as mmdet's own tests do."""
    model.backbone.update(depth=18, init_cfg=None)
    model.neck.in_channels = [64, 128, 256, 512]
    roi_head, rcnn = model.roi_head, model.train_cfg.rcnn
    for stage in rcnn if isinstance(rcnn, list) else [rcnn]:
        if 'num' in stage.sampler:
            stage.sampler.num = 16
    for proposals in (model.train_cfg.get('rpn_proposal'), model.test_cfg.rpn):
        if proposals:
            proposals.max_per_img = 20
    # An untrained model is sure of nothing.
    model.test_cfg.rcnn.update(max_per_img=3, score_thr=0)
    if roi_head.type == 'SparseRoIHead':
        roi_head.num_stages = 2
        for key in ('stage_loss_weights', 'bbox_head', 'mask_head'):
            roi_head[key] = roi_head[key][:2]
        model.train_cfg.rcnn = model.train_cfg.rcnn[:2]
        # Each query is an output.
        model.rpn_head.num_proposals = model.test_cfg.rcnn.max_per_img = 20
        for head in roi_head.bbox_head:
            # Untrained, it may put boxes beyond the image, where mmdet cannot paste a mask on a CPU.
            head.bbox_coder.clip_border = True
