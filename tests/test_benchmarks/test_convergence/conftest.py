import importlib

import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config

from mmdet_edge import get_config_path
from mmdet_edge.datasets import make_shapes_dataset

SHAPES = 'mask_rcnn_edge/mask-rcnn_r18_fpn_1xb4-300i_shapes.py'


@pytest.fixture(scope='session')
def shapes_folder(tmp_path_factory):
    """A very small generated data set."""
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    make_shapes_dataset(str(folder), num_train=4, num_val=3, size=96)
    return folder


def make_detector_cfg(shapes_folder):
    """The small detector on that data, read by this process."""
    register_all_modules()
    cfg = Config.fromfile(get_config_path(SHAPES))
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(shapes_folder)
    return cfg


@pytest.fixture
def detector_cfg(shapes_folder):
    return make_detector_cfg(shapes_folder)


@pytest.fixture(scope='session')
def detector(tmp_path_factory):
    """The detector with random weights whose mask head is not indifferent, and its checkpoint."""
    register_all_modules()
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(get_config_path(SHAPES)).model)
    model.init_weights()
    torch.nn.init.normal_(model.roi_head.mask_head.conv_logits.weight, std=0.3)
    path = tmp_path_factory.mktemp('detector') / 'random.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return model.eval(), path


@pytest.fixture
def val_dataset(detector_cfg):
    return DATASETS.build(detector_cfg.val_dataloader.dataset)


@pytest.fixture(scope='session')
def tried_edge_losses():
    """The module, which registers its losses when it is imported."""
    return importlib.import_module('benchmarks.convergence.tried_edge_losses')


@pytest.fixture(scope='session')
def peer_mask_losses():
    """The module, which registers its losses when it is imported."""
    return importlib.import_module('benchmarks.convergence.peer_mask_losses')
