"""A toy training: two layers of a backbone that thaw one after the other, and a head."""

import itertools
import logging
import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import HOOKS, MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner

from mmdet_edge import StagedUnfreezeHook, get_config_path
from mmdet_edge.engine.launch import _start_process_group, distribute_on_cpu

RUNS = itertools.count()
HOOK = dict(type='StagedUnfreezeHook', unfreeze_at={'backbone': 4, 'backbone.layer2': 2})
# The iteration from which each parameter trains.
BEGIN = {'backbone.layer1.weight': 4, 'backbone.layer2.weight': 2, 'head.weight': 0, 'head.bias': 0}


class Backbone(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = torch.nn.Linear(3, 4, bias=False)
        self.layer2 = torch.nn.Linear(4, 4, bias=False)
        # Its name begins with that of another part.
        self.layer20 = torch.nn.BatchNorm1d(4, affine=False)

    def forward(self, x):
        return self.layer20(self.layer2(self.layer1(x)))

    def train(self, mode=True):
        super().train(mode)
        self.layer20.eval()
        return self


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.head = torch.nn.Linear(4, 1)

    def forward(self, inputs, mode):
        return dict(loss=self.head(self.backbone(inputs)).square().mean())


class History(Hook):
    """The weights before each iteration, and those with a momentum after the last one."""

    def __init__(self):
        self.weights = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.weights.append({k: v.clone() for k, v in inner(runner).named_parameters()})

    def after_train(self, runner):
        self.weights.append({k: v.clone() for k, v in inner(runner).named_parameters()})


def inner(runner):
    return getattr(runner.model, 'module', runner.model)


def train(work_dir, hooks=(HOOK,), iterations=6, model=None, batch_size=2, **options):
    torch.manual_seed(0)
    history = History()
    runner = Runner(
        model or Toy(),
        str(work_dir),
        train_dataloader=dict(
            dataset=torch.randn(16, 3, generator=torch.Generator().manual_seed(1)),
            batch_size=batch_size,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=lambda batches: dict(inputs=torch.stack(batches)),
        ),
        train_cfg=dict(by_epoch=False, max_iters=iterations),
        # So much decay and momentum that they would be seen.
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.1), clip_grad=dict(max_norm=0.5)
        ),
        custom_hooks=[*hooks, history],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3), logger=None),
        default_scope='mmdet',
        log_level='ERROR',
        # mmengine keeps loggers and the like by this name.
        experiment_name=f'{Path(work_dir).name}_{next(RUNS)}',
        **options,
    )
    runner.train()
    return runner, history.weights


def check_stages(weights, begin=BEGIN):
    for name, first in begin.items():
        for iteration, (before, after) in enumerate(itertools.pairwise(weights)):
            assert torch.equal(before[name], after[name]) == (iteration < first), (name, iteration)


def test_each_part_trains_from_its_iteration_on(tmp_path):
    _, weights = train(tmp_path)
    assert len(weights) == 7
    check_stages(weights)
    # A first iteration without momentum of earlier ones: the gradient alone, clipped, with the weight decay.
    runner, weights2 = train(tmp_path / 'no_momentum', iterations=5)
    ours = weights[5]['backbone.layer1.weight'] - weights[4]['backbone.layer1.weight']
    assert torch.equal(ours, weights2[5]['backbone.layer1.weight'] - weights2[4]['backbone.layer1.weight'])
    momentum = runner.optim_wrapper.optimizer.state[inner(runner).backbone.layer1.weight]['momentum_buffer']
    assert torch.allclose(ours, -0.1 * momentum)


def test_without_stages_everything_trains(tmp_path):
    check_stages(train(tmp_path, hooks=())[1], dict.fromkeys(BEGIN, 0))


