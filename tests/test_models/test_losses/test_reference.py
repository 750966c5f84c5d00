"""The authors' own losses and gradients, 150 settings (see tests/data/README.md)."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mmdet_edge import EdgeLoss, EdgeWeightedCrossEntropyLoss

DATA = Path(__file__).parents[2] / 'data'
CASES = json.loads((DATA / 'edge_loss_cases.json').read_text())


@pytest.fixture(scope='module')
def inputs():
    arrays = np.load(DATA / 'edge_loss_inputs.npz')
    return torch.tensor(arrays['logits']), torch.tensor(arrays['targets'])


def test_all_cases_are_here():
    assert len(CASES) == 150


@pytest.mark.parametrize('case', CASES, ids=lambda c: '-'.join(str(v) for v in list(c.values())[:-2]))
def test_agrees_with_the_authors_code(case, inputs):
    loss_class = EdgeWeightedCrossEntropyLoss if case['weight_cross_entropy'] else EdgeLoss
    options = {k: case[k] for k in ('filters', 'exponent', 'smooth_pred', 'smooth_target')}
    logits, target = inputs[0].clone().requires_grad_(), inputs[1]
    loss = loss_class(**options)(logits, target)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(case['loss'], rel=1e-4)
    # The norm in double: some squares exceed float32. Where the weighted cross entropy overflows, so does the authors'.
    norm = gradient.double().norm().item()
    assert norm == pytest.approx(case['grad_l2'], rel=1e-4) or not (
        math.isfinite(norm) or math.isfinite(case['grad_l2'])
    )
