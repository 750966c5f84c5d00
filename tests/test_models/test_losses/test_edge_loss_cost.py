"""What can be shown of the edge loss's cost without a GPU and without a clock."""

import sys

import pytest
import torch
from mmdet.models.losses.cross_entropy_loss import mask_cross_entropy
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.cost.timing import peak_memory
from mmdet_edge import EdgeLoss, EdgeWeightedCrossEntropyLoss
from mmdet_edge.models.losses.edge_filters import EDGE_FILTERS

VIEWS = ('alias', 'detach', 'expand', 'select', 'slice', 'squeeze', 'unsqueeze', 'view', '_unsafe_view', 'empty_like')


class CountKernels(TorchDispatchMode):
    """Counts the operators that are work for the device."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name not in VIEWS:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def inputs(num=8, channels=3, size=28):
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(num, channels, size, size, generator=generator).requires_grad_()
    target = (torch.rand(num, size, size, generator=generator) > 0.5).float()
    return pred, target, torch.arange(num) % channels


@pytest.fixture(params=['shifts', 'convolution'])
def way(request, monkeypatch):
    """How the loss is computed: as on a CPU, or as on a GPU."""
    module = sys.modules[EdgeLoss.__module__]
    monkeypatch.setattr(module, 'takes_convolution', lambda maps: request.param == 'convolution')
    return request.param


@pytest.mark.parametrize('padding_mode', ['zeros', 'replicate', 'reflect'])
@pytest.mark.parametrize('exponent', [1, 1.5, 2, 2.7, 3, 4, 5])
@pytest.mark.parametrize('smooth_pred', [False, True])
@pytest.mark.usefixtures('way')
def test_the_fast_way_equals_the_mean_of_the_map(exponent, padding_mode, smooth_pred):
    # instance_losses has a custom backward; the gradient of the map is autograd's.
    loss = EdgeLoss(list(EDGE_FILTERS), exponent, smooth_pred, padding_mode=padding_mode)
    pred, target, _ = inputs(3, 1, 9)
    pred, target = pred[:, 0].detach().double().requires_grad_(), target.double()
    weight = torch.tensor([1.0, 0.0, 2.5], dtype=torch.float64)
    fast = loss.instance_losses(pred, target)
    slow = loss.edge_disagreement(pred, target).mean(dim=(1, 2))
    assert torch.allclose(fast, slow)
    gradients = [torch.autograd.grad((values * weight).sum(), pred)[0] for values in (fast, slow)]
    assert torch.allclose(*gradients, atol=1e-12)


def test_differentiating_twice_is_refused():
    pred, target, label = inputs()
    loss = EdgeLoss()
    with pytest.raises(RuntimeError, match='cannot differentiate twice.*edge_disagreement, which can'):
        torch.autograd.grad(loss(pred, target, label), pred, create_graph=True)
    pred = pred[:, 0].detach().double().requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda x: loss.edge_disagreement(x, target[:2].double()).mean(), pred[:2], fast_mode=True
    )


@pytest.mark.parametrize(
    ('options', 'limit'),
    # On a CPU and on a GPU. The usual form with two convolutions needs about 20 for any filter of two kernels.
    [
        (dict(), dict(shifts=55, convolution=24)),
        (dict(exponent=1.5), dict(shifts=60, convolution=26)),
        (dict(filters='laplacian'), dict(shifts=45, convolution=24)),
    ],
)
def test_number_of_kernels_does_not_grow(options, limit, way):
    pred, target, label = inputs()
    loss = EdgeLoss(**options)
    # The first call on a device makes the kernels.
    loss(pred, target, label)
    with CountKernels() as counted:
        loss(pred, target, label).backward()
    assert len(counted.names) <= limit[way], counted.names
    assert not {'_local_scalar_dense', 'item', 'nonzero', '_to_copy'} & set(counted.names)


@pytest.mark.parametrize('exponent', [1, 1.5, 2, 5])
@pytest.mark.parametrize('filters', ['sobel', list(EDGE_FILTERS)])
def test_memory_does_not_grow_with_the_kernels(filters, exponent):
    pred, target, label = inputs(64, 1)
    loss = EdgeLoss(filters, exponent)

    def forward_and_backward(function):
        def run():
            pred.grad = None
            function(pred, target, label).sum().backward()

        return run

    one = target.numel() * 4
    bce, edge = (peak_memory(forward_and_backward(function)) for function in (mask_cross_entropy, loss))
    assert edge < bce + 2.1 * one


@pytest.mark.parametrize('loss_class', [EdgeLoss, EdgeWeightedCrossEntropyLoss])
@pytest.mark.parametrize('padding_mode', ['zeros', 'replicate', 'reflect'])
def test_without_a_look_at_the_values(loss_class, padding_mode):
    # A fake tensor has no values: whatever synchronised with a GPU would raise here.
    loss = loss_class(['sobel', 'laplacian'], 1.5, smooth_target=True, padding_mode=padding_mode)
    with FakeTensorMode():
        pred, target = torch.empty(8, 3, 28, 28, requires_grad=True), torch.empty(8, 28, 28)
        value = loss(pred, target, torch.empty(8, dtype=torch.long), weight=torch.ones(8))
        value.backward()
    assert value.shape == () and pred.grad.shape == pred.shape


@pytest.mark.skipif(torch.__version__ < '2.6', reason='torch 2.1 cannot trace an autograd.Function with options')
@pytest.mark.parametrize('loss_class', [EdgeLoss, EdgeWeightedCrossEntropyLoss])
def test_no_graph_break_and_one_graph_for_any_number_of_masks(loss_class):
    loss = loss_class(exponent=1.5)
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(loss, backend=backend, fullgraph=True, dynamic=True)
    for num in (5, 7):
        pred, target, label = inputs(num)
        value = compiled(pred, target, label)
        assert value.item() == pytest.approx(loss(pred, target, label).item(), rel=1e-6)
        (gradient,) = torch.autograd.grad(value, pred)
        assert gradient.isfinite().all() and gradient.abs().sum() > 0
    assert len(graphs) == 1
