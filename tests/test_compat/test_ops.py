"""mmcv's operators without a compiled mmcv: equal to compiled ones where those were run, else to the definition."""

import importlib.util
import subprocess
import sys
from pathlib import Path

# First, also in a process that imports this file alone: it may have to serve the operators.
import mmdet_edge  # noqa: F401

# isort: split
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv import ops
from mmcv.utils import ext_loader
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
from torch import nn

from mmdet_edge.compat.ops import SERVED, serve_mmcv_ops, served_operators

EXT = sys.modules['mmcv._ext']
IS_OURS = EXT.nms is SERVED['nms']
ONLY_OURS = pytest.mark.skipif(not IS_OURS, reason='mmcv is compiled here')


def load_reference():
    path = Path(__file__).with_name('reference.py')
    spec = importlib.util.spec_from_file_location('mmcv_reference', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = load_reference()


@pytest.fixture(scope='module')
def stored():
    with np.load(reference.PATH) as arrays:
        return dict(arrays)


@pytest.mark.parametrize('name', reference.CASES)
def test_equals_compiled_mmcv(name, stored, device):
    results = reference.run(name, stored, device)
    expected = [stored[f'{name}/result/{i}'] for i in range(len(results))]
    for result, other in zip(results, expected):
        assert (result.shape, result.dtype) == (other.shape, other.dtype)
        if result.dtype == np.int64 or (name.startswith(reference.EXACT) and device.type == 'cpu'):
            np.testing.assert_array_equal(result, other)
        else:
            np.testing.assert_allclose(result, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())


def test_reference_inputs_are_those_of_the_script(stored):
    for name, array in reference.make_inputs().items():
        np.testing.assert_allclose(array, stored[name], rtol=1e-6)


@pytest.fixture
def without_ext(monkeypatch):
    """No mmcv._ext imported yet."""
    monkeypatch.delitem(sys.modules, 'mmcv._ext')


def test_a_compiled_mmcv_is_left_alone(tmp_path):
    (tmp_path / '_ext.py').write_text('def __getattr__(name):\n    return name\n')
    code = """
import sys, mmcv
mmcv.__path__.insert(0, sys.argv[1])
import mmdet_edge, mmcv.ops
assert sys.modules['mmcv.ops.nms'].ext_module.nms == 'nms'
print(sys.modules['mmcv._ext'].__file__)
"""
    command = [sys.executable, '-W', 'ignore', '-c', code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    # OneDL's mmdet prints lines of its own.
    assert done.stdout.split()[-1:] == [str(tmp_path / '_ext.py')], done.stderr


def test_what_is_there_already_is_left_alone(monkeypatch):
    other = object()
    monkeypatch.setitem(sys.modules, 'mmcv._ext', other)
    serve_mmcv_ops()
    assert sys.modules['mmcv._ext'] is other


@ONLY_OURS
@pytest.mark.parametrize('torchvision', [None, 'broken'])
def test_without_torchvision(without_ext, torchvision, monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, 'torchvision')
    if torchvision is None:
        monkeypatch.setitem(sys.modules, 'torchvision', None)
    else:
        # What the one of another torch does.
        (tmp_path / 'torchvision.py').write_text("raise RuntimeError('operator torchvision::nms does not exist')")
        monkeypatch.syspath_prepend(tmp_path)
    message = (
        r'^mmdet_edge: mmcv has no compiled operators, and torchvision, which replaces them, cannot be imported: .*'
        r'torchvision.*\. Install the torchvision that belongs to torch 2.* from where torch came from$'
    )
    with pytest.raises(ImportError, match=message):
        serve_mmcv_ops()
    assert 'mmcv._ext' not in sys.modules


@ONLY_OURS
def test_says_so_once(monkeypatch):
    lines = []
    monkeypatch.setattr('mmdet_edge.compat.ops._announced', False)
    monkeypatch.setattr('mmdet_edge.compat.ops.print_log', lambda *args: lines.append(args))
    for function in (ops.nms, ops.nms, ops.soft_nms):
        function(torch.rand(3, 4), torch.rand(3), 0.5)
    ((line, logger),) = lines
    assert logger == 'current'
    assert 'its operators are torchvision 0.' in line and 'deform_conv, modulated_deform_conv, nms, nms_match' in line
    assert line.endswith('A compiled mmcv would be used if there were one')


@ONLY_OURS
@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: ops.roi_pool(torch.rand(1, 1, 4, 4), torch.rand(1, 5), 2), "'roi_pool_forward', for pooling of RoIs"),
        (
            lambda: ops.nms_rotated(torch.rand(2, 5), torch.rand(2), 0.5),
            r"'nms_rotated', for rotated boxes \(MMRotate\)",
        ),
        (lambda: ops.bbox_overlaps(torch.rand(2, 4), torch.rand(2, 4)), "'bbox_overlaps' needs"),
        (lambda: EXT.something_new(1, a=2), "'something_new' needs"),
    ],
)
def test_what_is_not_served_says_so_when_it_is_called(call, message):
    with pytest.raises(NotImplementedError) as error:
        call()
    assert error.match(f"^mmcv's operator {message}")
    text = (
        f'mmdet_edge serves only: {", ".join(served_operators())}. Install a compiled one: `make install OPS=compiled`'
    )
    assert text in str(error.value)


