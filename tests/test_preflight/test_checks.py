import json
import shutil

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import PretrainedInit

from mmdet_edge import get_config_path
from mmdet_edge.config import edits
from mmdet_edge.engine import launch
from mmdet_edge.errors import UserError
from mmdet_edge.preflight import checks

NUCLEI = get_config_path('mask_rcnn_edge/mask-rcnn_r18_fpn_edge_1xb4-300i_nuclei.py')
COCO = get_config_path('mask_rcnn_edge/mask-rcnn_r50_fpn_edge_1x_coco.py')


@pytest.fixture
def data(tmp_path):
    content = dict(
        images=[dict(id=0, file_name='0.png', height=9, width=9)],
        annotations=[
            dict(id=0, image_id=0, category_id=1, bbox=[1, 1, 4, 4], area=8, segmentation=[[1, 1, 5, 1, 1, 5]])
        ],
        categories=[dict(id=1, name='nucleus')],
    )
    for split in ('train', 'val'):
        (tmp_path / split).mkdir()
        (tmp_path / split / '0.png').write_bytes(b'not looked into')
        (tmp_path / f'{split}.json').write_text(json.dumps(content))
    return tmp_path


def test_data_is_there(data):
    cfg = launch.load_config(NUCLEI, cfg_options=dict(data_root=str(data)))
    checks.check_data(cfg, ('train', 'val', 'test'))


@pytest.mark.parametrize(
    ('missing', 'message'),
    [
        ('train', 'image folder not found: .*/train '),
        ('train.json', 'annotation file not found: .*/train.json .train_dataloader'),
        ('val.json', 'annotation file not found: .*/val.json .val_dataloader'),
    ],
)
def test_missing_data(data, missing, message):
    path = data / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    cfg = launch.load_config(NUCLEI, cfg_options=dict(data_root=str(data)))
    with pytest.raises(UserError, match=f'^{message}.*data_root=FOLDER'):
        checks.check_data(cfg, ('train', 'val'))


def test_missing_data_root_and_annotations_of_the_evaluator(data):
    cfg = launch.load_config(NUCLEI, cfg_options=dict(data_root='/nowhere'))
    with pytest.raises(UserError, match='data root not found: /nowhere/'):
        checks.check_data(cfg, ('train',))
    cfg = launch.load_config(NUCLEI, cfg_options=dict(data_root=str(data)))
    cfg.val_evaluator.ann_file = '/nowhere.json'
    with pytest.raises(UserError, match=r'annotation file not found: /nowhere.json \(val_evaluator'):
        checks.check_data(cfg, ('val',))


def test_data_of_another_backend():
    remote = dict(ann_file='nowhere.json', backend_args=dict(backend='petrel'))
    dataset = dict(remote, type='CocoDataset', data_root='nowhere', data_prefix=dict(img='val'))
    evaluator = dict(remote, type='CocoMetric')
    cfg = Config(dict(val_dataloader=dict(dataset=dataset), val_evaluator=evaluator))
    checks.check_data(cfg, ('val',))


def test_data_inside_wrappers_and_elsewhere():
    name = 'mask_rcnn_edge/mask-rcnn_r50_fpn_edge_ms-poly-3x_coco.py'
    cfg = Config.fromfile(get_config_path(name))
    assert 'dataset' in cfg.train_dataloader.dataset  # RepeatDataset
    with pytest.raises(UserError, match='data root not found: data/coco/'):
        checks.check_data(cfg, ('train',))
    for root in ('s3://bucket/coco/', 'https://host/coco/'):
        edits.override_data_root(cfg, cfg.data_root, root)
        checks.check_data(cfg, ('train', 'val'))


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
