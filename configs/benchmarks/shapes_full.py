_base_ = './_base_/full.py'
config = 'mask_rcnn_edge/mask-rcnn_r18_fpn_1xb4-300i_shapes.py'
_seeds = [0, 1, 2]
runs = [
    # With 300 steps 0.01 and 0.04 were worse than 0.02 (docs/evidence.md).
    dict(settings=['baseline'], budgets=[200], learning_rates=[0.02, 0.03], seeds=[0]),
    dict(settings=['baseline', 'sobel-p1.5-w3'], budgets=[200], learning_rates='tuned', seeds=_seeds),
    dict(settings=['sobel-p1.5-w3'], budgets=[100], learning_rates=[0.02], seeds=_seeds),
]
