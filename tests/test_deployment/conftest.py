import runpy
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from mmdet_edge import get_config_path
from mmdet_edge.config.edits import override_data_root
from mmdet_edge.datasets import make_shapes_dataset

TOOLS = Path(__file__).parents[2] / 'tools' / 'model_converters'


def run_tool(name, *args):
    """Run a tool as a command line would, in this process: importing everything again takes longer than the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [name, *map(str, args)])
        runpy.run_path(str(TOOLS / name), run_name='__main__')


@pytest.fixture(scope='session')
def trained(tmp_path_factory):
    """Config and checkpoint of an edge head that was trained for one step; the data are beside them."""
    folder = tmp_path_factory.mktemp('trained')
    make_shapes_dataset(str(folder / 'shapes'), num_train=2, num_val=2, size=96)
    cfg = Config.fromfile(get_config_path('mask_rcnn_edge/mask-rcnn_r18_fpn_edge_1xb4-300i_shapes.py'))
    override_data_root(cfg, cfg.data_root, str(folder / 'shapes'))
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.batch_size = 2
    cfg.train_cfg.max_iters = 1
    cfg.default_hooks.logger.interval = 1
    cfg.model.test_cfg.rcnn.score_thr = 0.0
    # The hooks and the metric of this package stay in the config that is written.
    cfg.dump(folder / 'config.py')
    cfg.update(custom_hooks=[], val_dataloader=None, val_cfg=None, val_evaluator=None)
    cfg.update(work_dir=str(folder / 'run'), log_level='ERROR', experiment_name=folder.name)
    Runner.from_cfg(cfg).train()
    return folder / 'config.py', folder / 'run' / 'iter_1.pth'