@ONLY_OURS
def test_max_pooling_is_refused():
    with pytest.raises(NotImplementedError, match=r"RoIAlign: pool_mode='max' needs a compiled mmcv"):
        ops.roi_align(torch.rand(1, 1, 4, 4), torch.zeros(1, 5), 2, 1.0, 0, 'max', True)


@ONLY_OURS
def test_it_looks_like_a_module():
    assert importlib.util.find_spec('mmcv._ext') is EXT.__spec__
    with pytest.raises(AttributeError, match='__wrapped__'):
        EXT.__wrapped__  # noqa: B018
    assert ext_loader.load_ext('_ext', ['nms', 'whatever']) is EXT
    # What mmengine writes into each log.
    assert ops.get_compiler_version() == ops.get_compiling_cuda_version() == 'none (mmdet_edge serves the operators)'


def focal_inputs(device, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    # Also logits whose probability is exactly 0 or 1 in float32.
    logits = torch.cat(
        [3 * torch.randn(12, 4, generator=generator), torch.tensor([[20.0, -20, 120, -120]]).repeat(2, 1)]
    )
    target = torch.tensor([0, 1, 2, 3, 4, 4, 0, 2, 1, 4, 3, 3, 0, 2])
    return logits.to(device, dtype).requires_grad_(), target.to(device)


@ONLY_OURS
@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('gamma', [2.0, 1.5])
def test_sigmoid_focal_loss(weighted, gamma, device):
    logits, target = focal_inputs(device)
    weight = torch.tensor([0.5, 1, 2, 3], device=device) if weighted else None
    loss = ops.sigmoid_focal_loss(logits, target, gamma, 0.25, weight, 'none')
    exact, _ = focal_inputs(device, torch.float64)
    # Compiled mmcv has no kernel for a CPU: mmdet's loss in float64 instead.
    one_hot = F.one_hot(target, 5)[:, :4].double()
    of_target = 1 if weight is None else F.pad(weight, (0, 1), value=1)[target][:, None].double()
    expected = py_sigmoid_focal_loss(exact, one_hot, gamma=gamma, alpha=0.25, reduction='none') * of_target
    # mmcv, too, bounds the logarithm where the probability is 0 in float32.
    bounded = exact.detach().abs() < 17
    torch.testing.assert_close(loss[bounded].double(), expected[bounded], rtol=1e-5, atol=1e-5)
    assert loss.isfinite().all() and loss.max() < 3 * 0.75 * 88
    output = torch.linspace(-1, 1, loss.numel(), device=device).view_as(loss)
    (grad,) = torch.autograd.grad(loss, logits, output)
    (expected_grad,) = torch.autograd.grad(expected, exact, output.double())
    torch.testing.assert_close(grad[bounded].double(), expected_grad[bounded], rtol=1e-5, atol=1e-5)
    # Where it is sure and wrong, the gradient stays.
    assert grad.isfinite().all() and (grad[~bounded].abs().amax() > 0.1)


def naive_carafe(features, masks, kernel, groups, scale):
    """Its definition, one pixel after the other; linear in both arguments."""
    num, channels, height, width = features.shape
    output = np.zeros((num, channels, height * scale, width * scale))
    radius = kernel // 2
    for n, c, y, x in np.ndindex(*output.shape):
        for i, j in np.ndindex(kernel, kernel):
            row, column = y // scale + i - radius, x // scale + j - radius
            if 0 <= row < height and 0 <= column < width:
                channel = (c // (channels // groups) * kernel + i) * kernel + j
                output[n, c, y, x] += features[n, c, row, column] * masks[n, channel, y, x]
    return output


@ONLY_OURS
@pytest.mark.parametrize(('kernel', 'groups', 'scale'), [(3, 1, 2), (5, 2, 3), (1, 1, 1)])
def test_carafe(kernel, groups, scale, device):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 4, 3, 5, generator=generator)
    masks = torch.randn(2, groups * kernel**2, 3 * scale, 5 * scale, generator=generator)
    # Compiled mmcv has no kernel for a CPU.
    expected = naive_carafe(features.double().numpy(), masks.double().numpy(), kernel, groups, scale)
    inputs = [tensor.clone().to(device).requires_grad_() for tensor in (features, masks)]
    output = ops.carafe(*inputs, kernel, groups, scale)
    np.testing.assert_allclose(output.detach().cpu(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ops.carafe_naive(*inputs, kernel, groups, scale), output)
    grads = torch.autograd.grad((output * output.detach()).sum(), inputs)
    # Along a random direction of each argument, as it is linear in it.
    for k, grad in enumerate(grads):
        direction = torch.randn(grad.shape, generator=generator)
        moved = [direction if i == k else tensor for i, tensor in enumerate((features, masks))]
        change = naive_carafe(*[tensor.double().numpy() for tensor in moved], kernel, groups, scale)
        np.testing.assert_allclose((grad.cpu() * direction).sum().item(), (change * expected).sum(), rtol=1e-4)


def sync_bn_process(rank, folder, stats_mode):
    """Compare one of two processes with batch normalisation of both batches together."""
    # A forked process waits forever for the threads of its parent, where torch's OpenMP is GNU's.
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    generator = torch.Generator().manual_seed(0)
    both = 2 + 3 * torch.randn(4, 3, 5, 6, generator=generator)
    grad = torch.randn(4, 3, 5, 6, generator=generator)
    plain = nn.BatchNorm2d(3, momentum=0.3)
    synced = ops.SyncBatchNorm(3, momentum=0.3, stats_mode=stats_mode)
    nn.init.uniform_(plain.weight)
    nn.init.uniform_(plain.bias)
    torch.distributed.broadcast(plain.weight.data, 0)
    torch.distributed.broadcast(plain.bias.data, 0)
    synced.load_state_dict(plain.state_dict())
    mine = slice(2 * rank, 2 * rank + 2)
    x, all_x = both[mine].clone().requires_grad_(), both.clone().requires_grad_()
    output, expected = synced(x), plain(all_x)
    output.backward(grad[mine])
    expected.backward(grad)
    close = {'rtol': 1e-5, 'atol': 1e-5}
    torch.testing.assert_close(output, expected[mine], **close)
    torch.testing.assert_close(x.grad, all_x.grad[mine], **close)
    torch.testing.assert_close(synced.running_mean, plain.running_mean, **close)
    torch.testing.assert_close(synced.running_var, plain.running_var, **close)
    # mmcv averages over the processes.
    torch.testing.assert_close(2 * synced.weight.grad, plain.weight.grad, **close)
    torch.testing.assert_close(2 * synced.bias.grad, plain.bias.grad, **close)
    if stats_mode == 'N':
        # One process has nothing: the statistics are those of the other.
        output = synced(both[: 2 * (1 - rank)])
        torch.testing.assert_close(output, plain(both[:2])[: 2 * (1 - rank)], **close)
    torch.testing.assert_close(
        synced.eval()(x), F.batch_norm(x, synced.running_mean, synced.running_var, synced.weight, synced.bias)
    )
    torch.distributed.destroy_process_group()


# Compiled mmcv has no kernel for a CPU.
@ONLY_OURS
def test_sync_bn_of_two_processes(tmp_path):
    for stats_mode in ('default', 'N'):
        (tmp_path / stats_mode).mkdir()
        # Forked, they need not import everything again; but autograd does not survive a fork once it has used a GPU.
        method = 'spawn' if torch.cuda.is_initialized() else 'fork'
        arguments = (tmp_path / stats_mode, stats_mode)
        torch.multiprocessing.start_processes(sync_bn_process, arguments, nprocs=2, start_method=method)


def test_nothing(device):
    features, rois = torch.rand(2, 3, 8, 8, device=device, requires_grad=True), torch.rand(0, 5, device=device)
    output = ops.roi_align(features, rois, (7, 7), 1.0, 0, 'avg', True)
    assert output.shape == (0, 3, 7, 7)
    output.sum().backward()
    assert features.grad.shape == features.shape and not features.grad.any()
    boxes, scores = torch.rand(0, 4, device=device), torch.rand(0, device=device)
    for function, options in (
        (ops.nms, dict(iou_threshold=0.5)),
        (ops.nms, dict(iou_threshold=0.5, offset=1)),
        (ops.soft_nms, dict(iou_threshold=0.5)),
    ):
        dets, kept = function(boxes, scores, **options)
        assert dets.shape == (0, 5) and kept.shape == (0,) and kept.dtype == torch.int64
    assert ops.nms_match(torch.rand(0, 5), 0.5) == []
    if IS_OURS:
        logits = torch.rand(0, 4, device=device, requires_grad=True)
        loss = ops.sigmoid_focal_loss(logits, torch.zeros(0, dtype=torch.long, device=device), 2.0, 0.25, None, 'sum')
        loss.backward()
        assert loss == 0 and logits.grad.shape == (0, 4)
        masks = torch.rand(0, 9, 6, 6, device=device)
        assert ops.carafe(torch.rand(0, 4, 3, 3, device=device), masks, 3, 1, 2).shape == (0, 4, 6, 6)


@ONLY_OURS
def test_an_offset_that_is_not_a_number(device):
    # What a diverging training has. torchvision would read at an address that it made of it.
    x, weight = torch.rand(1, 2, 5, 5, device=device), torch.rand(3, 2, 3, 3, device=device)
    offset = torch.zeros(1, 18, 5, 5, device=device)
    far = offset.clone()
    offset[:, 4], far[:, 4] = torch.nan, 100
    for bad in (torch.nan, torch.inf, -torch.inf, 1e30):
        offset[:, 4] = bad
        result = reference.deform_conv(x, offset, weight, stride=1, padding=1)
        for value, other in zip(result, reference.deform_conv(x, far, weight, stride=1, padding=1)):
            torch.testing.assert_close(value, other)


@ONLY_OURS
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype, device):
    if (dtype, device.type) == (torch.float16, 'cpu') and torch.__version__ < '2.2':
        pytest.skip('torch 2.1 has no float16 autocast on a CPU')
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 4, 8, 8, generator=generator).to(device)
    rois = torch.tensor([[0, 1, 2, 6, 7], [1, 0, 0, 3, 5.0]], device=device)
    modules = [
        ops.RoIAlign(3),
        ops.DeformConv2dPack(4, 2, 3, padding=1),
        ops.ModulatedDeformConv2dPack(4, 2, 3, padding=1),
        ops.CARAFEPack(4, 2),
    ]
    for module in modules:
        args = (rois,) if isinstance(module, ops.RoIAlign) else ()
        module.to(device)
        grads = []
        outputs = []
        for enabled in (False, True):
            # float32 weights and RoIs beside half-precision features, as after an autocast convolution.
            inputs = x.clone().to(dtype if enabled else torch.float32).requires_grad_()
            with torch.autocast(device.type, dtype, enabled=enabled):
                output = module(inputs, *args)
            output.float().square().sum().backward()
            outputs.append(output.float())
            grads.append(inputs.grad.float())
        assert output.dtype == inputs.grad.dtype == dtype
        for values in (outputs, grads):
            torch.testing.assert_close(values[1], values[0], rtol=0.05, atol=0.05 * float(values[0].abs().max()))
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 5], [8, 8, 9, 9]], device=device)
    scores = torch.tensor([0.5, 0.75, 0.25], device=device)
    for offset in (0, 1):
        assert ops.nms(boxes.to(dtype), scores.to(dtype), 0.5, offset)[1].tolist() == [1, 2]
    logits, target = focal_inputs(device, dtype)
    ops.sigmoid_focal_loss(logits, target, 2.0, 0.25).backward()
    assert logits.grad.dtype == dtype and logits.grad.isfinite().all()
