import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.apis import inference_detector, init_detector
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.runner import CheckpointLoader, Runner
from mmengine.utils import get_installed_path

from mmdet_edge import EdgeAgreementMaskHead, apply_edge_agreement
from mmdet_edge.compat import ops
from mmdet_edge.deployment import export_plain_mmdet, to_plain_checkpoint, to_plain_config
from mmdet_edge.models.mask_heads.edge_agreement_mixin import EdgeAgreementMixin

from .conftest import run_tool

MMDET = Path(get_installed_path('mmdet')) / '.mim' / 'configs'

# What a machine does that has MMDetection only: a detector, and mmdet's own test loop. Where mmcv is not compiled,
# MMDetection alone cannot be imported: there the one file with the operators is run before it.
PLAIN = """
import pickle, runpy, sys, warnings
warnings.simplefilter('ignore')
# Importing it would fail.
sys.modules['mmdet_edge'] = None
folder, image, out, ops = sys.argv[1:]
runpy.run_path(ops)['serve_mmcv_ops']()
from mmdet.apis import inference_detector, init_detector
from mmengine.config import Config
from mmengine.runner import Runner

model = init_detector(f'{folder}/config.py', f'{folder}/weights.pth', device='cpu')
instances = inference_detector(model, image).pred_instances
cfg = Config.fromfile(f'{folder}/config.py')
cfg.update(load_from=f'{folder}/weights.pth', work_dir=f'{out}.run', log_level='ERROR')
metrics = Runner.from_cfg(cfg).test()
del sys.modules['mmdet_edge']
assert not [name for name in sys.modules if name.startswith('mmdet_edge')]
predictions = {key: instances[key].numpy() for key in ('bboxes', 'scores', 'labels', 'masks')}
with open(out, 'wb') as file:
    pickle.dump((predictions, metrics, model.dataset_meta, type(model.roi_head.mask_head).__name__), file)
"""


