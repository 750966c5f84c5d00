import json

import pytest

from mmdet_edge.analysis import read_run


def write_log(work_dir, start, lines):
    path = work_dir / start / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))


def train(step, **values):
    return dict(loss=1.0, **values, iter=step, step=step)


def test_a_run(tmp_path):
    # mmengine writes the evaluation of a training by iterations with step 0.
    write_log(
        tmp_path,
        '20260101_000000',
        [train(10), train(20), {'coco/segm_mAP': 0.1, 'step': 0}, train(30)],
    )
    run = read_run(tmp_path)
    assert run.curve('loss') == ([10, 20, 30], [1.0, 1.0, 1.0])
    assert run.curve('coco/segm_mAP') == ([20], [0.1])
    assert run.curve('nothing') == ([], [])


def test_an_interrupted_run_counts_each_step_once(tmp_path):
    first = [
        train(10, time=1),
        {'coco/segm_mAP': 0.1, 'step': 0},
        train(20, time=1),
        train(30, time=1),
    ]
    # It had a checkpoint of step 10 to go on from.
    second = [train(20, time=2), {'coco/segm_mAP': 0.2, 'step': 0}]
    write_log(tmp_path, '20260101_000000', first)
    write_log(tmp_path, '20260101_000001', [])
    write_log(tmp_path, '20260101_000002', second)
    run = read_run(tmp_path)
    assert run.curve('time') == ([10, 20], [1, 2])
    assert run.curve('coco/segm_mAP') == ([10, 20], [0.1, 0.2])


def test_not_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match='not the work dir of a training run'):
        read_run(tmp_path)
