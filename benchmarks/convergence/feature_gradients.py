"""Print how much an edge loss adds to the gradient that a mask head passes on to its features.

Trains a new mask head on the cached RoI features of a mask-branch spec, with the mask cross entropy and the edge loss,
and compares the gradients of the two on the way. In a whole detector this gradient trains the layers that the mask head
shares with the box head.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_

from benchmarks.convergence.roi_feature_dataset import RoIFeatureDataset
from mmdet_edge import EdgeAgreementMaskHead, EdgeLoss
from mmdet_edge.errors import UserError, one_line_errors

BATCH_SIZE = 64
WARMUP = 30
RATE = 0.1


def compare_gradients(
    dataset: RoIFeatureDataset, loss_edge: dict, iterations: int, report_at: tuple[int, ...], seed: int = 0
) -> list[dict[str, float]]:
    """Train a head and return what is reported.

    Args:
        dataset (RoIFeatureDataset): Training features.
        loss_edge (dict): Options of :class:`EdgeLoss`.
        iterations (int): How long to train, with SGD of 64 RoIs each.
        report_at (tuple[int, ...]): After how many iterations to compare.
        seed (int): Of the weights and the order. Defaults to 0.

    Returns:
        list[dict[str, float]]: The iteration, both losses (the edge loss weighted), ``edge``, the norm of the edge
        loss's gradient of the features relative to the cross entropy's, ``both``, that of the sum, and the cosine
        between the two.
    """
    torch.manual_seed(seed)
    order = np.random.default_rng(seed)
    channels = dataset.features.shape[1]
    head = EdgeAgreementMaskHead(
        in_channels=channels,
        conv_out_channels=channels,
        num_classes=int(dataset.labels.max()) + 1,
        predictor_cfg=dict(type='Conv'),
        loss_edge=loss_edge,
    )
    head.init_weights()
    edge_loss = EdgeLoss(**loss_edge)
    optimizer = torch.optim.SGD(head.parameters(), lr=RATE, momentum=0.9, weight_decay=0.0001)
    rows = []
    for iteration in range(iterations + 1):
        items = [dataset[i] for i in order.choice(len(dataset), min(BATCH_SIZE, len(dataset)), replace=False)]
        features, targets, labels = (torch.stack([x[k] for x in items]) for k in ('features', 'targets', 'labels'))
        logits = head(features.requires_grad_())
        losses = (head.loss_mask(logits, targets, labels).sum(), edge_loss(logits, targets, labels))
        if iteration in report_at:
            mask, edge = (torch.autograd.grad(loss, features, retain_graph=True)[0].flatten() for loss in losses)
            row = dict(iteration=iteration, loss_mask=losses[0].item(), loss_edge=losses[1].item())
            row |= dict(edge=(edge.norm() / mask.norm()).item(), both=((mask + edge).norm() / mask.norm()).item())
            rows.append(row | dict(cosine=torch.cosine_similarity(mask, edge, dim=0).item()))
        optimizer.zero_grad()
        sum(losses).backward()
        clip_grad_norm_(head.parameters(), 10)
        optimizer.param_groups[0]['lr'] = RATE * min(1, (iteration + 1) / WARMUP)
        optimizer.step()
    return rows


@one_line_errors
def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dir', type=Path, help='of a mask-branch spec')
    parser.add_argument('--exponent', type=float, default=2.0, help='of the edge loss (default: 2)')
    parser.add_argument('--loss-weight', type=float, default=3.0, help='of the edge loss (default: 3)')
    parser.add_argument('--at', type=int, nargs='+', default=[0, 30, 60, 120, 240], help='iterations to compare after')
    args = parser.parse_args()
    try:
        dataset = RoIFeatureDataset(str(args.work_dir / 'features/train'))
    except FileNotFoundError as error:
        raise UserError(f'{error}; is {args.work_dir} the work dir of a mask-branch spec?') from None
    loss_edge = dict(exponent=args.exponent, loss_weight=args.loss_weight)
    rows = compare_gradients(dataset, loss_edge, max(args.at), tuple(args.at))
    print('| iteration | mask loss | edge loss | edge gradient / mask gradient | both / mask gradient | cosine |')
    print('|---:' * 6 + '|')
    for row in rows:
        print(
            '| {iteration} | {loss_mask:.3f} | {loss_edge:.3f} | {edge:.1f} | {both:.1f} | {cosine:.2f} |'.format(**row)
        )


if __name__ == '__main__':
    main()
