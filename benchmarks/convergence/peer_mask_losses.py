"""Mask losses of other papers, to compare with the edge loss.

They are implemented from the formulas of the papers, for benchmarks only. A mask head calls each with logits, targets
and the classes of the masks. They are added to the cross entropy, except for two that replace it (focal,
border-weighted). Distances are in pixels of the head's mask, divided by its width.

Shapes: N masks of C classes, with height H and width W.
"""

from abc import abstractmethod

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor, nn

from mmdet_edge.models.losses.edge_loss import select_class_masks


class PeerMaskLoss(nn.Module):
    """Base of these losses: takes the arguments of a mask loss, applies the weight, and returns 0 without masks.

    Args:
        loss_weight (float): Defaults to 1.0.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, pred: Tensor, target: Tensor, label: Tensor | None = None) -> Tensor:
        """Compute the loss of logits (N, C, H, W), targets (N, H, W) and classes (N,); see EdgeLoss."""
        with torch.autocast(pred.device.type, enabled=False):
            logits, target = select_class_masks(type(self).__name__, pred, target, label)
            return self.loss_weight * self.masks_loss(logits, target) if len(logits) else logits.sum()

    @abstractmethod
    def masks_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of masks; both (N, H, W)."""


def signed_distance(target: Tensor) -> Tensor:
    """Return the distance to the boundary of each mask, negative inside, in pixels.

    Of two pixels on either side of the boundary, the outer one has 1 and the inner one 0. An empty or full mask has no
    boundary in its box: its map is 0 everywhere.

    Args:
        target (Tensor): Shape (N, H, W), 0 or 1.

    Returns:
        Tensor: Shape (N, H, W).
    """
    maps = []
    for mask in target.cpu().numpy() > 0.5:
        if mask.all() or not mask.any():
            maps.append(np.zeros(mask.shape, np.float32))
            continue
        inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        outside = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        maps.append(outside - (inside - 1) * mask)
    return torch.from_numpy(np.stack(maps)).to(target)


@MODELS.register_module()
class SignedDistanceLoss(PeerMaskLoss):
    """Boundary loss of Kervadec et al. 2019 (arXiv 1812.07032): mean of probability times signed distance."""

    def masks_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss."""
        return (logits.sigmoid() * signed_distance(target)).mean() / target.shape[-1]


def soft_contour(masks: Tensor) -> Tensor:
    """Return each mask minus its erosion by a 3x3 square, (N, H, W); beyond the box is no background."""
    return masks + F.max_pool2d(-masks[:, None], 3, 1, 1)[:, 0]


def truncated_distance(contours: Tensor, steps: int) -> Tensor:
    """Return the distance to a soft contour in steps of a 3x3 square, cut off at ``steps``; differentiable.

    Args:
        contours (Tensor): Shape (N, H, W), in [0, 1].
        steps (int): Number of dilations.

    Returns:
        Tensor: Shape (N, H, W), in [0, steps]; for a contour of 0 and 1 the chessboard distance.
    """
    reached, distance = contours[:, None], 1 - contours[:, None]
    for _ in range(steps - 1):
        reached = F.max_pool2d(reached, 3, 1, 1)
        distance = distance + (1 - reached)
    return distance[:, 0]


@MODELS.register_module()
class ContourDistanceLoss(PeerMaskLoss):
    """Contour loss with a k-step distance transform, after arXiv 2102.10854.

    The loss is the mean distance of the pixels of the predicted contour to the target's contour, averaged with the
    reverse. Max pooling computes the distances, truncated at k. Only the abstract and introduction of the paper were
    available: the details (pooling, both directions, k) are ours.

    Args:
        steps (int): k. Defaults to 5.
        **kwargs: As :class:`PeerMaskLoss`.
    """

    def __init__(self, steps: int = 5, **kwargs: float) -> None:
        super().__init__(**kwargs)
        self.steps = steps

    def masks_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss."""
        contours = soft_contour(logits.sigmoid()), soft_contour(target)
        distances = [truncated_distance(contour, self.steps) for contour in contours]
        return sum(
            ((contour * distance).sum((1, 2)) / contour.sum((1, 2)).clamp(min=1)).mean()
            for contour, distance in zip(contours, reversed(distances))
        ) / (2 * self.steps)


@MODELS.register_module()
class LaplacianBoundaryLoss(PeerMaskLoss):
    """Boundary loss of BMask R-CNN (ECCV 2020): cross entropy plus Dice between boundaries found by a Laplacian.

    In the paper a separate branch predicts the boundary. Here the boundary is computed from the predicted mask, as the
    positive part of its 8-neighbour Laplacian, clipped at 1: the model stays the same.
    """

    def masks_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss."""
        kernel = -torch.ones(1, 1, 3, 3, dtype=logits.dtype, device=logits.device)
        kernel[..., 1, 1] = 8
        boundary, goal = (
            F.conv2d(masks[:, None], kernel, padding=1)[:, 0].clamp(0, 1) for masks in (logits.sigmoid(), target)
        )
        # Clip, so that the slope of the logarithm is bounded.
        cross_entropy = F.binary_cross_entropy(boundary.clamp(0.01, 0.99), goal)
        overlap, total = (boundary * goal).sum((1, 2)), (boundary**2 + goal**2).sum((1, 2))
        return cross_entropy + (1 - (2 * overlap + 1) / (total + 1)).mean()


_EIGHT_NEIGHBOURS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


def stack_neighbours(maps: Tensor) -> Tensor:
    """Return the eight neighbours of each pixel of (N, H, W), row by row, (N, 8, H, W); the border repeats itself."""
    padded = F.pad(maps[:, None], (1, 1, 1, 1), mode='replicate')[:, 0]
    height, width = maps.shape[1:]
    return torch.stack([padded[:, 1 + y :, 1 + x :][:, :height, :width] for y, x in _EIGHT_NEIGHBOURS], dim=1)


def divergence(logits: Tensor, others: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of probabilities from others (foreground or not), given as logits."""
    inside = logits.sigmoid() * (F.logsigmoid(logits) - F.logsigmoid(others))
    return inside + (-logits).sigmoid() * (F.logsigmoid(-logits) - F.logsigmoid(-others))


