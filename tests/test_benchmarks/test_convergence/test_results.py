"""Reading results."""

import json
import math
from pathlib import Path

import pytest

from benchmarks.convergence.results import RunKey, RunResult, read_results
from mmdet_edge.errors import UserError

IOU, BCE = 'mask_branch/mIoU', 'mask_branch/BCE'


@pytest.mark.parametrize(
    'key, name, folder',
    [
        (RunKey('edge', 60, 0.05, 1), 'edge, 60 iterations, lr 0.05, seed 1', 'runs/60/edge_lr0.05/seed1'),
        (RunKey('edge', None, None, 1), 'edge, seed 1', 'runs/own-schedule/edge/seed1'),
    ],
)
def test_a_run_has_a_name_and_a_folder(key, name, folder):
    assert str(key) == name and key.folder == Path(folder)


def record(**changes):
    line = dict(
        spec='shapes_mask-branch',
        protocol='mask-branch',
        setting='edge',
        budget=120,
        learning_rate=0.05,
        seed=0,
        metrics={IOU: 0.83},
        seconds=31.2,
        finished='2026-01-01T00:00:00',
        versions={},
        commit='abc',
    )
    return {**line, **changes}


def write(path, *records):
    path.write_text(''.join(r if isinstance(r, str) else json.dumps(r) + '\n' for r in records))
    return path


def test_the_last_line_of_a_run_counts_and_a_broken_last_line_is_skipped(tmp_path):
    path = write(
        tmp_path / 'a.jsonl',
        record(),
        record(setting='base', budget=None, learning_rate=None, seed=3, metrics={}),
        '\n',
        record(seed=1),
        record(metrics={IOU: 1}, seconds=2, config_sha256='abcd'),
        '{"setting": "ed',
    )
    assert read_results(path) == [
        RunResult(RunKey('edge', 120, 0.05, 0), {IOU: 1.0}, 2, 'abcd'),
        RunResult(RunKey('base', None, None, 3), {}, 31.2),
        RunResult(RunKey('edge', 120, 0.05, 1), {IOU: 0.83}, 31.2),
    ]
    assert read_results(write(tmp_path / 'empty.jsonl')) == []


def test_a_file_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UserError, match=r'there are no results yet: .*none\.jsonl does not exist'):
        read_results(tmp_path / 'none.jsonl')


def test_meaningless_values_are_dropped(tmp_path):
    metrics = {IOU: math.nan, BCE: math.inf, 'coco/segm_mAP': -1.0, 'coco/bbox_mAP': 0.0}
    (found,) = read_results(write(tmp_path / 'a.jsonl', record(metrics=metrics)))
    assert found.metrics == {'coco/bbox_mAP': 0.0}


def without(key):
    return {k: v for k, v in record().items() if k != key}


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('{"setting": "ed\n', 'not JSON'),
        ('12\n', 'must be an object, got 12'),
        (without('seed'), 'lacks seed$'),
        (without('metrics'), 'lacks metrics$'),
        (record(budget=0), 'budget must be null or a positive integer, got 0'),
        (record(budget='1x'), "budget must be null or a positive integer, got '1x'"),
        (record(metrics=None), 'metrics must be an object of numbers, got None'),
        (record(metrics={IOU: None}), 'metrics must be an object of numbers'),
    ],
)
def test_damaged_lines_are_named(tmp_path, line, message):
    path = write(tmp_path / 'a.jsonl', record(), '\n', line, record())
    with pytest.raises(UserError, match=rf'a\.jsonl, line 3: {message}'):
        read_results(path)


def test_a_complete_last_line_that_is_wrong_is_an_error(tmp_path):
    with pytest.raises(UserError, match='line 2: lacks budget'):
        read_results(write(tmp_path / 'a.jsonl', record(), without('budget')))
