# Everything trained from scratch, as a user would; a child names config and runs.
protocol = 'full'
baseline = 'baseline'
# Learning rates are tuned by the first.
metrics = ['coco/segm_mAP', 'coco/segm_mAP_75', 'coco/boundary_mAP', 'coco/bbox_mAP']
metrics += ['mask_branch/mIoU', 'mask_branch/boundary_IoU_1px']


def _edge(feature_grad_scale=1.0, edge_scale=None, **loss):
    head = dict(type='EdgeAgreementMaskHead', feature_grad_scale=feature_grad_scale, loss_edge=loss)
    if edge_scale is not None:
        head['edge_feature_grad_scale'] = edge_scale
    return dict(cfg_options={'model.roi_head.mask_head': head})


settings = {
    'baseline': dict(),
    'sobel-p1.5-w3': _edge(filters='sobel', exponent=1.5, loss_weight=3),
    'sobel-p2-w3': _edge(filters='sobel', exponent=2, loss_weight=3),
    'sobel-p2-w1': _edge(filters='sobel', exponent=2, loss_weight=1),
    # The default: a quarter of the gradient reaches the layers that the mask head shares with the box head.
    'sobel-p2-w3-s0.25': _edge(filters='sobel', exponent=2, loss_weight=3, feature_grad_scale=0.25),
    'sobel-p2-w3-s0.1': _edge(filters='sobel', exponent=2, loss_weight=3, feature_grad_scale=0.1),
    'sobel-p2-w3-s0': _edge(filters='sobel', exponent=2, loss_weight=3, feature_grad_scale=0),
    # The edge loss trains nothing but the mask head.
    'sobel-p2-w3-s0.25-e0': _edge(0.25, 0, filters='sobel', exponent=2, loss_weight=3),
    # The control: the same without an edge loss.
    'baseline-s0.25': dict(
        cfg_options={
            'model.roi_head.mask_head': dict(
                type='EdgeAgreementMaskHead',
                predictor_cfg=dict(type='Conv'),
                feature_grad_scale=0.25,
                loss_edge=dict(loss_weight=0),
            )
        }
    ),
}
_rates = [0.02, 0.03, 0.04, 0.01]
_seeds = [0, 1, 2]
runs = [
    # The learning rate of the baseline is tuned at each budget; the others use it too.
    dict(settings=['baseline'], budgets=[100], learning_rates=_rates, seeds=[0]),
    dict(settings=['baseline', 'sobel-p1.5-w3'], budgets=[100], learning_rates='tuned', seeds=_seeds),
    dict(settings=['baseline'], budgets=[200], learning_rates=_rates[:2], seeds=[0]),
    dict(settings=['baseline', 'sobel-p1.5-w3'], budgets=[200], learning_rates='tuned', seeds=_seeds),
    dict(settings=['sobel-p2-w3'], budgets=[100], learning_rates='tuned', seeds=_seeds),
    dict(settings=['sobel-p2-w3-s0.25', 'sobel-p2-w3-s0.25-e0'], budgets=[200], learning_rates='tuned', seeds=_seeds),
]
