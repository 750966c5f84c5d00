import itertools

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import Dataset

import mmdet_edge  # noqa: F401  (registers the hooks)

NAMES = itertools.count()


class Numbers(Dataset):
    """Augments with NumPy's generator, as mmdet's transforms do."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return dict(inputs=torch.tensor([float(index)] * 4) + np.random.rand())


class Model(BaseModel):
    """Draws from torch's generator, as mmdet's samplers do."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, inputs, mode):
        outputs = self.layer(torch.stack(inputs) + torch.randn(4))
        return dict(loss=outputs.square().mean()) if mode == 'loss' else list(outputs)


class Given(BaseMetric):
    """Returns the values that it is given, and draws from all generators meanwhile."""

    def __init__(self, values):
        super().__init__()
        self.values = iter(values)

    def process(self, data_batch, data_samples):
        self.results += [torch.rand(1), np.random.rand()]

    def compute_metrics(self, results):
        return dict(acc=next(self.values))


class Killed(BaseException):
    """Raised in place of a signal."""


class KillHook(Hook):
    """Kills the training run after an iteration."""

    priority = 'LOWEST'

    def __init__(self, after):
        self.after = after

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter + 1 == self.after:
            raise Killed


@pytest.fixture
def train(tmp_path):
    """Train a model of five numbers in a work dir; return its runner."""

    def run(
        work_dir,
        epochs=0,
        iterations=0,
        evaluate=None,
        values=(0,) * 99,
        checkpoint=None,
        hooks=None,
        kill=None,
        **more,
    ):
        torch.manual_seed(0)
        loader = dict(batch_size=2, num_workers=0, dataset=Numbers(), collate_fn=dict(type='pseudo_collate'))
        by_epoch = epochs > 0
        loop = dict(by_epoch=True, max_epochs=epochs) if by_epoch else dict(by_epoch=False, max_iters=iterations)
        runner = Runner(
            model=Model(),
            work_dir=str(tmp_path / work_dir),
            train_dataloader=dict(
                loader, sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True)
            ),
            val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
            train_cfg=dict(loop, val_interval=evaluate or (1 if by_epoch else 2)),
            val_cfg=dict(),
            val_evaluator=Evaluator(Given(values)),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.001, momentum=0.9)),
            param_scheduler=dict(type='PolyLR', end=99, by_epoch=False),
            default_hooks=dict(
                checkpoint=dict(
                    dict(type='AtomicCheckpointHook', interval=1 if by_epoch else 2, by_epoch=by_epoch),
                    **(checkpoint or {}),
                ),
                **(hooks or {}),
            ),
            custom_hooks=[KillHook(kill)] if kill else None,
            default_scope='mmdet',
            randomness=dict(seed=0),
            experiment_name=f'test_hooks_{next(NAMES)}',
            cfg=more,
            **more,
        )
        if kill:
            with pytest.raises(Killed):
                runner.train()
        else:
            runner.train()
        return runner

    return run
