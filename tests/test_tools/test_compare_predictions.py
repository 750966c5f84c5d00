"""tools/analysis_tools/compare_predictions.py, in a process of its own, on untrained models."""

import json
import runpy
import sys

import pytest
import torch
from mmcv import imread
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config

from .conftest import CONFIGS, ROOT, lines_with, run_python

TOOL = 'analysis_tools/compare_predictions.py'
BASELINE = CONFIGS / 'mask-rcnn_r18_fpn_1xb4-300i_shapes.py'
EDGE = CONFIGS / 'mask-rcnn_r18_fpn_edge_1xb4-300i_shapes.py'


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """Two checkpoints with random weights."""
    register_all_modules()
    folder = tmp_path_factory.mktemp('checkpoints')
    cfg = Config.fromfile(EDGE)
    for seed, name in enumerate('ab'):
        torch.manual_seed(seed)
        model = MODELS.build(cfg.model)
        model.init_weights()
        # Boxes at random, so that some hit an object; an untrained classifier sees background everywhere.
        torch.nn.init.normal_(model.roi_head.bbox_head.fc_cls.weight, std=1.0)
        meta = dict(dataset_meta=dict(classes=cfg.metainfo.classes))
        torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / f'{name}.pth')
    return [folder / 'a.pth', folder / 'b.pth']


def arguments(shapes, checkpoints, out, *more, configs=(BASELINE, EDGE)):
    pairs = [item for pair in zip(configs, checkpoints) for item in pair]
    options = [f'data_root={shapes}', 'model.test_cfg.rcnn.score_thr=0.0', 'model.test_cfg.rpn.max_per_img=100']
    return [*pairs, '--out', out, *more, '--cfg-options', *options]


@pytest.mark.slow
def test_compares(shapes, checkpoints, tmp_path):
    output = run_python(TOOL, *arguments(shapes, checkpoints, tmp_path, '--num-images', '2', '--score-thr', '0'))
    assert lines_with(output, r'mean mask IoU of \d+ objects in 5 images: A 0\.\d{4} \(mask-rcnn_r18_fpn_1xb4-300i')
    index = json.loads((tmp_path / 'index.json').read_text())
    assert index['num_images_compared'] == 5
    assert (index['a']['name'], index['b']['name']) == (BASELINE.stem, EDGE.stem)
    assert index['a']['checkpoint'] == str(checkpoints[0])
    names = [f'{kind}_{i:02d}.png' for kind in ('most_different', 'random') for i in (1, 2)]
    assert [entry['file'] for entry in index['images']] == names
    assert sorted(p.name for p in tmp_path.glob('*.png')) == names
    differences = [entry['difference'] for entry in index['images'][:2]]
    assert differences[0] >= differences[1] > 0
    for entry in index['images']:
        better = 'A' if entry['mean_iou_a'] > entry['mean_iou_b'] else 'B'
        assert entry['better'] == better and entry['num_objects'] > 0
        assert imread(str(tmp_path / entry['file'])).shape[1] > 1400

    # Again, fewer: what was there before goes. A model does not differ from itself.
    (tmp_path / 'mine.png').write_bytes(b'')
    same = arguments(shapes, checkpoints[:1] * 2, tmp_path, '--num-images', '1', configs=(EDGE, EDGE))
    run_python(TOOL, *same)
    assert sorted(p.name for p in tmp_path.glob('*.png')) == ['mine.png', 'random_01.png']
    index = json.loads((tmp_path / 'index.json').read_text())
    assert [entry['better'] for entry in index['images']] == [None]
    assert index['a']['name'].startswith(f'{EDGE.stem}, ') and index['a']['name'].endswith('/a.pth')


@pytest.mark.slow
def test_mistakes_are_told_in_one_line(shapes, checkpoints, tmp_path, monkeypatch):
    def error(*args, **options):
        command = [TOOL, *arguments(shapes, *args, **options)]
        monkeypatch.setattr(sys, 'argv', [str(word) for word in command])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(ROOT / 'tools' / TOOL), run_name='__main__')
        message = str(stopped.value)
        assert message.startswith('error: ') and '\n' not in message
        return message

    message = error([checkpoints[0], checkpoints[1].with_name('c.pth')], tmp_path)
    assert 'checkpoint not found' in message and 'has a.pth, b.pth' in message
    assert 'config file not found' in error(checkpoints, tmp_path, configs=(EDGE, CONFIGS / 'no.py'))
    assert '--num-images must be at least 1, got 0' in error(checkpoints, tmp_path, '--num-images', '0')
    assert '--score-thr must be between 0 and 1, got 2' in error(checkpoints, tmp_path, '--score-thr', '2')
    assert '--out must be a folder' in error(checkpoints, checkpoints[0])

    other = tmp_path / 'other.py'
    # The same classes in another order.
    other.write_text(
        f'_base_ = {str(EDGE)!r}\ntest_dataloader = dict(dataset=dict(metainfo=dict(classes=('
        "'gear', 'star', 'cross', 'ring', 'crescent', 'flower'))))\n"
    )
    assert 'has other classes than the checkpoint' in error(checkpoints, tmp_path, configs=(EDGE, other))
    boxes = tmp_path / 'boxes.py'
    boxes.write_text(f'_base_ = {str(EDGE)!r}\nmodel = dict(roi_head=dict(mask_head=None))\n')
    assert 'MaskRCNN predicts no masks' in error(checkpoints, tmp_path, configs=(EDGE, boxes))
    content = json.loads((shapes / 'val.json').read_text())
    (tmp_path / 'empty.json').write_text(json.dumps({**content, 'annotations': []}))
    empty = tmp_path / 'empty.py'
    empty.write_text(
        f'_base_ = {str(EDGE)!r}\ntest_dataloader = dict(dataset=dict(ann_file={str(tmp_path / "empty.json")!r}))\n'
    )
    assert "A's test data has no objects to compare with" in error(checkpoints, tmp_path, configs=(empty, EDGE))
