"""A mask predictor that computes, while training, only the channels that the losses need.

Shape letters: N masks, C classes, K input channels, H and W mask height and width.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

ALL_CHANNELS = "set predictor_cfg=dict(type='Conv') on the mask head"


class ClassSelectedConv2d(nn.Conv2d):
    """1x1 convolution that returns :class:`LazyLogits` while training.

    A mask loss needs one of C channels, that of the ground-truth class; with 80 classes the others are most of the
    predictor's cost. Parameters, state dict and predictions are those of ``nn.Conv2d``.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits, (N, C, H, W), for features of shape (N, K, H, W)."""
        # Activation checkpointing connects the outputs of a first run without gradients to those of a second run, in
        # the backward pass, by the graph: both must return ordinary tensors.
        in_backward = torch._C._current_graph_task_id() != -1
        if self.training and self.out_channels > 1 and torch.is_grad_enabled() and not in_backward:
            return LazyLogits(features, self)
        return super().forward(features)


class LazyLogits(Tensor):
    """Logits of a mask head, (N, C, H, W), that are computed when they are needed.

    :meth:`of_class` computes one channel per mask. Everything else that can be done with a tensor is done with
    :attr:`all_classes`, and has its results: RoI heads that need all logits, as those of Mask Scoring and PointRend,
    just use them.

    Args:
        features (Tensor): Input of the predictor, (N, K, H, W).
        conv (nn.Conv2d): The predictor, 1x1, K to C channels.
    """

    _features: Tensor
    _conv: nn.Conv2d

    @staticmethod
    def __new__(cls, features: Tensor, conv: nn.Conv2d) -> 'LazyLogits':
        """Make a tensor without memory."""
        size = (len(features), conv.out_channels, *features.shape[2:])
        lazy = Tensor._make_wrapper_subclass(
            cls, size, dtype=features.dtype, device=features.device, requires_grad=True
        )
        lazy._features, lazy._conv = features, conv
        with torch._C.DisableTorchFunctionSubclass():
            lazy.register_hook(cls.__torch_dispatch__)
        return lazy

    def of_class(self, labels: Tensor) -> Tensor:
        """Return the logits of one class per mask, (N, 1, H, W), for labels of shape (N,), integer."""
        if 'all_classes' in vars(self):
            # Somebody may have changed them in place.
            return self.all_classes[torch.arange(len(labels), device=labels.device), labels][:, None]
        weight = self._conv.weight
        if hasattr(weight, 'full_tensor') or not weight.numel():
            raise RuntimeError(
                'the weight of the mask predictor is sharded (FSDP, ZeRO-3), and cannot be indexed by class: '
                f'{ALL_CHANNELS}'
            )
        # Not by indexing: a GPU has to sort the labels to add up its gradients.
        weight = F.embedding(labels, weight.flatten(1))
        bias = F.embedding(labels, self._conv.bias[:, None])  # type: ignore[index]  # mask heads' predictors have one
        with self._autocast():
            logits = torch.baddbmm(bias[:, None], weight[:, None], self._features.flatten(2))
        return logits.unflatten(2, self._features.shape[2:])

    @cached_property
    def all_classes(self) -> Tensor:
        """The logits of all classes, (N, C, H, W), an ordinary tensor."""
        # With gradients, even if first accessed under no_grad: a loss may need them afterwards.
        with torch.enable_grad(), self._autocast():
            return nn.Conv2d.forward(self._conv, self._features)

    def _autocast(self) -> torch.autocast:
        """Return the head's autocast region again: the logits may be needed outside of it."""
        dtype, mixed = self._features.dtype, self._features.dtype != self._conv.weight.dtype
        # torch 2.1 refuses float32 even if autocast is off.
        return torch.autocast(self._features.device.type, dtype if mixed else None, enabled=mixed)

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Apply a function, method, operator or property of tensors to the logits of all classes."""
        args, kwargs = tree_map(lambda x: x.all_classes if isinstance(x, cls) else x, (args, kwargs or {}))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, *_: Any) -> NoReturn:
        """Refuse what goes past ``__torch_function__``: compiled extensions, custom autograd functions, hooks."""
        raise RuntimeError(
            "a compiled extension, a custom autograd function or a backward hook needs the mask head's logits of all "
            f'classes, which are not computed: {ALL_CHANNELS}'
        )
