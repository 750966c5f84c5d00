import pytest
from mmengine.config import Config

from mmdet_edge import get_config_path

NAME = 'mask_rcnn_edge/mask-rcnn_r50_fpn_edge_1x_coco.py'


def test_path_of_a_config():
    assert Config.fromfile(get_config_path(NAME)).model.roi_head.mask_head.type == 'EdgeAgreementMaskHead'


def test_unknown_config():
    with pytest.raises(FileNotFoundError, match=f"no config '.*'.*the nearest is '{NAME}'"):
        get_config_path('mask_rcnn_edge/mask-rcnn_r50_fpn_edge_1x_cocoo.py')


def test_a_config_of_another_project_inherits_in_one_line(tmp_path):
    config = tmp_path / 'mine.py'
    config.write_text(
        f"_base_ = __import__('mmdet_edge').get_config_path('{NAME}')\n"
        'model = dict(roi_head=dict(bbox_head=dict(num_classes=3), mask_head=dict(num_classes=3)))\n'
    )
    cfg = Config.fromfile(config)
    assert cfg.model.roi_head.mask_head.type == 'EdgeAgreementMaskHead'
    assert cfg.model.roi_head.mask_head.num_classes == 3
    assert cfg.train_cfg.max_epochs == 12
    assert cfg.custom_imports.imports == ['mmdet_edge']
    # What the runner writes into the work dir must parse again.
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').model == cfg.model
