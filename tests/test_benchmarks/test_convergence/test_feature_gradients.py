"""The gradient that the edge loss adds to the features."""

import numpy as np
import pytest
import torch

from benchmarks.convergence import RoIFeatureDataset, save_roi_features
from benchmarks.convergence.feature_gradients import compare_gradients


@pytest.fixture
def work_dir(tmp_path):
    generator = torch.Generator().manual_seed(0)
    targets = torch.rand(6, 28, 28, generator=generator) > 0.5
    features = torch.randn(6, 8, 14, 14, generator=generator)
    save_roi_features(tmp_path / 'features/train', features, targets, torch.arange(6) % 3)
    return tmp_path


def test_the_gradient_grows_with_the_weight(work_dir):
    dataset = RoIFeatureDataset(str(work_dir / 'features/train'))
    one, three = (compare_gradients(dataset, dict(loss_weight=w), 0, (0,))[0] for w in (1, 3))
    assert three['edge'] == pytest.approx(3 * one['edge'], rel=1e-4)
    assert three['loss_edge'] == pytest.approx(3 * one['loss_edge'], rel=1e-4)
    assert one['loss_mask'] == three['loss_mask'] and one['cosine'] == pytest.approx(three['cosine'], rel=1e-4)
    # The norm of a sum of two vectors, from their norms and the angle between them.
    assert one['both'] == pytest.approx(np.sqrt(1 + one['edge'] ** 2 + 2 * one['edge'] * one['cosine']), rel=1e-4)


def test_prints_a_table(work_dir, call):
    printed = call('convergence.feature_gradients', work_dir, '--at', 0, 2)
    assert '| 0 | ' in printed and '| 2 | ' in printed
    with pytest.raises(SystemExit, match='RoIFeatureDataset: .*; is .* the work dir of a mask-branch spec'):
        call('convergence.feature_gradients', work_dir / 'none')