@MODELS.register_module()
class ActiveBoundaryLoss(PeerMaskLoss):
    """Active boundary loss (Wang et al. 2022, arXiv 2102.02696).

    The pixels of the predicted boundary are those that differ most from their neighbours. At each, a cross entropy with
    smoothed labels makes it differ most from the one of its eight neighbours that is nearest to the target's boundary,
    with a weight that grows with the distance from there. On the target's boundary, on either side of it, the weight is
    0. The limits below are ours: the paper's are for whole images.

    Args:
        boundary_fraction (float): Fraction of the pixels of a mask that are taken for its predicted boundary, before it
            is dilated by a 3x3 square. Defaults to 0.1 (in the paper 0.01).
        max_distance (float): Distance at which the weight reaches its largest value, 1, in pixels. Defaults to 5 (in
            the paper 20).
        label_smoothing (float): Defaults to 0.2, as in the paper.
        **kwargs: As :class:`PeerMaskLoss`.
    """

    def __init__(
        self,
        boundary_fraction: float = 0.1,
        max_distance: float = 5.0,
        label_smoothing: float = 0.2,
        **kwargs: float,
    ) -> None:
        super().__init__(**kwargs)
        self.boundary_fraction = boundary_fraction
        self.max_distance = max_distance
        self.label_smoothing = label_smoothing

    def masks_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of the pixels of the predicted boundaries."""
        # 0 on both sides of the boundary. Without a boundary all is 0, and nothing to move.
        signed = signed_distance(target)
        distance = torch.where(signed > 0, signed - 1, -signed)
        nearest = stack_neighbours(distance).argmin(1)
        # As in the authors' code, from the neighbours, which get no gradient, to the pixel.
        differences = divergence(stack_neighbours(logits.detach()), logits[:, None])
        away = self._predicted_boundary(differences.detach()) & (distance > 0)
        losses = F.cross_entropy(differences, nearest, reduction='none', label_smoothing=self.label_smoothing)
        weights = (distance / self.max_distance).clamp(max=1) * away
        return (weights * losses).sum() / away.sum().clamp(min=1)

    def _predicted_boundary(self, differences: Tensor) -> Tensor:
        """Return the pixels that differ most from their neighbours on the right and below, dilated; bool (N, H, W)."""
        right, below = _EIGHT_NEIGHBOURS.index((0, 1)), _EIGHT_NEIGHBOURS.index((1, 0))
        strength = differences[:, [right, below]].sum(1)
        threshold = strength.flatten(1).quantile(1 - self.boundary_fraction, dim=1)[:, None, None]
        # A flat mask has no boundary.
        found = (strength >= threshold) & (strength > 0)
        return F.max_pool2d(found[:, None].to(differences), 3, 1, 1)[:, 0] > 0


@MODELS.register_module()
class LovaszHingeLoss(PeerMaskLoss):
    """Lovasz hinge (Berman et al. 2018, arXiv 1705.08790), mask by mask: convex surrogate of 1 - IoU."""

    def masks_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss."""
        truth = target.flatten(1)
        errors = 1 - logits.flatten(1) * (2 * truth - 1)
        errors, order = errors.sort(dim=1, descending=True)
        truth = truth.gather(1, order)
        total = truth.sum(1, keepdim=True)
        jaccard = 1 - (total - truth.cumsum(1)) / (total + (1 - truth).cumsum(1))
        steps = torch.cat([jaccard[:, :1], jaccard.diff(dim=1)], dim=1)
        return (errors.relu() * steps).sum(1).mean()


@MODELS.register_module()
class FocalMaskLoss(PeerMaskLoss):
    """Focal loss (arXiv 1708.02002) of pixels, without class balance; replaces the cross entropy.

    Args:
        gamma (float): Defaults to 2.
        **kwargs: As :class:`PeerMaskLoss`.
    """

    def __init__(self, gamma: float = 2.0, **kwargs: float) -> None:
        super().__init__(**kwargs)
        self.gamma = gamma

    def masks_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss."""
        cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction='none')
        return ((1 - (-cross_entropy).exp()) ** self.gamma * cross_entropy).mean()


@MODELS.register_module()
class BorderWeightedLoss(PeerMaskLoss):
    """Cross entropy with more weight near the boundary, as in U-Net (arXiv 1505.04597); replaces the plain one.

    The weight of a pixel is 1 + ``border_weight`` * exp(-d^2 / (2 * ``sigma``^2)), d the distance to the boundary of
    the mask itself (in U-Net to the two nearest cells).

    Args:
        border_weight (float): Defaults to 3.
        sigma (float): In pixels. Defaults to 1.5.
        **kwargs: As :class:`PeerMaskLoss`.
    """

    def __init__(self, border_weight: float = 3.0, sigma: float = 1.5, **kwargs: float) -> None:
        super().__init__(**kwargs)
        self.border_weight, self.sigma = border_weight, sigma

    def masks_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss."""
        distance = signed_distance(target)
        # The boundary is between the pixels at 0 and 1. Without a boundary all weights are 1.
        near = (-((distance - 0.5) ** 2) / (2 * self.sigma**2)).exp() * distance.flatten(1).any(1)[:, None, None]
        cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction='none')
        return ((1 + self.border_weight * near) * cross_entropy).mean()
