"""Losses and heads on the device that --device names: what they compute there is what the reference says."""

import contextlib
import json
import math
import shutil

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope

from mmdet_edge import EdgeAgreementMaskHead, EdgeLoss, EdgeWeightedCrossEntropyLoss

from ..conftest import ROOT
from .test_mask_heads.test_class_selected_conv import PLAIN, SMALL

DATA = ROOT / 'tests' / 'data'
CASES = json.loads((DATA / 'edge_loss_cases.json').read_text())


@pytest.fixture(scope='module')
def masks(device):
    """Logits and targets of the reference cases."""
    arrays = np.load(DATA / 'edge_loss_inputs.npz')
    return torch.tensor(arrays['logits'], device=device), torch.tensor(arrays['targets'], device=device)


@pytest.mark.parametrize('case', CASES[::7], ids=lambda c: '-'.join(str(v) for v in list(c.values())[:-2]))
def test_agrees_with_the_authors_code(case, masks):
    loss_class = EdgeWeightedCrossEntropyLoss if case['weight_cross_entropy'] else EdgeLoss
    options = {name: case[name] for name in ('filters', 'exponent', 'smooth_pred', 'smooth_target')}
    logits = masks[0].clone().requires_grad_()
    loss = loss_class(**options)(logits, masks[1])
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(case['loss'], rel=1e-4)
    # Where the weighted cross entropy overflows, so does the authors'.
    norm = gradient.double().norm().item()
    assert norm == pytest.approx(case['grad_l2'], rel=1e-4) or not math.isfinite(norm + case['grad_l2'])


@pytest.mark.parametrize('dtype', [None, torch.float16, torch.bfloat16], ids=str)
def test_computes_in_float32_under_autocast(masks, device, dtype):
    if device.type == 'cpu' and dtype is torch.float16:
        pytest.skip('a CPU autocasts to bfloat16')
    logits = masks[0].to(dtype) if dtype else masks[0]
    region = torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext()
    with region:
        loss = EdgeLoss('kayyali', exponent=5)(logits, masks[1])
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(EdgeLoss('kayyali', exponent=5)(logits.float(), masks[1]).item(), rel=1e-6)


@pytest.mark.parametrize('labels', [[2, 0, 3, 3, 1], [1], []])
def test_class_selected_logits_give_the_losses_and_gradients_of_all_logits(device, labels):
    features = torch.randn(len(labels), 8, 7, 7, generator=torch.Generator().manual_seed(0)).to(device)
    targets = (torch.rand(len(labels), 14, 14, generator=torch.Generator().manual_seed(1)) > 0.5).float().to(device)
    label = torch.tensor(labels, dtype=torch.long, device=device)
    # A test before it may have left another scope.
    init_default_scope('mmdet')
    results = []
    for options in ({}, PLAIN):
        torch.manual_seed(0)
        head = EdgeAgreementMaskHead(**SMALL, **options)
        head.init_weights()
        head.to(device).train()
        head.get_targets = lambda **_: targets
        sampled = [type('Sampled', (), dict(pos_gt_labels=label))()]
        losses = head.loss_and_target(head(features), sampled, [], {})['loss_mask']
        sum(loss.sum() for loss in losses.values()).backward()
        results.append([*losses.values(), *(parameter.grad for parameter in head.parameters())])
    for selected, plain in zip(*results):
        torch.testing.assert_close(selected, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(torch.__version__ < '2.6', reason='torch 2.1 cannot trace an autograd.Function with options')
def test_compiles_as_one_graph(masks):
    torch.compiler.reset()
    loss = EdgeLoss()
    # Inductor itself needs a compiler, also on a GPU.
    backend = 'inductor' if shutil.which('c++') or shutil.which('g++') else 'aot_eager'
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    assert compiled(*masks).item() == pytest.approx(loss(*masks).item(), rel=1e-5)


def test_runs_in_a_cuda_graph(masks, device):
    """No operation of the loss waits for the GPU, or allocates from the CPU, which a graph could not record."""
    if device.type != 'cuda':
        pytest.skip('CUDA graphs need a GPU')
    loss = EdgeLoss()
    logits, target = masks[0].clone(), masks[1]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            loss(logits, target)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = loss(logits, target)
    logits.mul_(0.5)
    graph.replay()
    assert recorded.item() == pytest.approx(loss(logits, target).item(), rel=1e-6)
