"""What is in the work dir at each moment, and what a resume makes of it."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import HOOKS
from mmengine.fileio import LocalBackend

from mmdet_edge.engine.atomic_local_backend import AtomicLocalBackend
from mmdet_edge.engine.hooks.atomic_checkpoint_hook import CheckpointError


@pytest.fixture
def present(monkeypatch):
    """What checkpoints there are whenever another one is about to be written."""
    seen = []
    for backend in (LocalBackend, AtomicLocalBackend):

        def put(self, obj, filepath, original=backend.put):
            if str(filepath).endswith('.pth'):
                seen.append({path.name for path in Path(filepath).parent.glob('*.pth')})
            original(self, obj, filepath)

        monkeypatch.setattr(backend, 'put', put)
    return seen


def names(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


def log(folder):
    return ''.join(path.read_text() for path in sorted(folder.glob('*/*.log')))


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def test_an_outdated_checkpoint_stays_until_the_next_is_written(train, present, tmp_path):
    train('run', iterations=6, checkpoint=dict(max_keep_ckpts=1))
    assert present == [set(), {'iter_2.pth'}, {'iter_4.pth'}]
    assert names(tmp_path / 'run') == ['iter_6.pth']
    assert (tmp_path / 'run' / 'last_checkpoint').read_text() == str(tmp_path / 'run' / 'iter_6.pth')


def test_mmengine_removes_it_before(train, present):
    # When this no longer holds, mmengine has changed and a part of the hook can go.
    train('run', iterations=6, checkpoint=dict(type='CheckpointHook', max_keep_ckpts=1))
    assert present == [set(), set(), set()]


def test_the_best_checkpoint_stays_until_a_better_is_written(train, present, tmp_path):
    train('run', iterations=6, checkpoint=dict(max_keep_ckpts=1, save_best='acc'), values=[0.1, 0.3, 0.2])
    # Each best one is followed by the latest, saved once more.
    two, best_two, four, best_four = 'iter_2.pth', 'best_acc_iter_2.pth', 'iter_4.pth', 'best_acc_iter_4.pth'
    assert present[:3] == [set(), {two}, {two, best_two}]
    assert present[3:6] == [{two, best_two}, {four, best_two}, {four, best_two, best_four}]
    assert present[6:] == [{four, best_four}]
    assert names(tmp_path / 'run') == ['best_acc_iter_4.pth', 'iter_6.pth']


@pytest.mark.parametrize('hook', ['CheckpointHook', 'AtomicCheckpointHook'])
def test_the_best_checkpoint_of_another_run_stays(train, tmp_path, hook):
    checkpoint = dict(type=hook, max_keep_ckpts=1, save_best='acc')
    train('one', iterations=2, checkpoint=checkpoint, values=[0.1])
    train(
        'two',
        iterations=4,
        checkpoint=checkpoint,
        values=[0.3],
        resume=True,
        load_from=str(tmp_path / 'one/iter_2.pth'),
    )
    assert names(tmp_path / 'one') == ['best_acc_iter_2.pth', 'iter_2.pth']
    assert names(tmp_path / 'two') == ['best_acc_iter_4.pth', 'iter_4.pth']
    train('two', iterations=6, checkpoint=checkpoint, values=[0.4], resume=True)
    assert names(tmp_path / 'two') == ['best_acc_iter_6.pth', 'iter_6.pth']


def test_epochs(train, present, tmp_path):
    train('run', epochs=3, checkpoint=dict(max_keep_ckpts=2))
    assert present == [set(), {'epoch_1.pth'}, {'epoch_1.pth', 'epoch_2.pth'}]
    assert names(tmp_path / 'run') == ['epoch_2.pth', 'epoch_3.pth']


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(train, tmp_path):
    folder = tmp_path / 'run'
    train('run', iterations=12, kill=11)
    assert names(folder) == [f'iter_{step}.pth' for step in (10, 2, 4, 6, 8)]
    cut(folder / 'iter_10.pth')
    (folder / 'iter_8.pth').write_bytes(b'')
    train('run', iterations=12, resume=True)
    lines = [line for line in log(folder).splitlines() if 'is damaged' in line]
    assert len(lines) == 1 and 'WARNING' in lines[0]
    assert 'iter_10.pth is damaged (RuntimeError: PytorchStreamReader failed' in lines[0]
    assert 'iter_8.pth is damaged' in lines[0] and f'resuming from the one before, {folder}/iter_6.pth' in lines[0]
    assert 'resumed epoch: 0, iter: 6' in log(folder)
    for name in names(folder):
        assert torch.load(folder / name)['meta']['iter'] == int(name[5:-4])


@pytest.mark.parametrize('pointer', [None, '', 'iter_99.pth'], ids=['missing', 'empty', 'dangling'])
def test_a_lost_note_of_the_latest_checkpoint(train, tmp_path, pointer):
    folder = tmp_path / 'run'
    train('run', iterations=6, kill=5)
    (folder / 'last_checkpoint').unlink()
    if pointer is not None:
        (folder / 'last_checkpoint').write_text(pointer and str(folder / pointer))
    train('run', iterations=6, resume=True)
    assert 'resumed epoch: 0, iter: 4' in log(folder)
    assert ('iter_99.pth is damaged (the file is missing)' in log(folder)) == (pointer == 'iter_99.pth')


def test_checkpoints_in_another_folder(train, tmp_path):
    other = dict(out_dir=str(tmp_path / 'other'))
    train('run', iterations=6, kill=5, checkpoint=other)
    cut(tmp_path / 'other/run/iter_4.pth')
    train('run', iterations=6, checkpoint=other, resume=True)
    assert 'resumed epoch: 0, iter: 2' in log(tmp_path / 'run')


def test_all_damaged_is_no_silent_start_from_scratch(train, tmp_path):
    train('run', iterations=4)
    for name in names(tmp_path / 'run'):
        cut(tmp_path / 'run' / name)
    with pytest.raises(CheckpointError, match=r'cannot resume, no checkpoint.*iter_4.*iter_2.*To start from scratch'):
        train('run', iterations=6, resume=True)


def test_nothing_to_resume_is_a_start_from_scratch(train, tmp_path):
    runner = train('run', iterations=2, resume=True)
    assert runner.iter == 2 and names(tmp_path / 'run') == ['iter_2.pth']


def test_a_given_checkpoint_is_checked(train, tmp_path):
    train('run', iterations=4)
    damaged, weights = tmp_path / 'run' / 'iter_4.pth', tmp_path / 'weights.pth'
    torch.save(dict(state_dict={}), weights)
    cut(damaged)
    with pytest.raises(CheckpointError, match=r'cannot resume from .*iter_4\.pth: RuntimeError: Pytorch'):
        train('other', iterations=4, resume=True, load_from=str(damaged))
    with pytest.raises(CheckpointError, match=r'weights\.pth: it is not the checkpoint of a training run'):
        train('other', iterations=4, resume=True, load_from=str(weights))


@pytest.mark.parametrize('latest', ['epoch_2.pth', None])
def test_a_folder_is_left_to_who_wrote_it(tmp_path, latest):
    # As DeepSpeed and FSDP do, each process its own file.
    for name in ('epoch_1.pth', 'epoch_2.pth'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'rank0.pth').write_bytes(b'not looked into')
    if latest:
        (tmp_path / 'last_checkpoint').write_text(str(tmp_path / latest))
    runner = SimpleNamespace(cfg=dict(resume=True), work_dir=str(tmp_path))
    HOOKS.build(dict(type='AtomicCheckpointHook')).before_run(runner)
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_2.pth')
    assert len(list(tmp_path.glob('epoch_?.pth/rank0.pth'))) == 2


def test_a_complete_training_says_so(train, tmp_path):
    train('run', iterations=2)
    train('run', iterations=2, resume=True)
    assert 'nothing is left to train' in log(tmp_path / 'run')


def test_a_full_disk(train, tmp_path, monkeypatch):
    folder = tmp_path / 'run'
    train('run', iterations=6, kill=3)

    def full(path, mode):
        # Takes nothing, as a device without space, but has a name that can be removed.
        path.touch()
        return open('/dev/full', mode)

    monkeypatch.setattr('mmdet_edge.engine.atomic_local_backend.open', full, raising=False)
    with pytest.raises(CheckpointError, match=r'no space to save .*iter_4\.pth \(No space left on device\)'):
        train('run', iterations=6, resume=True)
    assert [path.name for path in folder.iterdir() if path.is_file()].count('iter_2.pth') == 1
    assert names(folder) == ['iter_2.pth'] and not list(folder.glob('.*'))
    monkeypatch.undo()
    assert train('run', iterations=6, resume=True).iter == 6


def test_unfinished_files_are_removed_at_the_next_start(train, tmp_path):
    folder = tmp_path / 'run'
    folder.mkdir()
    (folder / '.iter_2.pth.unfinished').write_bytes(b'half')
    train('run', iterations=1)
    assert not list(folder.glob('.*'))


def test_other_storage_is_left_to_mmengine():
    hook = HOOKS.build(dict(type='AtomicCheckpointHook', out_dir='s3://bucket/folder'))
    assert hook.backend_args is None
    given = HOOKS.build(dict(type='AtomicCheckpointHook', backend_args=dict(backend='petrel')))
    assert given.backend_args == dict(backend='petrel')
