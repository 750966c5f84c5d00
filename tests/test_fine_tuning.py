"""Training the edge head starts from checkpoints that MMDetection alone has written."""

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, save_checkpoint
from mmengine.utils import get_installed_path

from mmdet_edge import get_config_path
from mmdet_edge.config.edits import override_data_root
from mmdet_edge.datasets import make_shapes_dataset


def make_checkpoint(cfg, path):
    """What mmengine writes of a model with random weights."""
    init_default_scope('mmdet')
    weights = MODELS.build(cfg.model).state_dict()
    save_checkpoint(dict(meta=dict(dataset_meta=dict(classes=('person', 'car'))), state_dict=weights), str(path))
    return weights


def test_a_checkpoint_of_mmdet_loads_strictly(tmp_path):
    plain = Config.fromfile(f'{get_installed_path("mmdet")}/.mim/configs/mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    edge = Config.fromfile(get_config_path('mask_rcnn_edge/mask-rcnn_r50_fpn_edge_1x_coco.py'))
    for cfg in (plain, edge):
        cfg.model.backbone.update(depth=18, init_cfg=None)
        cfg.model.neck.in_channels = [64, 128, 256, 512]
    assert plain.model.roi_head.mask_head.type == 'FCNMaskHead'
    weights = make_checkpoint(plain, tmp_path / 'plain.pth')
    model = MODELS.build(edge.model)
    model.load_state_dict(torch.load(tmp_path / 'plain.pth')['state_dict'], strict=True)
    assert list(model.state_dict()) == list(weights)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize('num_classes', [6, 80])
def test_load_from(num_classes, tmp_path, capsys):
    """With other classes than the data's 6, the layers that depend on them stay as they were initialised."""
    plain = Config.fromfile(get_config_path('mask_rcnn_edge/mask-rcnn_r18_fpn_1xb4-300i_shapes.py'))
    for head in (plain.model.roi_head.bbox_head, plain.model.roi_head.mask_head):
        head.num_classes = num_classes
    weights = make_checkpoint(plain, tmp_path / 'plain.pth')

    make_shapes_dataset(str(tmp_path / 'shapes'), num_train=1, num_val=1, size=64)
    cfg = Config.fromfile(get_config_path('mask_rcnn_edge/mask-rcnn_r18_fpn_edge_1xb4-300i_shapes.py'))
    override_data_root(cfg, cfg.data_root, str(tmp_path / 'shapes'))
    cfg.train_dataloader.update(batch_size=1, num_workers=0, persistent_workers=False)
    cfg.train_cfg.max_iters = 1
    # So that what was loaded is still there after the step.
    cfg.optim_wrapper.optimizer.lr = 0.0
    cfg.update(custom_hooks=[], val_dataloader=None, val_cfg=None, val_evaluator=None)
    cfg.update(load_from=str(tmp_path / 'plain.pth'), work_dir=str(tmp_path), experiment_name=f'load_{num_classes}')
    runner = Runner.from_cfg(cfg)
    capsys.readouterr()
    runner.train()
    output = ''.join(capsys.readouterr())

    of_classes = {
        f'roi_head.{layer}.{kind}'
        for layer in ('bbox_head.fc_cls', 'bbox_head.fc_reg', 'mask_head.conv_logits')
        for kind in ('weight', 'bias')
    }
    for name, value in runner.model.named_parameters():
        is_reported = f'size mismatch for {name}:' in output
        if name in of_classes and num_classes != 6:
            assert is_reported and value.shape != weights[name].shape
        else:
            assert not is_reported and torch.equal(value, weights[name]), name
