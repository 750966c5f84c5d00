import math

import pytest

from mmdet_edge.analysis import find_work_dirs, group_runs, read_config, read_run, read_seed, read_variant
from mmdet_edge.analysis.runs import read_environment

from .conftest import train_line as train
from .conftest import write_log

FIRST, SECOND, THIRD = (f'20260101_00000{i}' for i in range(3))


def test_a_run(tmp_path):
    # mmengine writes the evaluation of a training run by iterations with step 0.
    write_log(tmp_path, [train(10), train(20), {'coco/segm_mAP': 0.1, 'step': 0}, train(30)])
    run = read_run(tmp_path)
    assert run.curve('loss') == ([10, 20, 30], [1.0, 1.0, 1.0])
    assert run.curve('coco/segm_mAP') == ([20], [0.1])
    assert run.curve('nothing') == ([], [])
    assert run.final_iteration == 30


def test_an_interrupted_run_counts_each_iteration_once(tmp_path):
    first = [train(10, time=1), {'coco/segm_mAP': 0.1, 'step': 0}, train(20, time=1), train(30, time=1)]
    # It resumed from a checkpoint of iteration 10.
    second = [train(20, time=2), {'coco/segm_mAP': 0.2, 'step': 0}]
    write_log(tmp_path, first, FIRST)
    write_log(tmp_path, [], SECOND)
    write_log(tmp_path, second, THIRD)
    run = read_run(tmp_path)
    assert run.curve('time') == ([10, 20], [1, 2])
    assert run.curve('coco/segm_mAP') == ([10, 20], [0.1, 0.2])
    assert run.seconds_per_iteration == 1.5


def test_an_evaluation_on_its_own_is_no_part_of_the_training(tmp_path):
    write_log(tmp_path, [train(10), train(20)], FIRST)
    write_log(tmp_path, [{'coco/segm_mAP': 0.2, 'step': 0}], SECOND)
    run = read_run(tmp_path)
    assert run.final_iteration == 20
    assert run.curve('coco/segm_mAP') == ([], [])


def test_a_line_that_was_not_finished(tmp_path):
    write_log(tmp_path, [train(10), train(20)])
    log = next(tmp_path.glob('*/vis_data/scalars.json'))
    text = log.read_text()
    log.write_text(text + '{"loss": 1.0, "st')
    assert read_run(tmp_path).final_iteration == 20
    log.write_text('{"loss": 1.0, "st\n' + text)
    with pytest.raises(ValueError, match=r'scalars.json, line 1: not JSON'):
        read_run(tmp_path)


def test_time_of_an_iteration_leaves_evaluation_out(tmp_path):
    # mmengine counts an evaluation as the time of the iteration after it.
    times = [0.5, 0.5, 30.0, 0.6, 0.4]
    lines = [train(10 * (i + 1), time=time) for i, time in enumerate(times)]
    lines.insert(2, {'coco/segm_mAP': 0.1, 'time': 9.0, 'step': 0})
    write_log(tmp_path, [*lines, train(60)])
    assert read_run(tmp_path).seconds_per_iteration == 0.5


def test_no_time_was_logged(tmp_path):
    write_log(tmp_path, [train(10)])
    assert read_run(tmp_path).seconds_per_iteration is None


def test_the_seed_is_that_of_the_training_not_of_a_later_test(tmp_path):
    for start, lines, seed in ((FIRST, [train(10)], 3), (SECOND, [{'coco/segm_mAP': 0.1, 'step': 0}], 0)):
        write_log(tmp_path, lines, start)
        (tmp_path / start / 'vis_data' / 'config.py').write_text(f'randomness = dict(seed={seed})')
    assert read_seed(tmp_path) == 3


def test_divergence(tmp_path):
    write_log(tmp_path, [train(10), {**train(20), 'loss': math.nan}, train(30)])
    assert read_run(tmp_path).diverged_at() is None
    write_log(tmp_path, [{**train(step), 'loss': math.inf} for step in (40, 50)], SECOND)
    assert read_run(tmp_path).diverged_at() == 40


