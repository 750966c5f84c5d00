_base_ = './_base_/full_condinst.py'
config = 'mask_rcnn_edge/mask-rcnn_r18_fpn_1xb4-300i_shapes.py'
runs = [
    dict(settings=['baseline'], budgets=[200], learning_rates=[0.004, 0.002], seeds=[0]),
    dict(settings=list(_base_.settings), budgets=[200], learning_rates='tuned', seeds=[0]),
    dict(
        settings=['baseline', 'edge-edges-w0.5', 'edge-edges-w1', 'dice-w2'],
        budgets=[200],
        learning_rates='tuned',
        seeds=[0, 1, 2],
    ),
    dict(settings=['baseline', 'edge-edges-w0.5'], budgets=[200], learning_rates='tuned', seeds=[3, 4]),
]
