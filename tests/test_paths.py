import pytest
from mmengine.config import Config

from mmdet_edge import get_config_path

NAME = 'mask_rcnn_edge/mask-rcnn_r50_fpn_edge_1x_coco.py'


def test_path_of_a_config():
    assert Config.fromfile(get_config_path(NAME)).model.roi_head.mask_head.type == 'EdgeAgreementMaskHead'


def test_unknown_config():
    with pytest.raises(FileNotFoundError, match=f"no config '.*'.*the nearest is '{NAME}'"):
        get_config_path('mask_rcnn_edge/mask-rcnn_r50_fpn_edge_1x_cocoo.py')


@pytest.fixture
def child(tmp_path):
    """A config of another project."""
    path = tmp_path / 'child.py'
    path.write_text(
        f"_base_ = __import__('mmdet_edge').get_config_path('{NAME}')\n"
        "data_root = 'mine/'\n"
        'epochs = {{_base_.train_cfg.max_epochs}}\n'
        'image_pipeline = _base_.train_pipeline\n'
        'model = dict(roi_head=dict(bbox_head=dict(num_classes=3), mask_head=dict(num_classes=3)))\n'
    )
    return path


def test_a_config_of_another_project_inherits_in_one_line(child, tmp_path, capfd):
    cfg = Config.fromfile(child)
    assert cfg.model.roi_head.mask_head.type == 'EdgeAgreementMaskHead'
    assert cfg.model.roi_head.mask_head.num_classes == 3
    assert cfg.train_cfg.max_epochs == cfg.epochs == 12 and cfg.image_pipeline == cfg.train_pipeline
    assert cfg.custom_imports.imports == ['mmdet_edge']
    # What the runner writes into the work dir must parse again, and needs no base.
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()
    assert '_base_' not in (tmp_path / 'dumped.py').read_text()
    assert capfd.readouterr().out == ''


def test_a_config_may_inherit_from_that_in_turn_and_refer_to_it(child, tmp_path):
    # Both ways of mmengine to name what the base says; and two bases, one of them ours.
    (tmp_path / 'schedule.py').write_text('my_epochs = 5\n')
    grandchild = tmp_path / 'grandchild.py'
    grandchild.write_text(
        "_base_ = ['./child.py', './schedule.py']\n"
        'train_cfg = dict(max_epochs=_base_.my_epochs)\n'
        'train_dataloader = dict(batch_size={{_base_.train_dataloader.batch_size}})\n'
        "val_evaluator = dict(ann_file=_base_.data_root + 'val.json')\n"
        'num_convs = {{_base_.model.roi_head.mask_head.num_convs}}\n'
    )
    cfg = Config.fromfile(grandchild)
    assert cfg.train_cfg.max_epochs == 5 and cfg.train_dataloader.batch_size == 2 and cfg.num_convs == 4
    assert cfg.val_evaluator.ann_file == 'mine/val.json'
    assert cfg.model.roi_head.mask_head.num_classes == 3
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()