def test_not_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match='not the work dir of a training run'):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ('text', 'seed'),
    [
        ('randomness = dict(deterministic=False, seed=7)', 7),
        ("randomness = {'seed': 7}", 7),
        ('import not_installed\nrandomness = dict(\n    seed=7)', 7),
        ('randomness = dict(seed=None)', None),
        ('randomness = dict()', None),
        ('model = dict(seed=7)', None),
        ('randomness = (', None),
    ],
)
def test_seed(tmp_path, text, seed):
    (tmp_path / 'some_config.py').write_text(text)
    assert read_seed(tmp_path) == seed


def test_a_config_is_read_without_running_it(tmp_path):
    (tmp_path / 'some_config.py').write_text(
        "import not_installed\na = dict(b=[1, (2.5, -3)], c={'d': None, 4: dict(type='X')}, e=1e-5)\n"
        "f = not_installed.value\na['b'] = dict(g=len('x'))\nif True:\n    h = 1\n"
    )
    assert read_config(tmp_path) == {
        'a': {'b': [1, [2.5, -3]], 'c': {'d': None, 4: {'type': 'X'}}, 'e': 1e-5},
        'f': 'not_installed.value',
        "a['b']": {'g': "len('x')"},
    }
    assert read_config(tmp_path / 'nothing') == {}


def test_seed_and_variant_without_a_config(tmp_path):
    assert read_seed(tmp_path) is None
    assert read_variant(tmp_path) == tmp_path.name


def test_seed_of_the_latest_start(tmp_path):
    for start, seed in ((FIRST, 1), (SECOND, 2)):
        write_log(tmp_path, [train(10)], start)
        (tmp_path / start / 'vis_data' / 'config.py').write_text(f'randomness = dict(seed={seed})')
    assert read_seed(tmp_path) == 2


def test_environment(tmp_path):
    assert read_environment(tmp_path) == {}
    write_log(tmp_path, [train(10)], FIRST)
    (tmp_path / FIRST / 'x.log').write_text(
        'head\n    Python: 3.11.7 (main)\n    PyTorch: 2.13.0+cpu\n  MMEngine: 0.10.7\n    GPU number: 8\n'
    )
    assert read_environment(tmp_path) == {
        'Python': '3.11.7',
        'PyTorch': '2.13.0+cpu',
        'MMEngine': '0.10.7',
        'GPU number': '8',
    }


def test_groups_by_config_and_by_name(make_run, tmp_path):
    plain = [make_run('base', seed) for seed in (0, 1)]
    named = [make_run('anything', seed, folder=f'inner/seed{seed}') for seed in (10, 9)]
    (tmp_path / 'inner' / 'notes').mkdir()
    groups = group_runs([str(plain[1]), f'mine={tmp_path / "inner"}', str(plain[0])])
    assert groups == {'base': [plain[1], plain[0]], 'mine': [named[1], named[0]]}
    assert group_runs([str(tmp_path / 'inner')]) == {'anything': [named[1], named[0]]}


def test_a_folder_with_an_equals_sign(make_run):
    run = make_run('base', 0, folder='lr=0.1')
    assert group_runs([str(run)]) == {'base': [run]}


def test_a_run_without_a_log_is_found_beside_others(make_run, tmp_path):
    run = make_run('base', 0, folder='inner/seed0')
    empty = tmp_path / 'inner' / 'seed1'
    (empty / FIRST / 'vis_data').mkdir(parents=True)
    assert find_work_dirs(tmp_path / 'inner') == [run, empty]


def test_mistakes(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such folder: .*nothing'):
        group_runs([str(tmp_path / 'nothing')])
    with pytest.raises(FileNotFoundError, match='not the work dir of a training run, nor a folder of work dirs'):
        group_runs([f'name={tmp_path}'])
    with pytest.raises(ValueError, match='expected NAME=DIR, got no name'):
        group_runs(['=somewhere'])
