import importlib

import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config

from benchmarks.convergence.results import RunKey, RunResult
from mmdet_edge import get_config_path
from mmdet_edge.datasets import make_shapes_dataset

SHAPES = 'mask_rcnn_edge/mask-rcnn_r18_fpn_1xb4-300i_shapes.py'
IOU, BCE = 'mask_branch/mIoU', 'mask_branch/BCE'


def run(setting, budget, seed, iou=None, rate=0.1, **more):
    """A result; without iou, of a run that diverged."""
    metrics = {} if iou is None else {IOU: iou, BCE: 1 - iou, **more}
    return RunResult(RunKey(setting, budget, rate, seed), metrics, 1.0)


def curve(setting, seed, values, budgets=(10, 20, 40, 80)):
    return [run(setting, budget, seed, value) for budget, value in zip(budgets, values)]


@pytest.fixture
def results():
    """A setting that is better, one that is not clearly so, one with a single seed, one that diverged, one without."""
    better = {0: 0.42, 1: 0.53, 2: 0.64}
    return [
        *(run('edge', 40, seed, iou, rate=0.2) for seed, iou in better.items()),
        *(run('base', 40, seed, iou) for seed, iou in {0: 0.4, 1: 0.5, 2: 0.6}.items()),
        *(run('edge', 40, seed, iou - 0.1, rate=0.1) for seed, iou in better.items()),
        *(run('mixed', 40, seed, iou) for seed, iou in {0: 0.5, 1: 0.4, 2: 0.6, 3: 0.7}.items()),
        run('one|[b]', 40, 1, 0.45, rate=None),
        run('lost', 40, 0, None),
        run('lost', 40, 1, 0.4),
        run('lost', 40, 2, None),
        run('longer', 80, 0, 0.9),
    ]


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
    """The detector with random weights, but a mask head whose masks are not all alike, and its checkpoint."""
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


@pytest.fixture
def call(monkeypatch, capsys):
    """Call the command line of a module in this process; return what it printed."""

    def call(module, *args):
        monkeypatch.setattr('sys.argv', [module, *map(str, args)])
        importlib.import_module(f'benchmarks.{module}').main()
        return capsys.readouterr().out

    return call
