from mmdet.models.losses import L1Loss
from mmdet.registry import MODELS
from mmengine.config import Config

from mmdet_edge.config.import_paths import repair_import_paths


def test_a_dumped_pure_python_config_can_be_read_again(tmp_path):
    path = tmp_path / 'dumped.py'
    path.write_text(
        "model = dict(type='mmdet.models.detectors.mask_rcnn.MaskRCNN', losses=[\n"
        "    dict(type='mmdet.models.losses.smooth_l1_loss.L1Loss'), dict(type='mmdet.models.losses.no.L1Loss'),\n"
        "    dict(type='mmdet.L1Loss'), dict(type='L1Loss'), dict(type='mine.of.L1Loss')])\n"
    )
    cfg = repair_import_paths(Config.fromfile(path))
    assert cfg.model.type == 'mmdet.models.detectors.mask_rcnn.MaskRCNN'
    names = [loss.type for loss in cfg.model.losses]
    assert names == ['mmdet.L1Loss', 'mmdet.models.losses.no.L1Loss', 'mmdet.L1Loss', 'L1Loss', 'mine.of.L1Loss']
    assert type(MODELS.build(dict(cfg.model.losses[0]))) is L1Loss
