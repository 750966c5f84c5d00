"""The tools on what mmengine dumps of mmdet's pure-Python configs: import paths for types, and no default scope."""

import runpy
import sys

import mmdet.registry
import pytest
import torch
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.registry import Registry

from mmdet_edge.config.edits import override_data_root

from .conftest import CONFIGS, ROOT


def with_import_paths(value, registries):
    """Replace the types of a config by their import paths, those of mmcv.ops aside."""
    if isinstance(value, (list, tuple)):
        return type(value)(with_import_paths(item, registries) for item in value)
    if not isinstance(value, dict):
        return value
    content = {key: with_import_paths(item, registries) for key, item in value.items()}
    found = [registry.get(value['type']) for registry in registries] if isinstance(value.get('type'), str) else []
    for cls in filter(None, found):
        content['type'] = f'{cls.__module__}.{cls.__name__}'
    return content


@pytest.fixture(scope='module')
def dumped(shapes, tmp_path_factory):
    """A dumped pure-Python config of a Mask R-CNN, and a checkpoint with random weights."""
    register_all_modules()
    folder = tmp_path_factory.mktemp('dumped')
    cfg = Config.fromfile(CONFIGS / 'mask-rcnn_r18_fpn_1xb4-300i_shapes.py')
    override_data_root(cfg, cfg.data_root, str(shapes))
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].update(num_workers=0, persistent_workers=False)
    torch.manual_seed(0)
    model = mmdet.registry.MODELS.build(cfg.model)
    model.init_weights()
    meta = dict(dataset_meta=dict(classes=cfg.metainfo.classes))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / 'a.pth')
    registries = [v for v in vars(mmdet.registry).values() if isinstance(v, Registry) and v.scope == 'mmdet']
    content = with_import_paths(cfg.to_dict(), registries)
    content['default_scope'] = None
    Config(content).dump(folder / 'config.py')
    assert 'mmdet.models.losses.smooth_l1_loss.L1Loss' in (folder / 'config.py').read_text()
    return folder / 'config.py', folder / 'a.pth'


@pytest.mark.parametrize(
    ('tool', 'twice', 'options', 'result'),
    [
        ('test.py', False, ['--work-dir', '{out}'], '*/*.json'),
        ('model_converters/to_plain_mask_rcnn.py', False, ['{out}'], 'weights.pth'),
        ('model_converters/mask_branch_to_onnx.py', False, ['{out}/head.onnx'], 'head.onnx'),
        ('analysis_tools/compare_predictions.py', True, ['--out', '{out}', '--num-images', '1'], 'index.json'),
    ],
    ids=['test', 'to_plain', 'onnx', 'compare'],
)
def test_tools_take_a_dumped_pure_python_config(dumped, tmp_path, monkeypatch, tool, twice, options, result):
    out = tmp_path / 'out'
    args = [*dumped, *(dumped if twice else ()), *(option.format(out=out) for option in options)]
    monkeypatch.setattr(sys, 'argv', [tool, *map(str, args)])
    runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
    assert list(out.glob(result))
