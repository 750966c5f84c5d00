"""What turns an FCN-like mask head into an Edge Agreement Head (arXiv 1809.07069)."""

import inspect
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from mmdet.models.losses import CrossEntropyLoss
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, OptConfigType
from mmengine.config import ConfigDict
from torch import Tensor, nn

from ..losses import EdgeLoss, EdgeWeightedCrossEntropyLoss, SumMaskLoss
from ..option_checks import check_number
from .class_selected_conv import ClassSelectedConv2d, LazyLogits

CLASS_BLIND_LOSSES = (CrossEntropyLoss, EdgeLoss, EdgeWeightedCrossEntropyLoss, SumMaskLoss)
"""Mask losses that use the label for nothing but selecting a channel; a subclass may use it for more."""

DEFAULT_LOSS_EDGE = dict(type='EdgeLoss', exponent=2.0, loss_weight=3.0)
"""The edge loss that this package recommends."""

DEFAULT_FEATURE_GRAD_SCALE = 0.25
"""Unscaled, that edge loss makes the gradient of the shared layers 5 to 11 times that of the plain mask loss."""


class EdgeAgreementMixin:
    """Adds ``loss_edge`` to the losses of an ``FCNMaskHead`` or a head derived from it.

    Put it before the head among the base classes. mmdet's RoI heads pass the new key on, and those with stages weight
    it by their ``stage_loss_weights``, like every loss; only SCNet's drops it (see
    :class:`EdgeAgreementSCNetMaskHead`).

    While training, only the logits of each mask's own class are computed, unless something needs all of them
    (:class:`LazyLogits`): losses and gradients are the same up to rounding. It takes less memory, and on a CPU less
    time (docs/performance.md). ``predictor_cfg=dict(type='Conv')``, mmdet's default, computes all logits, as does any
    other predictor.

    Args:
        loss_edge (ConfigDict | dict, optional): Config of the edge loss, by default of type 'EdgeLoss'; it replaces the
            default as a whole. None switches it off. Defaults to
            ``dict(type='EdgeLoss', exponent=2.0, loss_weight=3.0)``, which this package recommends (docs/evidence.md);
            the authors' is ``dict(type='EdgeLoss')`` with ``feature_grad_scale=1.0``.
        feature_grad_scale (float): With the edge loss on, the gradient that the mask head passes on to the RoI
            features, and so to the layers below, which it shares with the box head, is multiplied by it, whatever the
            edge loss. At 1, the authors' value, the recommended edge loss trains these layers for the masks at the
            expense of the boxes (docs/evidence.md). In HTC the features of earlier stages, which a stage gets too, are
            scaled where these stages have edge heads. Defaults to 0.25.
        edge_feature_grad_scale (float, optional): The same for the gradient of the edge loss alone, at most
            ``feature_grad_scale``. At 0 the edge loss trains nothing but the mask head; in a cascade, that of its own
            stage. The edge loss's gradient of the other inputs (HTC: features of earlier stages; QueryInst: proposal
            features) becomes smaller by the same factor. If it differs from ``feature_grad_scale``, the mask head runs
            twice in each training iteration, and batch norm updates its statistics twice. Defaults to None:
            ``feature_grad_scale``.
        **kwargs: The arguments of the mask head.

    Raises:
        TypeError: If ``loss_edge`` is neither a config nor None, or if it or ``loss_mask`` does not take the labels of
            the masks.
        ValueError: If ``loss_edge`` does not return one number or has ``activate=False``, or a scale is out of range.
    """

    class_agnostic: bool
    loss_mask: nn.Module

    def __init__(
        self,
        *,
        loss_edge: OptConfigType = DEFAULT_LOSS_EDGE,
        feature_grad_scale: float = DEFAULT_FEATURE_GRAD_SCALE,
        edge_feature_grad_scale: float | None = None,
        **kwargs: Any,
    ) -> None:
        if loss_edge is not None:
            kwargs = {'predictor_cfg': dict(type=ClassSelectedConv2d), **kwargs}
        super().__init__(**kwargs)
        name = type(self).__name__
        if loss_edge is not None and not isinstance(loss_edge, dict):
            raise TypeError(
                f'{name}: loss_edge must be a config, such as dict(filters="sobel"), or None, got {loss_edge!r}. In a '
                'cascade, each head of the list mask_head has its own'
            )
        self.feature_grad_scale = check_number(name, 'feature_grad_scale', feature_grad_scale, minimum=0)
        if edge_feature_grad_scale is None:
            edge_feature_grad_scale = feature_grad_scale
        self.edge_feature_grad_scale = check_number(name, 'edge_feature_grad_scale', edge_feature_grad_scale, minimum=0)
        if self.edge_feature_grad_scale > self.feature_grad_scale:
            raise ValueError(
                f'{name}: edge_feature_grad_scale must be at most feature_grad_scale, {self.feature_grad_scale:g}, got '
                f'{edge_feature_grad_scale!r}'
            )
        self.loss_edge = None
        if loss_edge is not None:
            self.loss_edge = MODELS.build({'type': 'EdgeLoss', **loss_edge})
            _check_takes_labels(name, 'loss_edge', self.loss_edge)
            if not getattr(self.loss_edge, 'activate', True):
                raise ValueError(f'{name}: loss_edge gets logits, but activate=False says that it gets probabilities')
            # The mean over no positive RoI is NaN.
            if getattr(self.loss_edge, 'reduction', 'mean') == 'none':
                raise ValueError(
                    f"{name}: loss_edge must return one number, got reduction='none'; take 'mean' or 'sum'"
                )
            if self.feature_grad_scale != 1:
                self.register_forward_pre_hook(  # type: ignore[attr-defined]
                    _scale_feature_gradient, with_kwargs=True
                )
            if self.edge_feature_grad_scale != self.feature_grad_scale:
                self.register_forward_hook(  # type: ignore[attr-defined]
                    _add_logits_for_edge_loss, with_kwargs=True
                )
        if self._has_mmdets_losses():
            _check_takes_labels(name, 'loss_mask', self.loss_mask)

    def loss_and_target(
        self,
        mask_preds: Tensor,
        sampling_results: list[SamplingResult],
        batch_gt_instances: InstanceList,
        rcnn_train_cfg: ConfigDict,
    ) -> dict:
        """Compute the losses of the mask head and the edge loss on the same targets.

        Args:
            mask_preds (Tensor): Logits, (N, C, H, W): N positive RoIs, C classes (1 if class-agnostic).
            sampling_results (list[:obj:`SamplingResult`]): Sampled RoIs of each image.
            batch_gt_instances (list[:obj:`InstanceData`]): Ground truth of each image, with ``masks``.
            rcnn_train_cfg (ConfigDict): ``train_cfg`` of the RoI head; ``mask_size`` must be (H, W).

        Returns:
            dict: ``loss_mask``, a dict with ``loss_mask`` and ``loss_edge`` (without the latter if it is off), and
            ``mask_targets``, (N, H, W). For N = 0 the keys are the same and the losses are 0.

        Raises:
            RuntimeError: If ``edge_feature_grad_scale`` differs, and ``mask_preds`` are not the ones that the head
                returned, but computed from them.
        """
        labels = torch.cat([res.pos_gt_labels for res in sampling_results])
        edge_preds = self._logits_for_edge_loss(mask_preds)
        mask_preds, one_channel = self._select(mask_preds, labels)
        # FCNMaskHead gives its loss the label 0 where there is one channel only, as in a class-agnostic head.
        with patch.object(self, 'class_agnostic', one_channel):
            results = super().loss_and_target(  # type: ignore[misc]
                mask_preds, sampling_results, batch_gt_instances, rcnn_train_cfg
            )
        if self.loss_edge is not None:
            if edge_preds is not None:
                mask_preds, one_channel = self._select(edge_preds, labels)
            channels = torch.zeros_like(labels) if one_channel else labels
            results['loss_mask']['loss_edge'] = self.loss_edge(mask_preds, results['mask_targets'], channels)
        return results

    def _logits_for_edge_loss(self, mask_preds: Tensor) -> Tensor | None:
        """Return the logits of the second run, or None if there was no need for one."""
        # An attribute of the logits: it lives as long as they do.
        edge_preds = getattr(mask_preds, 'for_edge_loss', None)
        needed = self.loss_edge is not None and self.edge_feature_grad_scale != self.feature_grad_scale
        if needed and self.training and edge_preds is None:  # type: ignore[attr-defined]
            raise RuntimeError(
                f'{type(self).__name__}: edge_feature_grad_scale={self.edge_feature_grad_scale:g} needs the logits as '
                'the head returned them; leave it out where the RoI head changes or selects them before the loss'
            )
        return edge_preds

    def _select(self, mask_preds: Tensor, labels: Tensor) -> tuple[Tensor, bool]:
        """Return logits, those of each mask's own class if nothing needs the others, and whether it is one channel."""
        if not isinstance(mask_preds, LazyLogits):
            return mask_preds, self.class_agnostic
        are_blind = all(type(loss) in CLASS_BLIND_LOSSES for loss in (self.loss_mask, self.loss_edge))
        if are_blind and self._has_mmdets_losses():
            return mask_preds.of_class(labels), True
        return mask_preds.all_classes, self.class_agnostic

    def _has_mmdets_losses(self) -> bool:
        """Return whether ``loss_mask`` is called as in FCNMaskHead; others call it in their way, or use labels more."""
        return super().loss_and_target.__func__ is FCNMaskHead.loss_and_target  # type: ignore[misc]


