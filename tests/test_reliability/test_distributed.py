"""Two and four gloo processes: different numbers of objects, and which checkpoint they resume from."""

import datetime
import logging
import multiprocessing
import os
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from mmdet_edge import EdgeAgreementMaskHead, get_config_path
from mmdet_edge.engine.hooks.atomic_checkpoint_hook import CheckpointError

# A server that has the libraries loaded, and has not run anything that does not survive a fork.
SERVER = multiprocessing.get_context('forkserver')
SERVER.set_forkserver_preload(['mmdet_edge', 'mmdet.models', 'mmdet.testing'])


@pytest.fixture
def launch(tmp_path):
    """Run a function in several gloo processes; return what they sent, by rank, and their exit codes."""

    def run(function, world_size, *args, timeout=60):
        queue, store = SERVER.Queue(), tmp_path / f'store_{len(list(tmp_path.iterdir()))}'
        processes = [
            SERVER.Process(target=start, args=(function, rank, world_size, store, timeout, queue, args))
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        sent = dict(queue.get(timeout=120) for _ in range(world_size))
        for process in processes:
            process.join(timeout=60)
            process.kill()
            process.join()
        errors = [value for value in sent.values() if isinstance(value, Exception)]
        if errors:
            raise errors[0]
        return sent, [process.exitcode for process in processes]

    return run


def start(function, rank, world_size, store, timeout, queue, args):
    torch.set_num_threads(1)
    distributed.init_process_group(
        'gloo',
        init_method=f'file://{store}',
        rank=rank,
        world_size=world_size,
        timeout=datetime.timedelta(seconds=timeout),
    )
    try:
        result = function(rank, world_size, *args)
    except Exception as error:
        result = error
    queue.put((rank, result))
    queue.close()
    queue.join_thread()
    distributed.barrier()
    distributed.destroy_process_group()


def batch(kind):
    """An image with a number of objects, or with objects that are ignored as crowds are."""
    num = 3 if kind == 'crowd' else kind
    data = demo_mm_inputs(1, image_shapes=[(3, 96, 96)], num_items=[num], num_classes=6, with_mask=True)
    (sample,) = data['data_samples']
    if kind == 'crowd':
        sample.ignored_instances = InstanceData(bboxes=sample.gt_instances.bboxes)
        sample.gt_instances = sample.gt_instances[:0]
    return data


def train_detector(rank, world_size, kinds):
    """Train two steps; return the logged keys and values of each, and the weights."""
    register_all_modules()
    cfg = Config.fromfile(get_config_path('mask_rcnn_edge/mask-rcnn_r18_fpn_edge_1xb4-300i_shapes.py'))
    cfg.model.backbone.base_channels = 8
    cfg.model.neck.in_channels = [8, 16, 32, 64]
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model = MMDistributedDataParallel(model, device_ids=None, broadcast_buffers=False)
    optim = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
    logged = [{k: v.item() for k, v in model.train_step(batch(kinds[rank]), optim).items()} for _ in range(2)]
    return logged, torch.cat([p.detach().flatten() for p in model.parameters()]).numpy()


@pytest.mark.parametrize(
    'kinds', [(0, 3), (0, 'crowd'), (0, 'crowd', 1, 5)], ids=['one without', 'both without', 'four']
)
def test_ranks_with_different_numbers_of_objects(launch, kinds):
    results, codes = launch(train_detector, len(kinds), kinds)
    assert codes == [0] * len(kinds)
    logged, weights = results[0]
    assert {'loss', 'loss_mask', 'loss_edge', 'loss_rpn_cls'} <= set(logged[0])
    for rank, kind in enumerate(kinds):
        others, other_weights = results[rank]
        # The same keys in the same order, which is that of their reductions; the weights have not drifted apart.
        assert [list(step) for step in others] == [list(step) for step in logged]
        assert (other_weights == weights).all()
        for step in others:
            has_objects = kind not in (0, 'crowd')
            assert (step['loss_edge'] > 0) == (step['loss_mask'] > 0) == has_objects
            assert all(abs(value) < 1e3 for value in step.values())


class Losses(torch.nn.Module):
    """The mask head and one of its losses on the RoIs of a rank."""

    def __init__(self, key):
        super().__init__()
        torch.manual_seed(0)
        self.key = key
        self.head = EdgeAgreementMaskHead(num_convs=1, in_channels=8, conv_out_channels=8, num_classes=3)

    def forward(self, features, labels, targets):
        self.head.get_targets = lambda **kwargs: targets
        preds = self.head(features)
        losses = self.head.loss_and_target(preds, [SimpleNamespace(pos_gt_labels=labels)], [], {})['loss_mask']
        # All parameters take part, as in the sum of a detector's losses.
        return losses[self.key].sum() + 0 * preds.sum()


def rois(rank, num):
    generator = torch.Generator().manual_seed(rank)
    targets = torch.zeros(num, 28, 28)
    for index, target in enumerate(targets):
        target[4 + index : 20, 3 + rank : 25] = 1
    return torch.randn(num, 8, 14, 14, generator=generator), torch.arange(num) % 3, targets


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()]).double()


