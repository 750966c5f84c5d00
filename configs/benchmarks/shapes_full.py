_base_ = './_base_/full.py'
config = 'mask_rcnn_edge/mask-rcnn_r18_fpn_1xb4-300i_shapes.py'
_both = ['baseline', 'sobel-p2-w3']
runs = [
    dict(settings=['baseline'], budgets=[100], learning_rates=[0.02, 0.03, 0.04, 0.01], seeds=[0]),
    dict(settings=_both, budgets=[100], learning_rates='tuned', seeds=[0, 1, 2]),
    dict(settings=['baseline'], budgets=[200], learning_rates=[0.02, 0.03], seeds=[0]),
    dict(settings=_both, budgets=[200], learning_rates='tuned', seeds=[0, 1, 2]),
]
