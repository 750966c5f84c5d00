# The mask branch on photographs, from a backbone with ImageNet weights: what trains it best, whoever proposed it.
_base_ = './mask-branch.py'
features = dict(num_train=8000)


def _mask(*losses, **edge):
    cross_entropy = dict(type='CrossEntropyLoss', use_mask=True)
    head = dict(loss_mask=dict(_delete_=True, type='SumMaskLoss', losses=[cross_entropy, *losses]))
    if edge:
        head.update(type='EdgeAgreementMaskHead', loss_edge=edge)
    return dict(cfg_options={'model.roi_head.mask_head': head})


def _peer(type, replace=False, **options):
    loss = dict(type=type, **options)
    head = dict(loss_mask=dict(_delete_=True, **loss))
    if not replace:
        head = dict(type='EdgeAgreementMaskHead', loss_edge=loss)
    return dict(
        cfg_options={
            'custom_imports.imports': ['mmdet_edge', 'tried_edge_losses', 'peer_mask_losses'],
            'model.roi_head.mask_head': head,
        }
    )


settings = {
    'dice-w30': _mask(dict(type='DiceLoss', activate=False, loss_weight=30)),
    'dice-w10+sobel-p2-w3': _mask(dict(type='DiceLoss', activate=False, loss_weight=10), exponent=2, loss_weight=3),
}
# Of others, added to the cross entropy, each at three weights or more.
for _name, _type, _weights in (
    ('signed-distance', 'SignedDistanceLoss', (1, 3, 10)),
    ('contour-distance', 'ContourDistanceLoss', (0.3, 1, 3)),
    ('laplacian-boundary', 'LaplacianBoundaryLoss', (0.1, 0.3, 1)),
    ('lovasz', 'LovaszHingeLoss', (0.3, 1, 3)),
):
    for _w in _weights:
        settings[f'{_name}-w{_w}'] = _peer(_type, loss_weight=_w)
# In the place of the cross entropy.
for _name, _type, _weights in (
    ('focal', 'FocalMaskLoss', (1, 4, 16)),
    ('border-bce', 'BorderWeightedLoss', (1, 3, 10)),
):
    for _w in _weights:
        settings[f'{_name}-w{_w}'] = _peer(_type, replace=True, loss_weight=_w)
_peers = [
    *('signed-distance-w1', 'signed-distance-w3', 'signed-distance-w10', 'contour-distance-w0.3'),
    *('contour-distance-w1', 'contour-distance-w3', 'laplacian-boundary-w0.1', 'laplacian-boundary-w0.3'),
    *('laplacian-boundary-w1', 'lovasz-w0.3', 'lovasz-w1', 'lovasz-w3', 'focal-w1', 'focal-w4', 'focal-w16'),
    *('border-bce-w1', 'border-bce-w3', 'border-bce-w10'),
]
_controls = ['dice-w3', 'dice-w10', 'dice-w30', 'squared-w3', 'squared-w10', 'squared-w30', 'bce-w4', 'bce-w10']
_edge = [
    *('sobel-p2-w1', 'sobel-p2-w3', 'sobel-p2-w10', 'sobel-p1.5-w1', 'sobel-p1.5-w3', 'sobel-p1.5-w10'),
    *('sobel-two-scales-p2-w3', 'sobel-two-scales-p1.5-w3', 'sobel-identity-p2-w6', 'dice-w10+sobel-p2-w3'),
    'sobel-p2-w0-to-w3',
]
runs = [
    dict(settings=['baseline'], budgets=[240], learning_rates=[0.1, 0.05, 0.2, 0.02], seeds=[0, 1]),
    # Weights: one seed, short.
    dict(settings=[*_edge, *_controls, *_peers], budgets=[60], learning_rates=[0.05], seeds=[0]),
]
