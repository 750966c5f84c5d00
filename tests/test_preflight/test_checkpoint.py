import re

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.model import PretrainedInit
from mmengine.registry import init_default_scope

from mmdet_edge import get_config_path
from mmdet_edge.errors import UserError
from mmdet_edge.preflight import checkpoint as checks
from mmdet_edge.preflight.checkpoint import check_checkpoint
from mmdet_edge.preflight.model import build_model

from ..test_reliability.conftest import EDGE

COCO = get_config_path('mask_rcnn_edge/mask-rcnn_r50_fpn_edge_1x_coco.py')


def checkpoint_cases(weights, folder):
    """Name -> file, what is said of it for a test, and whether a training run starts from it."""
    whole = dict(state_dict=weights, meta={})
    kept = {k: v for k, v in weights.items() if 'mask_head' not in k}
    other = {k: v[:4] if 'fc_cls' in k else v for k, v in weights.items()}
    contents = {
        'another architecture': (dict(state_dict=dict(encoder=torch.ones(3))), 'nothing in .* fits the model', False),
        'without a mask head': (
            dict(state_dict=kept),
            r'lacks \d+ of the \d+ weights of the model: roi_head.mask',
            True,
        ),
        'other classes': (dict(state_dict=other), 'does not fit the model, as if of other classes', True),
        'a list': ([1, 2], 'is not a checkpoint of a model', False),
        'no weights': (dict(state_dict={}), 'is not a checkpoint of a model', False),
        'from several GPUs': (dict(state_dict={f'module.{k}': v for k, v in weights.items()}), None, True),
        'weights alone': (weights, None, True),
        'whole': (whole, None, True),
    }
    cases = {}
    for name, (data, message, starts) in contents.items():
        torch.save(data, folder / f'{name}.pth'.replace(' ', '_'))
        cases[name] = (folder / f'{name}.pth'.replace(' ', '_'), message, starts)
    data = (folder / 'whole.pth').read_bytes()
    for name, damaged in {
        'cut off': data[: len(data) // 2],
        'one byte less': data[:-1],
        'an empty file': b'',
        'a text': b'epoch,loss\n1,2\n',
        'an image': b'\x89PNG\r\n\x1a\n' * 10,
    }.items():
        path = folder / f'{name}.pth'.replace(' ', '_')
        path.write_bytes(damaged)
        cases[name] = (path, '(cannot be loaded: cut off, damaged|is not a checkpoint)', False)
    return cases


def test_checkpoints(weights, call, error_of, shapes, tmp_path):
    options = ('--check', '--work-dir', tmp_path / 'run', '--cfg-options', f'data_root={shapes}')
    (tmp_path / 'files').mkdir()
    cases = checkpoint_cases(weights, tmp_path / 'files')
    model = build_model(Config.fromfile(EDGE))
    for name, (path, message, starts) in cases.items():
        for whole, text in ((True, message), (False, None if starts else '')):
            if text is None:
                check_checkpoint(str(path), model, whole)
            else:
                with pytest.raises(UserError, match=text) as raised:
                    check_checkpoint(str(path), model, whole)
                assert str(path) in str(raised.value) and '\n' not in str(raised.value), name
    assert 'lacks' in error_of('test.py', EDGE, cases['without a mask head'][0], *options)
    call('train.py', EDGE, *options, f'load_from={cases["without a mask head"][0]}')
    assert not (tmp_path / 'run').exists()


def test_a_detector_for_a_student_and_its_teacher(checkpoint, tmp_path):
    init_default_scope('mmdet')
    model = MODELS.build(dict(type='SoftTeacher', detector=Config.fromfile(EDGE).model, semi_train_cfg={}))
    for whole in (True, False):
        check_checkpoint(str(checkpoint), model, whole)
    torch.save(dict(encoder=torch.ones(3)), tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=r'nothing in .* fits the model \(SoftTeacher\); it has encoder'):
        check_checkpoint(str(tmp_path / 'other.pth'), model, whole=False)


def test_a_resume_needs_the_whole_model(weights, error_of, shapes, tmp_path):
    (tmp_path / 'files').mkdir()
    cases = checkpoint_cases(weights, tmp_path / 'files')
    for name in ('without a mask head', 'cut off'):
        path, message, _ = cases[name]
        found = error_of('train.py', EDGE, '--resume', path, '--check', '--cfg-options', f'data_root={shapes}')
        assert re.search(message, found), found


def test_checkpoint(tmp_path):
    torch.save(dict(state_dict=dict(weight=torch.ones(1))), tmp_path / 'iter_300.pth')
    checks.check_checkpoint(str(tmp_path / 'iter_300.pth'))
    checks.check_checkpoint('https://host/x.pth')
    # As DeepSpeed and FSDP write it.
    (tmp_path / 'x' / 'epoch_1.pth').mkdir(parents=True)
    checks.check_checkpoint(str(tmp_path / 'x' / 'epoch_1.pth'))
    for path in (tmp_path / 'iter_3.pth', tmp_path):
        with pytest.raises(UserError, match='checkpoint not found: .*; .* has iter_300.pth'):
            checks.check_checkpoint(str(path))


def test_torchvision_weights_need_torchvision(monkeypatch):
    model = Config.fromfile(COCO).model
    monkeypatch.setattr(checks.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(
        UserError,
        match='model.backbone.init_cfg is torchvision://resnet50, but torchvision is not installed.*=None',
    ):
        checks.check_pretrained(model)
    monkeypatch.setattr(checks.importlib.util, 'find_spec', lambda name: name)
    checks.check_pretrained(model)
    model.backbone.init_cfg.checkpoint = '/nowhere.pth'
    with pytest.raises(UserError, match='weights not found: model.backbone.init_cfg is /nowhere.pth'):
        checks.check_pretrained(model)
    with pytest.raises(UserError, match='weights not found: model.init_cfg is /nowhere.pth'):
        checks.check_pretrained(ConfigDict(init_cfg=dict(type=PretrainedInit, checkpoint='/nowhere.pth')))
    model.backbone.init_cfg = None
    checks.check_pretrained(model)


def test_the_classes_of_a_checkpoint_are_compared(weights, error_of, shapes, tmp_path):
    classes = Config.fromfile(EDGE).test_dataloader.dataset.metainfo.classes
    meta = dict(dataset_meta=dict(classes=(classes[1], classes[0], *classes[2:])))
    torch.save(dict(state_dict=weights, meta=meta), tmp_path / 'x.pth')
    command = (
        EDGE,
        tmp_path / 'x.pth',
        '--check',
        '--work-dir',
        tmp_path / 'run',
        '--cfg-options',
        f'data_root={shapes}',
    )
    assert 'test_dataloader has other classes than the checkpoint' in error_of('test.py', *command)
