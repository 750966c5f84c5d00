import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config

from mmdet_edge.datasets import make_shapes_dataset

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs' / 'mask_rcnn_edge'
EDGE = CONFIGS / 'mask-rcnn_r18_fpn_edge_1xb4-300i_shapes.py'


@pytest.fixture(scope='session')
def shapes(tmp_path_factory):
    """A very small generated data set; read-only."""
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    make_shapes_dataset(str(folder), num_train=4, num_val=2, size=64)
    return folder


@pytest.fixture(scope='session')
def weights():
    """The state dict of an untrained model of the shapes config."""
    register_all_modules()
    torch.manual_seed(0)
    return MODELS.build(Config.fromfile(EDGE).model).state_dict()


@pytest.fixture
def checkpoint(weights, tmp_path):
    """A checkpoint that fits the shapes config."""
    path = tmp_path / 'good.pth'
    torch.save(dict(state_dict=weights, meta=dict(epoch=0, iter=1), message_hub={}), path)
    return path


@pytest.fixture
def call(monkeypatch):
    """Call a tool in this process: starting one takes longer than all that it does here."""

    def call(tool, *args):
        path = ROOT / 'tools' / tool
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, 'argv', [str(word) for word in (path, *args)])
        # For tools that import what lies beside them.
        monkeypatch.syspath_prepend(str(path.parent))
        module.main()

    return call


@pytest.fixture
def error_of(call):
    """Call a tool that has to stop with a message of its own; return it."""

    def error_of(tool, *args):
        with pytest.raises(SystemExit) as stopped:
            call(tool, *args)
        message = str(stopped.value)
        assert message.startswith('error: '), message
        return message

    return error_of