class _ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, scale: float) -> Tensor:
        """Return the features."""
        ctx.scale = scale
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Return the scaled gradient of the features."""
        return grad * ctx.scale, None


def _scale_feature_gradient(head: Any, inputs: tuple, named: dict) -> tuple[tuple, dict] | None:
    """Scale the gradient of the first input of a mask head, the RoI features, while training."""
    if not head.training:
        return None
    if inputs:
        return (_scale_gradient(inputs[0], head.feature_grad_scale), *inputs[1:]), named
    first = next(iter(inspect.signature(head.forward).parameters))
    return inputs, {**named, first: _scale_gradient(named[first], head.feature_grad_scale)}


def _add_logits_for_edge_loss(head: Any, inputs: tuple, named: dict, outputs: Any) -> None:
    """Run a mask head once more while training, and add the logits to those of the first run as an attribute.

    The gradient of all inputs, that of the RoI features scaled already, is scaled to the fraction for the edge loss.
    """
    arguments = inspect.signature(head.forward).bind(*inputs, **named).arguments
    # HTC's head runs once more for the features only, to hand them to a later stage.
    if not head.training or not arguments.get('return_logits', True):
        return
    scale = partial(_scale_gradient, scale=head.edge_feature_grad_scale / head.feature_grad_scale)
    again = head.forward(*map(scale, inputs), **{name: scale(value) for name, value in named.items()})
    # HTC's head returns its features too.
    logits, edge_logits = (out[0] if isinstance(out, (list, tuple)) else out for out in (outputs, again))
    logits.for_edge_loss = edge_logits


def _scale_gradient(value: Any, scale: float) -> Any:
    """Return a tensor whose gradient is scaled, and anything else as it is."""
    return _ScaleGradient.apply(value, scale) if isinstance(value, Tensor) else value


def _check_takes_labels(owner: str, option: str, loss: nn.Module) -> None:
    """Reject losses whose third argument is not the label: most would take the labels for weights."""
    parameters = list(inspect.signature(loss.forward).parameters.values())
    takes_labels = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters) or any(
        parameter.name.endswith(('label', 'labels')) for parameter in parameters[2:3]
    )
    # With use_mask, the cross entropy uses its arguments label and weight as target and label.
    is_cross_entropy = isinstance(loss, CrossEntropyLoss)
    if not (takes_labels or (is_cross_entropy and loss.use_mask)):
        arguments = ', '.join(parameter.name for parameter in parameters[:3])
        wrapped = "Wrap it: dict(type='SumMaskLoss', losses=[dict(type=...)])"
        raise TypeError(
            f'{owner}: {option} must be called with (pred, target, label), got {type(loss).__name__} with '
            f'({arguments}). {"Set use_mask=True" if is_cross_entropy else wrapped}'
        )
