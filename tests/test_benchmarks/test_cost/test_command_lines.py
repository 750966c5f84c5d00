"""The benchmarks of time and memory: that they run and measure what they say, not how fast this machine is."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmdet_edge.datasets import make_shapes_dataset
from mmdet_edge.errors import UserError

ROOT = Path(__file__).parents[3]
SMALL = ROOT / 'configs/mask_rcnn_edge/mask-rcnn_r18_fpn_edge_1xb4-300i_shapes.py'


def load(name):
    return importlib.import_module(f'benchmarks.cost.{name}')


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run a benchmark in this process and return its JSON."""
    threads = torch.get_num_threads()

    def main(name, *args):
        out = tmp_path / 'out.json'
        monkeypatch.setattr(sys, 'argv', [name, *map(str, args), '--out', str(out)])
        load(name).main()
        return json.loads(out.read_text())

    yield main
    torch.set_num_threads(threads)


def test_all_three_compute_the_same_loss():
    tool = load('loss')
    pred = torch.randn(3, 2, 9, 9, generator=torch.Generator().manual_seed(0))
    target, label = (pred[:, 0] > 0.3).float(), torch.tensor([1, 0, 1])
    kernels = torch.tensor(tool.get_edge_kernels(['prewitt', 'roberts']), dtype=torch.float32)[:, None]
    two = tool.two_convolutions(pred, target, label, kernels, 1.5)
    assert two.item() == pytest.approx(tool.EdgeLoss(['prewitt', 'roberts'], 1.5)(pred, target, label).item(), rel=1e-5)


def test_loss_has_a_row_for_each_exponent(run):
    result = run('loss', '--rois', 4, '--size', 14, '--repeats', 2, '--exponents', 2, 1.5)
    first, second = result['rows']
    assert (first['exponent'], second['exponent']) == (2, 1.5)
    for row in result['rows']:
        assert set(row['milliseconds']) == set(row['megabytes']) == {'BCE', 'edge', 'two convolutions'}
        assert min(row['milliseconds'].values()) > 0 and min(row['megabytes'].values()) > 0
        assert row['edge_to_bce']['low'] <= row['edge_to_bce']['median'] <= row['edge_to_bce']['high']


def test_growth_of_the_cost_is_drawn(run, tmp_path, monkeypatch):
    tool = load('loss')
    monkeypatch.setitem(sys.modules, 'loss', tool)
    growth = {'masks': [dict(rois=0), dict(rois=2)], 'size': [dict(size=14)], 'kernels': [dict(filters=['laplacian'])]}
    monkeypatch.setattr(tool, 'GROWTH', growth)
    figure = tmp_path / 'figure.png'
    argv = ['x', '--rois', '3', '--repeats', '1', '--grow', '--figure', str(figure), '--out', str(tmp_path / 'o.json')]
    monkeypatch.setattr(sys, 'argv', argv)
    tool.main()
    rows = json.loads((tmp_path / 'o.json').read_text())['rows']
    assert [row['rois'] for row in rows] == [0, 2, 3, 3] and figure.stat().st_size > 5000


def test_figure_needs_grow(run):
    with pytest.raises(SystemExit, match='add --grow'):
        run('loss', '--figure', 'x.png')


@pytest.mark.parametrize(
    ('config', 'stages', 'measured'),
    [
        (SMALL, [''], 'mask head'),
        ('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', [''], 'mask head'),
        ('mmdet::htc/htc_r50_fpn_1x_coco.py', ['.0', '.1', '.2'], 'mask head of stage 0 of 0 to 2'),
    ],
)
def test_mask_branch_is_that_of_the_first_stage(run, config, stages, measured):
    small = [f'model.roi_head.mask_head{stage}.conv_out_channels=16' for stage in stages]
    small += ['model.backbone.init_cfg=None']
    result = run('step', config, '--mask-branch', '--rois', 4, '--repeats', 2, '--threads', 1, '--cfg-options', *small)
    assert set(result['seconds']) == set(result['bytes']) == {'plain', 'edge'} and result['measured'] == measured
    assert len(result['seconds']['edge']) == 2
    # 80 classes, or 1: nothing to save on one channel.
    assert result['memory_ratio'] < (1 if config != SMALL else 1.2)


def test_mask_branch_of_queryinst_is_refused(run):
    config = 'mmdet::queryinst/queryinst_r50_fpn_1x_coco.py'
    with pytest.raises(SystemExit, match='error: --mask-branch: the mask head of QueryInst needs .* whole step$'):
        run('step', config, '--mask-branch', '--cfg-options', 'model.backbone.init_cfg=None')


def test_whole_step_is_measured_and_traced(run, tmp_path):
    make_shapes_dataset(str(tmp_path / 'shapes'), num_train=2, num_val=1, size=96)
    options = ['--data-root', tmp_path / 'shapes', '--batches', 1, '--repeats', 1, '--threads', 1]
    small = ['train_dataloader.dataset.pipeline.2.scale=(96,96)', 'model.train_cfg.rcnn.sampler.num=16']
    result = run('step', SMALL, *options, '--trace', tmp_path / 'trace.txt', '--cfg-options', *small)
    assert result['time_ratio']['median'] > 0 and result['bytes']['plain'] > 1e6
    assert 'convolution' in (tmp_path / 'trace.txt').read_text()


@pytest.mark.parametrize('roi_head', [dict(mask_head=dict(type='GridHead')), dict()])
def test_a_model_without_a_mask_head_that_fits_is_refused(roi_head):
    with pytest.raises(UserError, match='expected|must be of type'):
        load('step').edge_and_plain(Config(dict(model=dict(roi_head=roi_head))))


def test_every_stage_of_a_cascade_is_converted():
    heads = [dict(type='FCNMaskHead', num_classes=7) for _ in range(3)]
    configs = load('step').edge_and_plain(Config(dict(model=dict(roi_head=dict(mask_head=heads)))))
    for name, off in (('plain', True), ('edge', False)):
        for head in configs[name].roi_head.mask_head:
            assert head.type == 'EdgeAgreementMaskHead' and ('loss_edge' in head) == off and head.num_classes == 7


def test_speed_of_operators_is_compared(tmp_path):
    for name, ours, times in (('a', False, [1, 3]), ('b', False, [2]), ('c', True, [4, 6, 7])):
        content = dict(machine='a CPU', ours=ours, milliseconds={'NMS': times, **({'CARAFE': [5]} if ours else {})})
        (tmp_path / f'{name}.json').write_text(json.dumps(content))
    table = load('operators').compare([str(path) for path in sorted(tmp_path.iterdir())])
    rows = list(zip(*(column.cells for column in table.columns)))
    assert rows == [('NMS', '2.00', '6.00', '3.00'), ('CARAFE', '-', '5.00', '-')]


def test_each_operator_is_called():
    calls = load('operators').make_calls('cpu')
    assert len(calls) == 10
    # Those that take no time.
    for name in ('NMS, 2000 boxes', 'soft NMS, 500 boxes'):
        calls[name]()


@pytest.mark.parametrize('images', [1, 3])
def test_synthetic_batches_have_the_size_that_is_asked_for(images):
    cfg = Config(dict(train_dataloader=dict(batch_size=images)))
    batches = load('step').load_batches(cfg, '', 2)
    assert [len(batch['inputs']) for batch in batches] == [images, images]
