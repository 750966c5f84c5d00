_base_ = './_base_/full.py'
config = 'mask_rcnn_edge/mask-rcnn_r18_fpn_1xb4-300i_shapes.py'
_seeds = [0, 1, 2]
runs = [
    dict(settings=['baseline'], budgets=[150, 100], learning_rates=[0.02, 0.03, 0.04, 0.01], seeds=[0]),
    dict(settings=['baseline', 'sobel-p1.5-w3'], budgets=[150, 100], learning_rates='tuned', seeds=_seeds),
    dict(settings=['sobel-p2-w3-s0.25', 'sobel-p2-w1'], budgets=[150], learning_rates='tuned', seeds=_seeds),
]