def gradient_of_rank(rank, world_size, counts):
    found = {}
    for key in ('loss_mask', 'loss_edge'):
        model = DistributedDataParallel(Losses(key))
        model(*rois(rank, counts[rank])).backward()
        found[key] = gradient(model).numpy()
    return found


@pytest.mark.parametrize('counts', [(4, 4), (1, 7), (0, 5), (1, 2, 0, 5)], ids=str)
def test_gradients_are_the_mean_of_the_means_of_the_ranks(launch, counts):
    """The rule of mmdet's own mask loss, which is not the mean over all RoIs if their numbers differ."""
    results, _ = launch(gradient_of_rank, len(counts), counts)
    distances = {}
    for key in ('loss_mask', 'loss_edge'):
        found = torch.from_numpy(results[0][key])
        model = Losses(key)
        sum(model(*rois(rank, num)) / len(counts) for rank, num in enumerate(counts)).backward()
        assert (found - gradient(model)).norm() <= 1e-6 * found.norm()
        model = Losses(key)
        model(*(torch.cat(parts) for parts in zip(*(rois(rank, num) for rank, num in enumerate(counts))))).backward()
        distances[key] = ((found - gradient(model)).norm() / gradient(model).norm()).item()
    print(f'{counts} RoIs: relative distance to the gradient of one process with all RoIs: {distances}')
    if len(set(counts)) == 1:
        assert max(distances.values()) < 1e-6
    else:
        assert min(distances.values()) > 1e-2


class Numbers(Dataset):
    """Eight images of four pixels."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return dict(inputs=torch.full((4,), float(index)))


class Sum(BaseModel):
    """A model of five numbers."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, inputs, mode):
        return dict(loss=self.layer(torch.stack(inputs)).square().mean())


class Note(Hook):
    """Records the iteration at which a training run starts."""

    def before_train(self, runner):
        self.start = runner.iter


def train_numbers(rank, world_size, work_dir, steps, resume):
    """Train; return first and last step, or what stopped it, and what was logged about damage."""
    register_all_modules()
    # As torchrun does.
    os.environ['LOCAL_RANK'] = str(rank)
    runner = Runner(
        model=Sum(),
        work_dir=work_dir,
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            dataset=Numbers(),
            sampler=dict(type='InfiniteSampler'),
            collate_fn=dict(type='pseudo_collate'),
        ),
        train_cfg=dict(by_epoch=False, max_iters=steps),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.001)),
        default_hooks=dict(checkpoint=dict(type='AtomicCheckpointHook', interval=2, by_epoch=False)),
        launcher='pytorch',
        cfg=dict(
            resume=resume,
            model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False),
        ),
        resume=resume,
        default_scope='mmdet',
        experiment_name='numbers',
    )
    note, handler, lines = Note(), logging.Handler(), []
    runner.register_hook(note)
    handler.emit = lambda record: lines.append(record.getMessage())
    runner.logger.addHandler(handler)
    try:
        runner.train()
    except CheckpointError as error:
        return str(error), lines
    return (note.start, runner.iter), [line for line in lines if 'damaged' in line]


def test_all_ranks_resume_from_the_same_checkpoint(launch, tmp_path):
    work_dir = tmp_path / 'run'
    results, _ = launch(train_numbers, 2, str(work_dir), 6, False)
    assert results == {rank: ((0, 6), []) for rank in range(2)}
    os.truncate(work_dir / 'iter_6.pth', 100)
    results, codes = launch(train_numbers, 2, str(work_dir), 8, True)
    assert codes == [0, 0] and [results[rank][0] for rank in range(2)] == [(4, 8)] * 2
    # Reported once.
    (line,) = results[0][1]
    assert 'iter_6.pth is damaged' in line and 'iter_4.pth' in line and results[1][1] == []
    assert torch.load(work_dir / 'iter_8.pth')['meta']['iter'] == 8


def test_all_ranks_stop_if_all_checkpoints_are_damaged(launch, tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'iter_2.pth').write_bytes(b'')
    results, codes = launch(train_numbers, 2, str(tmp_path / 'run'), 4, True)
    assert codes == [0, 0] and results[0][0] == results[1][0]
    assert results[0][0].startswith('cannot resume, no checkpoint can be read: ')