def test_until_the_first_stage_ends_only_the_head_counts(tmp_path):
    """Two iterations with the hook are two of a model with a frozen backbone."""
    model = Toy()
    torch.manual_seed(3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    frozen = Toy()
    frozen.load_state_dict(model.state_dict())
    frozen.backbone.requires_grad_(False)
    _, ours = train(tmp_path / 'hook', iterations=2, model=model)
    _, expected = train(tmp_path / 'hand', hooks=(), iterations=2, model=frozen)
    assert all(torch.equal(ours[-1][name], expected[-1][name]) for name in BEGIN)


@pytest.mark.parametrize('stopped_after', [1, 2, 3])
def test_resume(tmp_path, stopped_after):
    _, straight = train(tmp_path / 'straight')
    train(tmp_path / 'run', iterations=stopped_after)
    _, resumed = train(tmp_path / 'run', resume=True)
    assert len(resumed) == 7 - stopped_after
    for ours, expected in zip(resumed, straight[stopped_after:]):
        assert all(torch.equal(ours[name], expected[name]) for name in BEGIN)


def test_what_the_model_freezes_stays_frozen(tmp_path):
    model = Toy()
    model.backbone.layer1.requires_grad_(False)
    _, weights = train(tmp_path, [dict(HOOK, unfreeze_at={'backbone': 2})], model=model)
    check_stages(weights, {**BEGIN, 'backbone.layer1.weight': 100})


def process(rank, port, folder):
    """One of two processes, as torchrun starts them."""
    # A forked process waits forever for the threads of its parent, where torch's OpenMP is GNU's.
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    cfg = Config(dict(launcher='pytorch', find_unused_parameters=True))
    distribute_on_cpu(cfg)
    _start_process_group(cfg)
    options = dict(cfg=cfg, launcher='pytorch', batch_size=1)
    _, weights = train(f'{folder}/straight', **options)
    train(f'{folder}/run', **options, iterations=3)
    _, resumed = train(f'{folder}/run', **options, resume=True)
    torch.save(dict(weights=weights, resumed=resumed), f'{folder}/{rank}.pt')
    for wrong in (dict(find_unused_parameters=False), dict(static_graph=True)):
        options['cfg'] = Config(dict(model_wrapper_cfg={**cfg.model_wrapper_cfg, **wrong}))
        with pytest.raises(ValueError, match='MMDistributedDataParallel must look for unused parameters.*config'):
            train(f'{folder}/wrong', **options)
    torch.distributed.destroy_process_group()


def test_two_processes(tmp_path):
    """They agree with one that sees the data of both, in a resumed training too."""
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        port = str(server.getsockname()[1])
    torch.multiprocessing.start_processes(process, (port, str(tmp_path)), nprocs=2, start_method='fork')
    _, expected = train(tmp_path / 'one')
    results = [torch.load(tmp_path / f'{rank}.pt') for rank in range(2)]
    check_stages(results[0]['weights'])
    for result in results:
        assert len(result['weights']) == 7 and len(result['resumed']) == 4
        for name in BEGIN:
            for ours, theirs, one in zip(result['weights'], results[0]['weights'], expected):
                assert torch.equal(ours[name], theirs[name]), name
                assert torch.allclose(ours[name], one[name], rtol=1e-4, atol=1e-6), name
            for ours, straight in zip(result['resumed'], result['weights'][3:]):
                assert torch.equal(ours[name], straight[name]), name


def test_wrong_options():
    for value in (None, 3, ['backbone'], {1: 1}):
        with pytest.raises(TypeError, match='unfreeze_at must be a dict'):
            StagedUnfreezeHook(value)
    with pytest.raises(ValueError, match='unfreeze_at is empty'):
        StagedUnfreezeHook({})
    for value in (2.0, '2', True, None):
        with pytest.raises(TypeError, match=rf"unfreeze_at\['backbone'\] must be an integer, got {value!r}"):
            StagedUnfreezeHook({'backbone': value})
    for value in (0, -1):
        with pytest.raises(ValueError, match=rf"unfreeze_at\['backbone'\] must be at least 1, got {value}"):
            StagedUnfreezeHook({'backbone': value})


def test_a_prefix_of_nothing_is_refused_before_the_first_iteration(tmp_path):
    def fails_with(match, model=None, **unfreeze_at):
        with pytest.raises(ValueError, match=match):
            train(
                tmp_path,
                [dict(HOOK, unfreeze_at={k.replace('__', '.'): v for k, v in unfreeze_at.items()})],
                model=model,
            )

    fails_with(r"'backbon' is the prefix of no parameter name; Toy has the parts .*'backbone', 'head'", backbon=2)
    # Names are compared part by part: layer2 is not the prefix of layer20, nor 'lay' of layer1.
    fails_with("'backbone.lay' is the prefix of no parameter", backbone__lay=2)
    fails_with("'backbone.layer20' is the prefix of no parameter", backbone__layer20=2)
    model = Toy()
    model.backbone.requires_grad_(False)
    fails_with("'backbone' has only parameters that the model itself freezes", model, backbone=2)
    fails_with("'backbone' has only .* longer prefixes name", backbone=4, backbone__layer1=2, backbone__layer2=2)


def test_the_stages_of_the_shipped_config():
    """As Matterport has them: 4+ is ResNet stage 4, 5, neck, RPN and heads; all includes the stem and stages 2, 3."""
    register_all_modules()
    cfg = Config.fromfile(get_config_path('mask_rcnn_edge/mask-rcnn_r101_fpn_edge_staged-160k_coco.py'))
    cfg.model.backbone.update(depth=18, init_cfg=None)
    cfg.model.neck.in_channels = [64, 128, 256, 512]
    model = MODELS.build(cfg.model)
    (hook,) = cfg.custom_hooks
    hook = HOOKS.build(hook)

    runner = SimpleNamespace(model=model, iter=0, logger=logging.getLogger())

    def training():
        return {
            '.'.join(k.split('.')[: 1 + k.startswith('backbone')])
            for k, v in model.named_parameters()
            if v.requires_grad
        }

    hook.before_train(runner)
    heads = {'neck', 'rpn_head', 'roi_head'}
    stage4 = heads | {'backbone.layer3', 'backbone.layer4'}
    everything = stage4 | {'backbone.conv1', 'backbone.bn1', 'backbone.layer1', 'backbone.layer2'}
    for iteration, expected in ((39999, heads), (40000, stage4), (119999, stage4), (120000, everything)):
        runner.iter = iteration
        hook.before_train_iter(runner, 0)
        assert training() == expected, iteration
    model.train()
    assert not any(m.training for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
