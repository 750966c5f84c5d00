"""A mask predictor that computes, in training, only the channels that the losses look at.

Shape letters: N instances, C classes, K input channels, H and W mask height and width.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Optional

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


class ClassSelectedConv2d(nn.Conv2d):
    """1x1 convolution that returns :class:`LazyLogits` while training.

    A mask loss looks at one of C channels, that of the ground-truth class; with 80 classes the others are most of what
    the predictor of a mask head costs. Parameters, state dict and predictions are those of ``nn.Conv2d``.
    """

    _is_checkpointed = False

    def forward(self, features: Tensor) -> Any:
        """Return the logits, (N, C, H, W), or in training what computes them on demand."""
        if self.training and self.out_channels > 1:
            # Activation checkpointing runs the head without gradients and later again with them. It keeps the graph of
            # tensors only, so that both must return one.
            if not torch.is_grad_enabled():
                self._is_checkpointed = True
            if not self._is_checkpointed:
                return LazyLogits(features, self)
        return super().forward(features)


class LazyLogits:
    """Logits of a mask head that nobody has asked for yet.

    :meth:`of_class` computes one channel per mask. Everything else that may be done with the tensor of all logits
    (indexing, operators, methods, torch functions) computes them all first: a RoI head that needs them, as Mask Scoring
    and PointRend do, gets them without being told.

    Args:
        features (Tensor): Input of the predictor, (N, K, H, W).
        conv (nn.Conv2d): The predictor, 1x1, K to C channels.
    """

    def __init__(self, features: Tensor, conv: nn.Conv2d) -> None:
        self._features, self._conv = features, conv

    def of_class(self, labels: Tensor) -> Tensor:
        """Return the logits of one class per mask.

        Args:
            labels (Tensor): Class of each mask, (N,), integer.

        Returns:
            Tensor: Shape (N, 1, H, W).
        """
        weight = self._conv.weight
        if hasattr(weight, 'full_tensor') or not weight.numel():
            raise RuntimeError(
                'the weight of the mask predictor is sharded (FSDP, ZeRO-3), and cannot be indexed by class: set '
                "predictor_cfg=dict(type='Conv') on the mask head"
            )
        weight = weight.flatten(1)[labels]
        bias = self._conv.bias[labels]  # type: ignore[index]  # mask heads' predictors have one
        with self._autocast():
            logits = torch.baddbmm(bias[:, None, None], weight[:, None], self._features.flatten(2))
        return logits.unflatten(2, self._features.shape[2:])

    def _autocast(self) -> torch.autocast:
        """Whoever asks may do so outside of the autocast region in which the head ran."""
        device, dtype = self._features.device.type, self._features.dtype
        # torch 2.1 refuses float32 even if switched off.
        return (
            torch.autocast(device, enabled=False) if dtype == self._conv.weight.dtype else torch.autocast(device, dtype)
        )

    @cached_property
    def _all(self) -> Tensor:
        # Whoever is first may only want to look, without gradients; the next may be a loss.
        with torch.enable_grad(), self._autocast():
            return nn.Conv2d.forward(self._conv, self._features)

    def __getattr__(self, name: str) -> Any:
        """Look it up in the tensor of all logits."""
        return getattr(self._all, name)

    def __getitem__(self, index: Any) -> Tensor:
        """Index the tensor of all logits."""
        return self._all[index]

    def __len__(self) -> int:
        """Return N."""
        return len(self._features)

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Sequence[type], args: tuple = (), kwargs: Optional[dict] = None
    ) -> Any:
        """Let torch functions see the tensor."""
        args, kwargs = tree_map(lambda x: x._all if isinstance(x, cls) else x, (args, kwargs or {}))
        return func(*args, **kwargs)


def _operator(name: str) -> Callable:
    return lambda self, *args: getattr(self._all, name)(*args)


# Python looks operators up in the class.
for _name in ('neg', 'abs', 'invert', 'eq', 'ne', 'lt', 'le', 'gt', 'ge', 'iter'):
    setattr(LazyLogits, f'__{_name}__', _operator(f'__{_name}__'))
for _name in ('add', 'sub', 'mul', 'truediv', 'pow'):
    for _side in ('', 'r'):
        setattr(LazyLogits, f'__{_side}{_name}__', _operator(f'__{_side}{_name}__'))
