"""Only the logits of each mask's own class: the same training, at less cost."""

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.models.losses import CrossEntropyLoss
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.runner import turn_on_activation_checkpointing
from mmengine.utils import get_installed_path
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from mmdet_edge import EdgeAgreementHTCMaskHead, EdgeAgreementMaskHead
from mmdet_edge.models.mask_heads.class_selected_conv import ClassSelectedConv2d, LazyLogits
from mmdet_edge.models.mask_heads.edge_agreement_mixin import EdgeAgreementMixin

SMALL = dict(num_convs=1, in_channels=8, conv_out_channels=8, num_classes=4)
PLAIN = dict(predictor_cfg=dict(type='Conv'))
HEADS = pytest.mark.parametrize('head_class', [EdgeAgreementMaskHead, EdgeAgreementHTCMaskHead])


def build(head_class, dtype=torch.float32, **options):
    torch.manual_seed(0)
    head = head_class(**{**SMALL, **options})
    head.init_weights()
    return head.to(dtype)


def train(head, labels, dtype=torch.float32, check=True):
    """Return logits, losses and gradients of one iteration."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(len(labels), 8, 7, 7, generator=generator, dtype=dtype).requires_grad_()
    targets = (torch.rand(len(labels), 14, 14, generator=generator) > 0.5).to(dtype)
    head.get_targets = lambda **_: targets
    logits = head(features)
    logits = logits[0] if isinstance(logits, list) else logits
    # Two images, as from a RoI head.
    labels = torch.tensor(labels, dtype=torch.long)
    sampled = [SimpleNamespace(pos_gt_labels=part) for part in (labels[:2], labels[2:])]
    losses = head.loss_and_target(logits, sampled, [], {})['loss_mask']
    sum(loss.sum() for loss in losses.values()).backward()
    assert not check or torch.equal(torch.cat([res.pos_gt_labels for res in sampled]), labels)
    gradients = {name: p.grad for name, p in head.named_parameters() if 'conv_res' not in name}
    return logits, losses, dict(gradients, features=features.grad)


def test_the_gradients_of_the_classes_are_added_up_without_a_sort():
    # On a GPU the gradient of an index is added up by sorting it, that of an embedding is not.
    logits = ClassSelectedConv2d(8, 4, 1)(torch.randn(3, 8, 7, 7)).of_class(torch.tensor([2, 0, 2]))
    names, nodes = set(), [logits.grad_fn]
    while nodes:
        node = nodes.pop()
        names.add(node.name())
        nodes += [following for following, _ in node.next_functions if following]
    assert 'EmbeddingBackward0' in names and 'IndexBackward0' not in names


@HEADS
@pytest.mark.parametrize('labels', [[2, 0, 3, 3, 1], [1], []])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 3e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize('class_agnostic', [False, True])
def test_same_losses_and_gradients(head_class, labels, dtype, tolerance, class_agnostic):
    options = dict(class_agnostic=class_agnostic)
    logits, losses, gradients = train(build(head_class, dtype, **options), labels, dtype)
    expected_logits, expected_losses, expected = train(build(head_class, dtype, **options, **PLAIN), labels, dtype)
    assert type(logits) is (torch.Tensor if class_agnostic else LazyLogits)
    assert type(expected_logits) is torch.Tensor
    assert list(losses) == list(expected_losses) == ['loss_mask', 'loss_edge']
    for name in losses:
        assert losses[name].item() == pytest.approx(expected_losses[name].item(), rel=min(tolerance, 1e-6))
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        # With no RoI too: in a distributed job every rank has a gradient for every parameter.
        error = (gradient - expected[name]).norm().item()
        assert error <= tolerance * expected[name].norm().item(), name


@HEADS
def test_same_inference_and_state(head_class):
    ours, plain = build(head_class), build(head_class, **PLAIN)
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters()))
    features = torch.randn(2, 8, 7, 7)
    outputs = [head.eval()(features) for head in (ours, plain)]
    outputs = [x[0] if isinstance(x, list) else x for x in outputs]
    assert type(outputs[0]) is torch.Tensor and torch.equal(*outputs)


def test_only_where_there_is_an_edge_loss_and_no_other_predictor():
    assert type(EdgeAgreementMaskHead(**SMALL).conv_logits) is ClassSelectedConv2d
    assert type(EdgeAgreementMaskHead(loss_edge=None, **SMALL).conv_logits) is not ClassSelectedConv2d
    assert type(EdgeAgreementMaskHead(predictor_cfg=dict(type='Conv'), **SMALL).conv_logits) is not ClassSelectedConv2d


@pytest.mark.parametrize('use_reentrant', [True, False])
def test_activation_checkpointing_trains_the_whole_head(use_reentrant):
    expected = train(build(EdgeAgreementMaskHead, **PLAIN), [2, 0, 3])
    head = build(EdgeAgreementMaskHead)
    forward = head.forward
    head.forward = lambda features: checkpoint(forward, features, use_reentrant=use_reentrant)
    _, losses, gradients = train(head, [2, 0, 3])
    assert losses['loss_mask'].item() == pytest.approx(expected[1]['loss_mask'].item(), rel=1e-6)
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, expected[2][name], atol=1e-6), name


def test_the_checkpointing_of_mmengine_trains_the_whole_head():
    expected = train(build(EdgeAgreementMaskHead, **PLAIN), [2, 0, 3])[2]
    head = build(EdgeAgreementMaskHead)
    turn_on_activation_checkpointing(nn.ModuleDict(dict(mask_head=head)), 'mask_head')
    gradients = train(head, [2, 0, 3])[2]
    assert all(torch.allclose(gradient, expected[name], atol=1e-6) for name, gradient in gradients.items())


def test_a_forward_without_gradients_keeps_the_next_ones_fast():
    # As PreciseBN does, and a look while debugging.
    head = build(EdgeAgreementMaskHead)
    features = torch.randn(2, 8, 7, 7)
    with torch.no_grad():
        assert type(head(features)) is torch.Tensor
    assert type(head(features)) is LazyLogits


def test_a_first_access_without_gradients_does_not_cut_the_graph():
    # EdgeVisualizationHook reads them without gradients before Mask Scoring uses the same logits.
    features = torch.randn(3, 8, 6, 5).requires_grad_()
    lazy = ClassSelectedConv2d(8, 4, 1)(features)
    with torch.no_grad():
        assert lazy.shape == (3, 4, 6, 5)
    lazy[:, 0].sum().backward()
    assert features.grad.abs().sum() > 0


@pytest.fixture
def pair():
    """Lazy logits, and the same as an ordinary tensor."""
    conv = ClassSelectedConv2d(8, 4, 1)
    features = torch.randn(3, 8, 6, 5, generator=torch.Generator().manual_seed(0))
    lazy = conv(features)
    assert type(lazy) is LazyLogits
    return lazy, nn.Conv2d.forward(conv, features)


OPERATIONS = {
    'abs': abs,
    'neg': lambda x: -x,
    'mul': lambda x: 2 * x,
    'sub': lambda x: x - 1,
    'floordiv': lambda x: x // 0.1,
    'mod': lambda x: x % 0.1,
    'matmul': lambda x: x @ x.mT,
    'less': lambda x: x < 0,
    'equal': lambda x: x == 0,
    'not': lambda x: ~x.bool(),
    'in': lambda x: (x.flatten()[3].item() in x, 100.0 in x),
    'len': len,
    'iterate': list,
    'size': lambda x: (x.size(0), *x.shape),
    # As Mask Scoring does while training.
    'index': lambda x: x[range(3), torch.tensor([3, 0, 1])],
    'method': lambda x: x.sigmoid(),
    'function': lambda x: torch.cat([x, x]),
    # As PointRend does while training.
    'sample': lambda x: nn.functional.grid_sample(x, torch.ones(3, 2, 2, 2) / 3, align_corners=False),
    'numpy': lambda x: np.asarray(x.detach()),
    'copy': copy.copy,
    'pickle': lambda x: pickle.loads(pickle.dumps(x)),
    'deepcopy': lambda x: copy.deepcopy(x.detach()),
}


@pytest.mark.parametrize('operation', OPERATIONS.values(), ids=OPERATIONS)
def test_what_a_tensor_can_do_is_done_with_all_logits(operation, pair):
    ours, expected = map(operation, pair)
    assert type(ours) is type(expected)
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def test_logits_changed_in_place_are_what_the_loss_gets(pair):
    lazy, expected = pair
    lazy[0] = 5.0
    lazy += 1
    labels = torch.tensor([3, 0, 1])
    assert (lazy[0] == 6).all() and torch.equal(lazy[1:], expected[1:] + 1)
    changed = ClassSelectedConv2d(8, 4, 1)(torch.randn(3, 8, 6, 5))
    changed[0] = 5.0
    assert (changed.of_class(labels)[0] == 5).all()
    assert torch.equal(changed.of_class(labels)[:, 0], changed[range(3), labels])


def test_one_class_equals_its_channel_of_all_logits(pair):
    lazy, expected = pair
    labels = torch.tensor([3, 0, 1])
    torch.testing.assert_close(lazy.of_class(labels)[:, 0], expected[range(3), labels])


def test_a_deep_copy_fails_as_that_of_any_tensor_with_a_graph(pair):
    for logits in pair:
        with pytest.raises(RuntimeError, match='Only Tensors created explicitly by the user'):
            copy.deepcopy(logits)


class Double(torch.autograd.Function):
    """A function with a gradient of its own, as those of compiled extensions."""

    @staticmethod
    def forward(ctx, logits):
        return 2 * logits

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


def test_what_torch_cannot_hand_to_us_is_refused():
    # Without a word it would train without the gradient of the mask head.
    conv, features = ClassSelectedConv2d(8, 4, 1), torch.randn(3, 8, 6, 5)
    with pytest.raises(RuntimeError, match=r"logits of all classes, .*predictor_cfg=dict\(type='Conv'\)"):
        Double.apply(conv(features)).sum().backward()
    conv.register_full_backward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match=r"logits of all classes, .*predictor_cfg=dict\(type='Conv'\)"):
        conv(features).sum().backward()


class NeedsLabels(nn.Module):
    """A mask loss that uses the label for more than picking a channel."""

    def forward(self, pred, target, label):
        assert pred.shape[1] == 4 and label.max() == 3
        return (pred[range(len(pred)), label].mean((1, 2)) * label).sum()


class WeighsClasses(CrossEntropyLoss):
    """The same, derived from one that does not."""

    def forward(self, pred, target, label):
        return super().forward(pred, target, label) * label.sum()


@pytest.mark.parametrize('loss', [NeedsLabels(), WeighsClasses(use_mask=True)], ids=lambda x: type(x).__name__)
def test_other_mask_losses_get_all_logits(loss):
    head = build(EdgeAgreementMaskHead)
    head.loss_mask = loss
    plain = build(EdgeAgreementMaskHead, **PLAIN)
    plain.loss_mask = loss
    ours, theirs = (train(h, [2, 0, 3])[1] for h in (head, plain))
    assert ours['loss_mask'].item() == pytest.approx(theirs['loss_mask'].item(), rel=1e-6)
    assert ours['loss_edge'].item() == pytest.approx(theirs['loss_edge'].item(), rel=1e-6)


class NeedsLabelsHead(FCNMaskHead):
    """A head of a user that uses the labels for more."""

    def loss_and_target(self, mask_preds, sampling_results, *args):
        results = super().loss_and_target(mask_preds, sampling_results, *args)
        results['loss_mask']['loss_mask'] *= torch.cat([res.pos_gt_labels for res in sampling_results]).sum()
        return results


class NeedsLabelsEdgeHead(EdgeAgreementMixin, NeedsLabelsHead):
    """Its counterpart, as docs/any_config.md says."""


def test_heads_of_a_user_get_all_logits():
    ours, theirs = (train(build(NeedsLabelsEdgeHead, **options), [2, 0, 3])[1] for options in (dict(), PLAIN))
    assert ours['loss_mask'].item() == pytest.approx(theirs['loss_mask'].item(), rel=1e-6) and ours['loss_mask'] > 1


def test_a_sharded_weight_is_refused():
    conv = ClassSelectedConv2d(8, 4, 1)
    lazy = conv(torch.randn(3, 8, 6, 5))
    # As DeepSpeed's ZeRO-3 leaves it outside of the layer's own forward.
    conv.weight.data = torch.empty(0)
    with pytest.raises(RuntimeError, match=r"sharded.*predictor_cfg=dict\(type='Conv'\)"):
        lazy.of_class(torch.tensor([0, 1, 2]))


@pytest.mark.skipif(torch.__version__ < '2.6', reason='torch 2.1 cannot draw fake numbers')
def test_without_a_look_at_the_values():
    # A fake tensor has no values: whatever synchronised with a GPU would raise here.
    head = build(EdgeAgreementMaskHead)
    with FakeTensorMode(allow_non_fake_inputs=True):
        head = copy.deepcopy(head)
        losses = train(head, [2, 0, 3], check=False)[1]
    assert losses['loss_edge'].shape == ()


def test_logits_needed_later_have_the_autocast_dtype_of_the_head():
    head = build(EdgeAgreementMaskHead)
    features = torch.randn(2, 8, 7, 7)
    with torch.autocast('cpu', torch.bfloat16):
        logits = head(features)
    assert logits.dtype == logits.of_class(torch.tensor([0, 1])).dtype == torch.bfloat16


def test_mask_scoring_gets_the_logits_of_all_classes(monkeypatch):
    register_all_modules()
    cfg = Config.fromfile(f'{get_installed_path("mmdet")}/.mim/configs/ms_rcnn/ms-rcnn_r50-caffe_fpn_1x_coco.py').model
    cfg.backbone.update(depth=18, init_cfg=None)
    cfg.neck.in_channels = [64, 128, 256, 512]
    cfg.roi_head.mask_head.type = 'EdgeAgreementMaskHead'
    model = MODELS.build(cfg).train()
    asked = []
    all_classes = LazyLogits.all_classes.func
    monkeypatch.setattr(LazyLogits, 'all_classes', property(lambda self: asked.append(1) or all_classes(self)))
    data = demo_mm_inputs(2, [[3, 96, 96], [3, 96, 96]], num_items=[3, 0], with_mask=True)
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    assert asked and losses['loss_mask_iou'].isfinite() and losses['loss_edge'] > 0
