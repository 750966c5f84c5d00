"""Measure what the edge loss adds to a training step of the mask branch.

Forward, losses and backward of the standard mask head (256 channels, 80 classes) on the positive RoIs of two images
(2 x 128), with FCNMaskHead and with EdgeAgreementMaskHead in turn, so that both see the same machine. The mask branch
is a part of a training step: of the whole step the share is smaller.
"""

import argparse
import statistics
import time
from types import SimpleNamespace

import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmengine.device import get_device
from mmengine.utils.dl_utils import collect_env
from rich.progress import track

from mmdet_edge import EdgeAgreementMaskHead
from mmdet_edge.engine.command_line import stop


class FixedTargets:
    """Takes the cutting of targets out of both measurements: it is the same, and noisy."""

    def get_targets(self, *args: object, **kwargs: object) -> torch.Tensor:
        """Return the prepared targets."""
        return self.targets


class Plain(FixedTargets, FCNMaskHead):
    """FCNMaskHead on fixed targets."""


class Edge(FixedTargets, EdgeAgreementMaskHead):
    """EdgeAgreementMaskHead on fixed targets."""


def step_seconds(head: FCNMaskHead, features: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the time of one step."""
    synchronize = torch.cuda.synchronize if features.is_cuda else lambda: None
    synchronize()
    start = time.perf_counter()
    sampled = SimpleNamespace(pos_gt_labels=labels)
    losses = head.loss_and_target(head(features), [sampled], [], {})['loss_mask']
    sum(loss.sum() for loss in losses.values()).backward()
    synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rois', type=int, default=256, help='positive RoIs a step (default: 256)')
    parser.add_argument('--steps', type=int, default=30, help='steps of each head (default: 30)')
    args = parser.parse_args()
    for name in ('rois', 'steps'):
        if getattr(args, name) < 1:
            raise stop(f'--{name} must be at least 1, got {getattr(args, name)}')
    device = get_device()
    torch.manual_seed(0)
    features = torch.randn(args.rois, 256, 14, 14, device=device)
    labels = torch.randint(80, (args.rois,), device=device)
    heads = [Plain().to(device), Edge().to(device)]
    for head in heads:
        head.targets = (torch.rand(args.rois, 28, 28, device=device) > 0.5).float()
        step_seconds(head, features, labels)
    times = [[step_seconds(h, features, labels) for h in heads] for _ in track(range(args.steps), 'measuring')]
    plain, edge = (statistics.median(column) for column in zip(*times))
    ratios = sorted(e / p for p, e in times)
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    env = collect_env()
    print(f'device {env.get("GPU 0", device)}, torch {torch.__version__}, {torch.get_num_threads()} threads')
    print(f'FCNMaskHead            {1000 * plain:8.1f} ms a step (median)')
    print(f'EdgeAgreementMaskHead  {1000 * edge:8.1f} ms a step (median)')
    print(f'ratio {statistics.median(ratios):.3f} (quartiles {low:.3f} to {high:.3f}, {args.steps} paired steps)')


if __name__ == '__main__':
    main()
