"""Draw what the edge loss looks at: a predicted mask, its target, their edges and the residual's edges."""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.ndimage import gaussian_filter, shift
from shapely import affinity

from mmdet_edge import edge_loss
from mmdet_edge.datasets.shapes import SHAPES, rasterise
from mmdet_edge.errors import one_line_errors
from mmdet_edge.models.losses.edge_filters import filter_masks, get_edge_kernels
from mmdet_edge.preflight.paths import check_writable


@one_line_errors
def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', default='docs/images/edge_agreement_head.png', help='file to write')
    out = Path(parser.parse_args().out)
    check_writable('--out', out, is_folder=False)

    star = affinity.translate(affinity.scale(SHAPES['star'](np.random.default_rng(1)), 12, 12), 14, 14)
    target = (rasterise(star, 28) >= 0.5).astype(np.float32)
    # A prediction as an early mask head makes it: blurred, a little off.
    prediction = np.clip(gaussian_filter(shift(target, (0.7, -0.5), order=1), 1.6), 0.02, 0.98)
    masks = torch.tensor(np.stack([prediction, target, prediction - target]))
    edges = filter_masks(masks, get_edge_kernels(['sobel']))
    loss = edge_loss(masks[:1].logit(), masks[1:2], exponent=2, loss_weight=3).item()

    figure, grid = plt.subplots(3, 3, figsize=(7.6, 7.8), layout='constrained')
    columns = ('prediction', 'target', 'difference')
    rows = ('mask, 28x28', 'Sobel, rows', 'Sobel, columns')
    for column in range(3):
        maps = [masks[column], *edges[column]]
        for row, values in enumerate(maps):
            axes = grid[row, column]
            limit = 1 if row == 0 else 4
            axes.imshow(values, cmap='RdBu_r', vmin=-limit, vmax=limit)
            axes.set_xticks([])
            axes.set_yticks([])
            if row == 0:
                axes.set_title(columns[column], fontsize=13)
            if column == 0:
                axes.set_ylabel(rows[row], fontsize=13)
    figure.supxlabel(
        f'edge loss: 3 times the mean of x² over the two maps at the lower right, here {loss:.2f}\n'
        '(red positive, blue negative)',
        fontsize=12,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=80)
    print(out)


if __name__ == '__main__':
    main()
