# Everything trained from scratch, as a user would; a child names config and runs.
protocol = 'full'
baseline = 'baseline'
# Learning rates are tuned by the first.
metrics = ['coco/segm_mAP', 'coco/segm_mAP_75', 'coco/boundary_mAP', 'coco/bbox_mAP']
metrics += ['mask_branch/mIoU', 'mask_branch/boundary_IoU_1px']


def _edge(**loss):
    return dict(cfg_options={'model.roi_head.mask_head': dict(type='EdgeAgreementMaskHead', loss_edge=loss)})


settings = {
    'baseline': dict(),
    'sobel-p1.5-w3': _edge(filters='sobel', exponent=1.5, loss_weight=3),
    'sobel-p2-w3': _edge(filters='sobel', exponent=2, loss_weight=3),
}
_rates = [0.02, 0.03, 0.04, 0.01]
_seeds = [0, 1, 2]
runs = [
    # The learning rate of the baseline is tuned with 100 steps, and taken over by the others.
    dict(settings=['baseline'], budgets=[100], learning_rates=_rates, seeds=[0]),
    dict(settings=['baseline', 'sobel-p1.5-w3'], budgets=[100], learning_rates='tuned', seeds=_seeds),
    dict(settings=['baseline'], budgets=[200], learning_rates=_rates[:2], seeds=[0]),
    dict(settings=['baseline', 'sobel-p1.5-w3'], budgets=[200], learning_rates='tuned', seeds=_seeds),
    dict(settings=['sobel-p2-w3'], budgets=[100], learning_rates='tuned', seeds=_seeds),
]
