"""Comparing data sets: absolute and relative, and a choice that one data set had no part in."""

import json

import pytest

from ...conftest import ROOT

TOOL = 'convergence.compare_data_sets'
METRICS = ('mIoU', 'boundary_IoU_1px', 'IoU_75', 'IoU_85', 'BCE')


def write(path, **settings):
    """Two seeds of each setting: its mask IoU and boundary IoU."""
    lines = []
    for name, (iou, boundary) in settings.items():
        for seed in (0, 1):
            values = dict.fromkeys(METRICS, 0.5) | dict(mIoU=iou + seed / 100, boundary_IoU_1px=boundary)
            metrics = {f'mask_branch/{metric}': value for metric, value in values.items()}
            run = dict(setting=name, budget=60, learning_rate=0.1, seed=seed, metrics=metrics, seconds=1.0)
            lines.append(json.dumps(run))
    path.write_text('\n'.join(lines) + '\n')
    return path


@pytest.fixture
def results(tmp_path):
    return [
        write(tmp_path / 'a.jsonl', baseline=(0.8, 0.1), bold=(0.9, 0.2), safe=(0.82, 0.13), other=(0.8, 0.1)),
        write(tmp_path / 'b.jsonl', baseline=(0.8, 0.1), bold=(0.79, 0.2), safe=(0.81, 0.12)),
        write(tmp_path / 'c.jsonl', baseline=(0.8, 0.1), bold=(0.81, 0.15), safe=(0.8, 0.11)),
    ]


def test_tables_and_choice(results, call):
    printed = call(TOOL, *results, '--budget', 60, '--candidates', 'bold', 'safe', 'other')
    assert '| baseline | 0.1 | 2 | 0.8050 | 0.1000 | 0.5000 | 0.5000 | 0.5000 |' in printed
    # Paired by seed: the difference is the same for both.
    assert '| safe | 0.1 | 2 | 0.8250 (**+2.5 % [+2.5, +2.5]**) | 0.1300 (**+30.0 % [+30.0, +30.0]**) |' in printed
    assert 'not on all data sets, left out: other' in printed
    # Without b, where it loses mask IoU, the larger gain wins.
    assert '| b | bold | +100.0 % | -1.2 % |' in printed
    assert '| a | safe | +30.0 % | +2.5 % |' in printed
    assert '| c | safe | +10.0 % | +0.0 % |' in printed
    printed = call(TOOL, *results, '--budget', 60, '--candidates', 'bold', 'safe', '--by', 'mask')
    assert '| c | bold | +50.0 % | +1.2 % |' in printed and '| a | safe | ' in printed


def test_no_such_results(tmp_path, call):
    with pytest.raises(SystemExit, match='error: .*none.jsonl'):
        call(TOOL, tmp_path / 'none.jsonl', '--budget', 60)


def test_time_mask_losses(call):
    spec = ROOT / 'benchmarks/convergence/specs/animals_mask-branch.py'
    names = ['baseline', 'sobel-p2-w3', 'lovasz-w1', 'focal-w4', 'dice-w10']
    printed = call('cost.time_mask_losses', spec, *names, '--rois', 4, '--repeats', 2)
    assert all(f'| {name} | ' in printed for name in names)
    with pytest.raises(SystemExit, match="error: .*has no setting 'none'"):
        call('cost.time_mask_losses', spec, 'none')
