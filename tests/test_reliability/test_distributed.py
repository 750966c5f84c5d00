"""Two and four gloo processes: different numbers of objects, and what becomes of the others if one fails."""

import datetime
import multiprocessing
import os
import re
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.structures import InstanceData
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from mmdet_edge import EdgeAgreementMaskHead, get_config_path

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
        sent = dict(queue.get(timeout=120) for _ in range(world_size - args.count('fails')))
        for process in processes:
            # One that was stopped does not end by itself.
            process.join(timeout=1 if 'fails' in args else 60)
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
    if 'fails' not in args:
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


def reduce_until_one_fails(rank, world_size, how, fails):
    """Average gradients; the last rank fails. Return what the others see, and after how many seconds."""
    tensor = torch.ones(1000)
    distributed.all_reduce(tensor)
    if rank == world_size - 1:
        os.kill(os.getpid(), signal.SIGKILL if how == 'dies' else signal.SIGSTOP)
    started = time.time()
    try:
        distributed.all_reduce(tensor)
    except RuntimeError as error:
        return str(error), time.time() - started
    return 'nothing', 0


@pytest.mark.parametrize('world_size', [2, 4])
@pytest.mark.parametrize(
    ('how', 'timeout', 'message'),
    [('dies', 600, 'Connection (closed|reset) by peer'), ('hangs', 3, 'Timed out waiting 3000ms')],
    ids=['dies', 'hangs'],
)
def test_the_others_do_not_hang_if_a_rank(launch, world_size, how, timeout, message):
    results, codes = launch(reduce_until_one_fails, world_size, how, 'fails', timeout=timeout)
    assert sorted(results) == list(range(world_size - 1)) and codes[-1] == -signal.SIGKILL
    for seen, seconds in results.values():
        assert re.search(message, seen) and seconds < 60
