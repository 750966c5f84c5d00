_base_ = './_base_/mask-branch.py'
config = 'mask_rcnn_edge/mask-rcnn_r18_fpn_1xb4-300i_nuclei.py'
_seeds = [0, 1, 2]
_main = [
    'dice-w3',
    'sobel-p2-w0-to-w3', 'sobel-p2-w0-to-w6', 'sobel-p1-w0-to-w3', 'sobel-identity-p2-w6', 'dice-w1+sobel-p2-w1', 'dice-w2+sobel-p2-w3', 'dice-w3+sobel-p2-w3', 'dice-w3+sobel-p1-w3',
    'squared-w10+sobel-p1-w1', 'sobel-identity-p1-w2', 'sobel-two-scales-p2-w3',
]
runs = [
    dict(settings=['baseline'], budgets=[120], learning_rates=[0.02, 0.05, 0.1, 0.2], seeds=[0]),
    dict(settings=_main, budgets=[120], learning_rates='tuned', seeds=[0]),
]