@pytest.fixture(scope='module')
def exported(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp('exported') / 'new' / 'plain'
    run_tool('to_plain_mask_rcnn.py', *trained, out)
    return out


@pytest.mark.usefixtures('mmdet_alone')
def test_predictions_are_bit_identical_without_this_package(trained, exported, tmp_path):
    config, checkpoint = trained
    image = str(config.parent / 'shapes' / 'val' / '000000.png')
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    done = subprocess.run(
        [sys.executable, '-c', PLAIN, str(exported), image, str(tmp_path / 'plain.pkl'), ops.__file__],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    predictions, metrics, dataset_meta, head = pickle.loads((tmp_path / 'plain.pkl').read_bytes())
    assert head == 'FCNMaskHead'

    model = init_detector(str(config), str(checkpoint), device='cpu')
    assert type(model.roi_head.mask_head) is EdgeAgreementMaskHead
    ours = inference_detector(model, image).pred_instances
    assert len(ours) > 10
    for key, value in predictions.items():
        assert np.array_equal(ours[key].numpy(), value), key
    assert dataset_meta == model.dataset_meta and dataset_meta['classes'][0] == 'star'

    cfg = Config.fromfile(config)
    cfg.update(load_from=str(checkpoint), work_dir=str(tmp_path / 'edge'), log_level='ERROR', experiment_name='edge')
    expected = {k: round(v, 3) for k, v in Runner.from_cfg(cfg).test().items() if 'boundary' not in k}
    assert set(metrics) == set(expected) and metrics == pytest.approx(expected, abs=1.1e-3)


def test_the_folder_holds_config_and_weights_only(trained, exported):
    assert sorted(p.name for p in exported.iterdir()) == ['config.py', 'weights.pth']
    assert list(exported.parent.iterdir()) == [exported]
    text = (exported / 'config.py').read_text()
    for word in ('Edge', 'edge', 'Boundary', 'custom_imports', 'MaskBranchEvalHook', 'work_dir', 'load_from'):
        assert word not in text.replace(str(trained[0].parent), '')
    before = CheckpointLoader.load_checkpoint(str(trained[1]))
    after = torch.load(exported / 'weights.pth', weights_only=True)
    assert {'optimizer', 'message_hub'} <= set(before)
    assert set(after) == {'state_dict', 'meta'} and set(after['meta']) == {'dataset_meta'}
    assert list(after['state_dict']) == list(before['state_dict'])
    assert all(torch.equal(value, before['state_dict'][key]) for key, value in after['state_dict'].items())


def unscoped(value):
    """Drop the `_scope_` that mmengine notes in dicts from another package's config, and what describes a run."""
    if isinstance(value, dict):
        left_out = ('_scope_', 'load_from', 'resume')
        return {k: unscoped(v) for k, v in value.items() if k not in left_out}
    return [unscoped(v) for v in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize(
    ('name', 'edge'),
    [
        ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 'EdgeAgreementMaskHead'),
        ('cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py', 'EdgeAgreementMaskHead'),
        ('htc/htc_r50_fpn_1x_coco.py', 'EdgeAgreementHTCMaskHead'),
    ],
)
def test_undoes_what_makes_an_edge_config(name, edge):
    plain = Config.fromfile(MMDET / name)
    cfg = copy.deepcopy(plain)
    heads = cfg.model.roi_head.mask_head
    for index, head in enumerate(heads if isinstance(heads, list) else [heads]):
        loss = head.loss_mask
        head.update(type=edge, loss_edge=dict(type='EdgeLoss', exponent=1 + index), edge_feature_grad_scale=0)
        head.loss_mask = dict(type='SumMaskLoss', losses=[loss, dict(type='mmdet.EdgeLoss')])
    cfg.val_evaluator = dict(
        cfg.val_evaluator, type='CocoBoundaryMetric', metric=['bbox', 'segm', 'boundary'], boundary_dilation_ratio=0.01
    )
    cfg.custom_hooks = [dict(type='EdgeVisualizationHook'), dict(type='CheckInvalidLossHook')]
    cfg.default_hooks.masks = dict(type='mmdet.MaskBranchEvalHook')
    cfg.custom_imports = dict(imports=['mmdet_edge', 'mmdet_edge.models', 'mmdet'], allow_failed_imports=False)
    cfg.update(work_dir='somewhere', launcher='none')
    before = cfg.to_dict()
    result = to_plain_config(cfg).to_dict()
    assert cfg.to_dict() == before
    assert result.pop('custom_hooks') == [dict(type='CheckInvalidLossHook')]
    assert result.pop('custom_imports') == dict(imports=['mmdet'], allow_failed_imports=False)
    assert unscoped(result) == unscoped(plain.to_dict())


def test_undoes_the_switch_for_condinst():
    plain = Config.fromfile(MMDET / 'condinst' / 'condinst_r50_fpn_ms-poly-90k_coco_instance.py')
    cfg = copy.deepcopy(plain)
    apply_edge_agreement(cfg)
    assert cfg.to_dict() != plain.to_dict()
    assert unscoped(to_plain_config(cfg).to_dict()) == unscoped(plain.to_dict())


CE = dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0)


@pytest.mark.parametrize(
    ('loss', 'expected'),
    [
        (dict(type='EdgeLoss'), CE),
        (dict(type='mmdet_edge.models.losses.EdgeWeightedCrossEntropyLoss'), CE),
        (
            dict(type='SumMaskLoss', losses=[dict(CE, loss_weight=2.0), dict(type='EdgeLoss')]),
            dict(CE, loss_weight=2.0),
        ),
        (dict(type='SumMaskLoss', losses=[CE, dict(type='DiceLoss'), dict(type='EdgeLoss')]), CE),
        (dict(type='DiceLoss'), dict(type='DiceLoss')),
    ],
)
def test_mask_losses(loss, expected):
    cfg = Config(dict(model=dict(roi_head=dict(mask_head=dict(type='FCNMaskHead', loss_mask=loss)))))
    assert to_plain_config(cfg).model.roi_head.mask_head.to_dict() == dict(type='FCNMaskHead', loss_mask=expected)


@pytest.mark.parametrize(('part', 'key'), [('bbox_head', 'loss_mask'), ('panoptic_head', 'loss_dice')])
def test_losses_of_masks_of_the_whole_image(part, key):
    dice = dict(type='DiceLoss', loss_weight=2.0)
    cfg = Config(dict(model={part: {key: dict(type='SumMaskLoss', losses=[dice, dict(type='EdgeLoss')])}}))
    assert to_plain_config(cfg).model[part][key].to_dict() == dice


def test_metrics():
    metric = dict(type='CocoBoundaryMetric', ann_file='a.json', backend='pycocotools')
    cfg = Config(dict(test_evaluator=[dict(metric, metric='boundary'), dict(metric, metric='segm'), metric]))
    assert [dict(m) for m in to_plain_config(cfg).test_evaluator] == [
        dict(type='CocoMetric', ann_file='a.json', metric=name) for name in (['segm'], ['segm'], ['bbox'])
    ]


class ForeignMaskHead(FCNMaskHead):
    """A head of somebody else, registered or not."""


class ForeignTwin(EdgeAgreementMixin, ForeignMaskHead):
    pass


class ForeignForward(ForeignTwin):
    def forward(self, x):
        return -super().forward(x)


def test_further_twins_become_what_they_are_derived_from(monkeypatch):
    for cls in (ForeignTwin, ForeignForward):
        monkeypatch.setitem(MODELS.module_dict, cls.__name__, cls)
    cfg = Config(dict(model=dict(mask_head=[dict(type='ForeignTwin', num_classes=3)])))
    with pytest.raises(ValueError, match=r'model.mask_head.0: ForeignTwin needs mmdet_edge'):
        to_plain_config(cfg)
    monkeypatch.setitem(MODELS.module_dict, 'ForeignMaskHead', ForeignMaskHead)
    assert to_plain_config(cfg).model.mask_head == [dict(type='ForeignMaskHead', num_classes=3)]
    # Its predictions would change.
    cfg.model.mask_head[0].type = 'ForeignForward'
    with pytest.raises(ValueError, match='ForeignForward needs mmdet_edge'):
        to_plain_config(cfg)


@pytest.mark.parametrize(
    'model',
    [dict(roi_head=dict(loss_else=dict(type='EdgeLoss'))), dict(neck=[dict(type='mmdet.SumMaskLoss', losses=[])])],
)
def test_what_nothing_stands_for_is_an_error(model):
    with pytest.raises(ValueError, match=r'^model\..*: (EdgeLoss|SumMaskLoss) needs mmdet_edge, and nothing in plain'):
        to_plain_config(Config(dict(model=model)))
    with pytest.raises(ValueError, match='mmdet_edge has no mmdet_edge.models.Unknown, which the config names'):
        to_plain_config(Config(dict(model=dict(type='mmdet_edge.models.Unknown'))))


def test_meta_data_become_builtin_types():
    meta = dict(dataset_meta=dict(classes=('a',), palette=[np.array([1, 2]), (np.int64(3), 4)]), time='today')
    plain = to_plain_checkpoint(dict(state_dict=dict(weight=torch.ones(1)), meta=meta, optimizer={}))
    assert plain['meta'] == dict(dataset_meta=dict(classes=('a',), palette=[[1, 2], (3, 4)]))
    assert type(plain['meta']['dataset_meta']['palette'][1][0]) is int
    assert set(to_plain_checkpoint(dict(state_dict={}))) == {'state_dict'}
    with pytest.raises(TypeError, match='names as meta data of the data set, got PosixPath'):
        to_plain_checkpoint(dict(state_dict={}, meta=dict(dataset_meta=dict(classes=Path()))))


def fails(cfg, checkpoint, out, match, error=ValueError):
    """Nothing is left behind."""
    with pytest.raises(error, match=match):
        export_plain_mmdet(cfg, str(checkpoint), out)
    assert not out.parent.exists() or list(out.parent.iterdir()) == []


class Untrusted:
    def __reduce__(self):
        return os.mkdir, (os.environ['UNTRUSTED'],)


@pytest.mark.skipif(torch.__version__ < '2.6', reason='torch < 2.6 does not refuse anything by default')
def test_untrusted_checkpoints_are_refused(trained, tmp_path, monkeypatch):
    monkeypatch.setenv('UNTRUSTED', str(tmp_path / 'was_here'))
    torch.save(dict(state_dict={}, meta=Untrusted()), tmp_path / 'untrusted.pth')
    match = 'untrusted.pth .*could run code.*GLOBAL posix.mkdir'
    fails(Config.fromfile(trained[0]), tmp_path / 'untrusted.pth', tmp_path / 'new' / 'plain', match)
    assert not (tmp_path / 'was_here').exists()


def test_damaged_checkpoints_are_refused(trained, tmp_path):
    (tmp_path / 'damaged.pth').write_bytes(trained[1].read_bytes()[:1000])
    (tmp_path / 'empty.pth').touch()
    for name in ('damaged', 'empty'):
        match = f'{name}.pth cannot be loaded: cut off, damaged or not a checkpoint'
        fails(Config.fromfile(trained[0]), tmp_path / f'{name}.pth', tmp_path / 'new' / 'plain', match)


def test_weights_that_do_not_fit_are_told(trained, tmp_path):
    cfg = Config.fromfile(trained[0])
    content = CheckpointLoader.load_checkpoint(str(trained[1]))
    del content['state_dict']['roi_head.mask_head.conv_logits.bias']
    torch.save(content, tmp_path / 'part.pth')
    fails(
        cfg, tmp_path / 'part.pth', tmp_path / 'new' / 'plain', '(?s)part.pth does not fit.*Missing.*conv_logits.bias'
    )
    torch.save(dict(state_dict=dict(a=1)), tmp_path / 'none.pth')
    fails(cfg, tmp_path / 'none.pth', tmp_path / 'new' / 'plain', 'none.pth is not a checkpoint of a model')


def test_the_tool_says_what_it_wrote_and_overwrites_nothing(trained, exported, tmp_path, capsys):
    run_tool('to_plain_mask_rcnn.py', *trained, tmp_path / 'out')
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith('wrote ')]
    assert f'wrote {tmp_path}/out/config.py and {tmp_path}/out/weights.pth (' in line
    before = (exported / 'weights.pth').read_bytes()
    with pytest.raises(SystemExit, match='error: .*plain exists, and nothing is overwritten'):
        run_tool('to_plain_mask_rcnn.py', *trained, exported)
    assert (exported / 'weights.pth').read_bytes() == before
