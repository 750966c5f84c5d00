"""Training a mask head on RoI features that were cached: data set, model, metric."""

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, METRICS, MODELS
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from benchmarks.convergence import MaskBranch, MaskBranchMetric, RoIFeatureDataset, save_roi_features
from benchmarks.convergence.mask_branch_metric import score_stripes
from mmdet_edge.evaluation.mask_branch import score_mask

register_all_modules()

HEAD = dict(
    type='FCNMaskHead',
    num_convs=2,
    in_channels=8,
    conv_out_channels=8,
    num_classes=3,
    loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0),
)
EDGE_HEAD = dict(HEAD, type='EdgeAgreementMaskHead', loss_edge=dict(type='EdgeLoss', exponent=1, loss_weight=3))


def rois(number=5, size=28):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(number, 8, size // 2, size // 2, generator=generator)
    targets = torch.zeros(number, size, size)
    for i, target in enumerate(targets):
        target[3 + i : 20, 4 : 26 - 2 * i] = 1
    return features, targets, torch.arange(number) % 3


def branch(head=HEAD, **options):
    torch.manual_seed(0)
    model = MaskBranch(dict(head, **options))
    model.init_weights()
    torch.nn.init.normal_(model.mask_head.conv_logits.weight, std=0.5)
    return model


def test_data_set_gives_back_what_was_saved(tmp_path):
    features, targets, labels = rois()
    save_roi_features(tmp_path / 'new' / 'folder', features, targets, labels)
    dataset = DATASETS.build(dict(type='RoIFeatureDataset', data_root=str(tmp_path / 'new' / 'folder')))
    assert isinstance(dataset, RoIFeatureDataset) and len(dataset) == 5
    for i in range(5):
        item = dataset[i]
        assert list(item) == ['features', 'targets', 'labels']
        assert item['features'].dtype == item['targets'].dtype == torch.float32
        assert torch.equal(item['features'], features[i].half().float())
        assert torch.equal(item['targets'], targets[i])
        assert item['labels'].dtype == torch.int64 and item['labels'] == labels[i]
    # On disk they are small.
    assert np.load(tmp_path / 'new/folder/features.npy').dtype == np.float16
    assert np.load(tmp_path / 'new/folder/targets.npy').dtype == bool


@pytest.mark.parametrize('name', ['features', 'targets', 'labels'])
def test_data_set_names_a_missing_file(tmp_path, name):
    save_roi_features(tmp_path, *rois())
    (tmp_path / f'{name}.npy').unlink()
    with pytest.raises(FileNotFoundError, match=rf'RoIFeatureDataset: .* has no {name}\.npy'):
        RoIFeatureDataset(str(tmp_path))


@pytest.mark.parametrize('head', [HEAD, EDGE_HEAD], ids=['fcn', 'edge'])
@pytest.mark.parametrize('class_agnostic', [False, True])
def test_losses_are_the_heads_own(head, class_agnostic):
    features, targets, labels = rois()
    model = branch(head, class_agnostic=class_agnostic)
    logits = model(features, targets, labels)
    assert logits.shape == (5, 1 if class_agnostic else 3, 28, 28) and logits.dtype == torch.float32

    plain = MODELS.build(dict(head, class_agnostic=class_agnostic))
    plain.get_targets = lambda *_, **__: targets
    expected = plain.loss_and_target(logits, [InstanceData(pos_gt_labels=labels)], None, ConfigDict())['loss_mask']
    losses = model(features, targets, labels, mode='loss')
    assert list(losses) == list(expected) == ['loss_mask', *(['loss_edge'] if head is EDGE_HEAD else [])]
    for name, loss in losses.items():
        assert torch.equal(loss, expected[name]) and loss.dtype == torch.float32 and loss > 0


def test_only_the_head_computes_in_bfloat16():
    features, targets, labels = rois()
    model = branch()
    logits = model(features, targets, labels)
    full = model.mask_head(features)
    # The same but for rounding, and all of it is bfloat16's.
    assert torch.equal(logits, logits.bfloat16().float()) and not torch.equal(full, full.bfloat16().float())
    assert torch.allclose(logits, full, atol=0.05 * full.abs().max().item())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    seen = []
    model.mask_head.loss_mask.register_forward_pre_hook(
        lambda _, args: seen.append((args[0].dtype, torch.is_autocast_enabled('cpu')))
    )
    model(features, targets, labels, mode='loss')
    assert seen == [(torch.float32, False)]


def test_a_training_step_reaches_every_weight():
    features, targets, labels = rois()
    model = branch(EDGE_HEAD)
    sum(model(features, targets, labels, mode='loss').values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32 and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize('class_agnostic', [False, True])
def test_prediction_is_of_the_labels_channel(class_agnostic):
    features, targets, labels = rois()
    model = branch(class_agnostic=class_agnostic)
    probs = model(features, targets, labels).sigmoid()
    predicted = model(features, targets, labels, mode='predict')
    assert len(predicted) == 5
    for i, sample in enumerate(predicted):
        assert torch.equal(sample['prob'], probs[i, 0 if class_agnostic else labels[i]])
        assert torch.equal(sample['target'], targets[i])
    if not class_agnostic:
        assert not torch.allclose(probs[0, 0], probs[0, 1])


def test_checkpoint_has_the_keys_of_the_head():
    head = MODELS.build(HEAD)
    assert list(branch().state_dict()) == [f'mask_head.{key}' for key in head.state_dict()]
    # The edge loss adds none.
    assert list(branch(EDGE_HEAD).state_dict()) == list(branch().state_dict())


def test_metric_is_the_mean_of_the_scores(tmp_path):
    file = tmp_path / 'run' / 'scores.npz'
    metric = METRICS.build(dict(type='MaskBranchMetric', scores_file=str(file)))
    assert isinstance(metric, MaskBranchMetric)
    features, targets, labels = rois(7)
    samples = branch()(features, targets, labels, mode='predict')
    for batch in (samples[:4], samples[4:]):
        metric.process(None, [{k: v.detach() for k, v in sample.items()} for sample in batch])
    values = metric.evaluate(7)
    scores = [
        {**score_mask(sample['prob'].detach(), sample['target']), **score_stripes(sample['prob'].detach())}
        for sample in samples
    ]
    assert list(values) == [f'mask_branch/{name}' for name in scores[0]]
    assert 'mask_branch/boundary_IoU_1px' in values and len({s['mIoU'] for s in scores}) > 1
    for name in scores[0]:
        assert values[f'mask_branch/{name}'] == pytest.approx(np.mean([s[name] for s in scores]))
    stored = dict(np.load(file))
    probs = np.stack([sample['prob'].detach().numpy() for sample in samples])
    assert np.abs(stored.pop('prob') / 255 - probs).max() <= 0.5 / 255 + 1e-6
    assert {name: list(stored[name]) for name in stored} == {name: [s[name] for s in scores] for name in scores[0]}


def test_stripes_by_hand():
    nothing = dict(nyquist=0.0, stripes=0.0)
    assert score_stripes(torch.zeros(6, 8)) == score_stripes(torch.full((6, 8), 0.7)) == nothing
    striped = torch.zeros(6, 8)
    striped[:, ::2] = 1
    # All energy but the mean's; all but the first and the last column differ from both neighbours.
    assert score_stripes(striped) == pytest.approx(dict(nyquist=1, stripes=6 / 8))
    assert score_stripes(striped.T) == pytest.approx(dict(nyquist=1, stripes=6 / 8))
    # Undecided, but a pattern all the same.
    assert score_stripes(0.1 * striped) == pytest.approx(dict(nyquist=1, stripes=0))
    square = torch.zeros(6, 8)
    square[1:5, 2:6] = 1
    assert score_stripes(square)['stripes'] == 0
    square[2] = 1 - square[2]
    # The whole row, and what is left of the square above it.
    assert score_stripes(square)['stripes'] == pytest.approx((8 + 4) / 48)
