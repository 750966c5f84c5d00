"""A training run that is killed and resumed ends like one that is not."""

import pytest
import torch

RANDOM_STATE = dict(random_state=dict(type='RandomStateHook'))


def weights(runner):
    return runner.model.layer.weight


@pytest.mark.parametrize('save_best', [None, 'acc'])
@pytest.mark.parametrize(
    ('length', 'kill'),
    [
        (dict(iterations=8), 1),
        (dict(iterations=8), 4),
        (dict(iterations=8), 7),
        (dict(epochs=3), 3),
        (dict(epochs=3), 7),
    ],
)
def test_resume_is_exact(train, length, kill, save_best):
    # An evaluation after each checkpoint, the first of which makes the hook save the checkpoint again.
    options = dict(length, checkpoint=dict(save_best=save_best, max_keep_ckpts=1), hooks=RANDOM_STATE)
    expected = train('undisturbed', **options)
    train('killed', kill=kill, **options)
    resumed = train('killed', resume=True, **options)
    assert torch.equal(weights(resumed), weights(expected))
    assert resumed.iter == expected.iter


def test_without_the_hook_it_is_not(train):
    expected = train('undisturbed', iterations=8)
    train('killed', iterations=8, kill=5)
    assert not torch.equal(weights(train('killed', iterations=8, resume=True)), weights(expected))


def test_an_evaluation_draws_no_numbers_of_the_training(train):
    often, seldom = (
        train(str(iterations), iterations=6, evaluate=iterations, hooks=RANDOM_STATE) for iterations in (2, 99)
    )
    assert torch.equal(weights(often), weights(seldom))


def test_weights_of_another_training_bring_no_random_state(train, tmp_path):
    train('first', iterations=4, hooks=RANDOM_STATE)
    checkpoint = str(tmp_path / 'first' / 'iter_4.pth')
    runs = [
        train(name, iterations=4, hooks=hooks, load_from=checkpoint) for name, hooks in (('a', RANDOM_STATE), ('b', {}))
    ]
    assert runs[0].iter == 4
    # Without a resume nothing is restored: the first iterations, up to the first evaluation, are the same.
    losses = [run.message_hub.get_scalar('train/loss').data[0][:2] for run in runs]
    assert losses[0].tolist() == losses[1].tolist()
