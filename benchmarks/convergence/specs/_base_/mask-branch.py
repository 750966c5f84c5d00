# What is tried with the mask branch alone, the same on every data set: a child names the config.
protocol = 'mask-branch'
baseline = 'baseline'
# Learning rates are tuned by the first.
metrics = ['mask_branch/mIoU', 'mask_branch/boundary_IoU_1px', 'mask_branch/IoU_85', 'mask_branch/BCE']
features = dict(num_train=16000, num_val=2000, jitter=0.1, batch_size=64)


def _edge(**loss):
    return dict(cfg_options={'model.roi_head.mask_head': dict(type='EdgeAgreementMaskHead', loss_edge=loss)})


def _tried(hook=None, **loss):
    options = {
        'custom_imports.imports': ['mmdet_edge', 'benchmarks.convergence.tried_edge_losses'],
        'model.roi_head.mask_head': dict(type='EdgeAgreementMaskHead', loss_edge=loss),
    }
    if hook:
        options['custom_hooks'] = [dict(type='EdgeLossScheduleHook', **hook)]
    return dict(cfg_options=options)


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
            'custom_imports.imports': ['mmdet_edge', 'benchmarks.convergence.peer_mask_losses'],
            'model.roi_head.mask_head': head,
        }
    )


settings = dict(baseline=dict())
# Controls: any well-weighted loss on probabilities trains faster, and so may a larger weight of the cross entropy.
for _w in (2, 4, 10):
    settings[f'bce-w{_w}'] = dict(cfg_options={'model.roi_head.mask_head.loss_mask.loss_weight': _w})
for _w in (3, 10, 30):
    settings[f'squared-w{_w}'] = _mask(dict(type='MSELoss', loss_weight=_w))
for _w in (1, 3, 10, 30):
    settings[f'dice-w{_w}'] = _mask(dict(type='DiceLoss', activate=False, loss_weight=_w))
# Losses of others for the boundary or the IoU, added to the cross entropy, each at three weights.
for _name, _type, _weights in (
    ('signed-distance', 'SignedDistanceLoss', (1, 3, 10)),
    ('contour-distance', 'ContourDistanceLoss', (0.3, 1, 3)),
    ('laplacian-boundary', 'LaplacianBoundaryLoss', (0.1, 0.3, 1)),
    ('lovasz', 'LovaszHingeLoss', (0.3, 1, 3)),
    ('active-boundary', 'ActiveBoundaryLoss', (0.3, 1, 3)),
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
# The paper's ablation: filters, exponents, smoothing and the weighted cross entropy, weights over two decades.
for _p, _weights in {
    1: (0.1, 0.3, 1, 3, 10),
    1.5: (0.3, 1, 3, 10, 30),
    1.75: (3,),
    2: (0.3, 1, 3, 10, 30),
    3: (0.1, 1, 10),
    4: (0.03, 0.3, 3),
    5: (0.01, 0.1, 1),
}.items():
    for _w in _weights:
        settings[f'sobel-p{_p}-w{_w}'] = _edge(exponent=_p, loss_weight=_w)
for _filters, _weights in dict(
    prewitt=(0.6, 6, 60), kayyali=(0.01, 0.1, 1), roberts=(1, 10, 100), laplacian=(0.03, 0.3, 3)
).items():
    for _w in _weights:
        settings[f'{_filters}-p2-w{_w}'] = _edge(filters=_filters, loss_weight=_w)
for _w in (0.1, 1, 10):
    settings[f'sobel-laplacian-p2-w{_w}'] = _edge(filters=['sobel', 'laplacian'], loss_weight=_w)
    settings[f'weighted-ce-w{_w}'] = _edge(type='EdgeWeightedCrossEntropyLoss', loss_weight=_w)
for _w in (0.3, 3, 30):
    settings[f'sobel-p2-w{_w}-smooth-target'] = _edge(exponent=2, loss_weight=_w, smooth_target=True)
    settings[f'sobel-p2-w{_w}-smooth-both'] = _edge(exponent=2, loss_weight=_w, smooth_target=True, smooth_pred=True)
settings['sobel-p1-w1-smooth-both'] = _edge(exponent=1, loss_weight=1, smooth_target=True, smooth_pred=True)
# What the paper did not try.
settings['sobel-p1-w1+p2-w3'] = _edge(
    type='SumMaskLoss',
    losses=[dict(type='EdgeLoss', exponent=1, loss_weight=1), dict(type='EdgeLoss', exponent=2, loss_weight=3)],
)
for _a, _p, _b in (
    (2, 1, 1),
    (2, 1, 2),
    (3, 1, 3),
    (3, 1.5, 3),
    (1, 2, 1),
    (2, 2, 3),
    (3, 2, 3),
    (10, 1.5, 3),
    (10, 2, 3),
):
    settings[f'dice-w{_a}+sobel-p{_p}-w{_b}'] = _mask(
        dict(type='DiceLoss', activate=False, loss_weight=_a), exponent=_p, loss_weight=_b
    )
settings['squared-w10+sobel-p1-w1'] = _mask(dict(type='MSELoss', loss_weight=10), exponent=1, loss_weight=1)
# Scharr answers four times as strongly as Sobel to a straight edge.
for _p, _w in ((1, 0.25), (1.5, 0.375), (2, 0.1875)):
    settings[f'scharr-p{_p}-w{_w}'] = _tried(type='TriedEdgeLoss', kernels='scharr', exponent=_p, loss_weight=_w)
# Kernels divided by their largest response, with the weight at which Sobel equals sobel-p1.5-w3.
for _filters in ('prewitt', 'kayyali', 'roberts', 'laplacian'):
    settings[f'normalized-{_filters}-p1.5-w24'] = _tried(
        type='TriedEdgeLoss', kernels=_filters, normalized=True, exponent=1.5, loss_weight=24
    )
for _name, _scales, _options in (
    ('two-scales', (1, 2), ((1, 1), (1.5, 3), (2, 1), (2, 3), (2, 10))),
    ('three-scales', (1, 2, 4), ((1, 1), (1.5, 1), (2, 1), (2, 3))),
    ('four-scales', (1, 2, 4, 8), ((1, 1), (2, 1), (2, 3))),
    ('twofold', (2,), ((2, 3),)),
):
    for _p, _w in _options:
        settings[f'sobel-{_name}-p{_p}-w{_w}'] = _tried(
            type='TriedEdgeLoss', dilations=_scales, exponent=_p, loss_weight=_w
        )
for _p, _w in ((1, 2), (2, 6)):
    settings[f'sobel-identity-p{_p}-w{_w}'] = _tried(
        type='TriedEdgeLoss', kernels=['sobel', 'identity'], exponent=_p, loss_weight=_w
    )
for _p, _a, _b in ((1, 3, 0.3), (1, 0, 3), (1.5, 6, 0), (1.5, 0, 6), (2, 10, 1), (2, 0, 3), (2, 0, 6)):
    settings[f'sobel-p{_p}-w{_a}-to-w{_b}'] = _tried(
        dict(option='loss_weight', start=_a, end=_b), type='EdgeLoss', exponent=_p, loss_weight=_a
    )
for _a, _b in ((1, 2), (2, 1)):
    settings[f'sobel-p{_a}-to-p{_b}-w3'] = _tried(
        dict(option='exponent', start=_a, end=_b), type='EdgeLoss', exponent=_a, loss_weight=3
    )

_rates = [0.02, 0.05, 0.1, 0.2]
_seeds = [0, 1, 2]
_five = [0, 1, 2, 3, 4]
_best = ['sobel-p1.5-w3', 'sobel-p2-w3', 'sobel-two-scales-p1.5-w3']
_untried = [
    *('sobel-p1-w1+p2-w3', 'dice-w2+sobel-p1-w2', 'dice-w3+sobel-p1.5-w3', 'squared-w10+sobel-p1-w1'),
    *('scharr-p1.5-w0.375', 'sobel-two-scales-p2-w3', 'sobel-three-scales-p1.5-w1', 'sobel-p1-to-p2-w3'),
    *('sobel-p2-to-p1-w3', 'sobel-p1.5-w6-to-w0', 'sobel-p1.5-w0-to-w6', 'normalized-prewitt-p1.5-w24'),
    *('normalized-kayyali-p1.5-w24', 'normalized-roberts-p1.5-w24', 'normalized-laplacian-p1.5-w24'),
]
_controls = [
    'bce-w2',
    'bce-w4',
    'bce-w10',
    'squared-w3',
    'squared-w10',
    'squared-w30',
    'dice-w1',
    'dice-w3',
    'dice-w10',
]
_survey = [
    *('sobel-p1-w0.1', 'sobel-p1-w1', 'sobel-p1-w10', 'sobel-p1.5-w0.3', 'sobel-p1.5-w30', 'sobel-p2-w0.3'),
    *('sobel-p2-w1', 'sobel-p2-w30', 'sobel-p3-w0.1', 'sobel-p3-w1', 'sobel-p3-w10', 'sobel-p4-w0.03'),
    *('sobel-p4-w0.3', 'sobel-p4-w3', 'sobel-p5-w0.01', 'sobel-p5-w0.1', 'sobel-p5-w1', 'prewitt-p2-w0.6'),
    *('prewitt-p2-w6', 'prewitt-p2-w60', 'kayyali-p2-w0.01', 'kayyali-p2-w0.1', 'kayyali-p2-w1', 'roberts-p2-w1'),
    *('roberts-p2-w10', 'roberts-p2-w100', 'laplacian-p2-w0.03', 'laplacian-p2-w0.3', 'laplacian-p2-w3'),
    *('sobel-laplacian-p2-w0.1', 'sobel-laplacian-p2-w1', 'sobel-laplacian-p2-w10', 'sobel-p2-w0.3-smooth-target'),
    *('sobel-p2-w3-smooth-target', 'sobel-p2-w30-smooth-target', 'sobel-p2-w0.3-smooth-both'),
    *('sobel-p2-w3-smooth-both', 'sobel-p2-w30-smooth-both', 'weighted-ce-w0.1', 'weighted-ce-w1', 'weighted-ce-w10'),
]
runs = [
    dict(settings=['baseline'], budgets=[120, 60], learning_rates=_rates, seeds=[0]),
    dict(settings=['baseline'], budgets=[120], learning_rates=_rates[1:], seeds=_five),
    # An extra loss makes the gradient larger: the highest rate is too high for it.
    dict(settings=[*_best, 'squared-w10', 'dice-w3'], budgets=[120], learning_rates=_rates[1:3], seeds=_five),
    dict(settings=['sobel-p2-w1', 'bce-w4'], budgets=[120], learning_rates=_rates[1:3], seeds=_seeds),
    # The best weights of the controls in the ablation below; a larger weight may need a smaller rate.
    dict(settings=['bce-w10', 'dice-w10'], budgets=[120], learning_rates=_rates[:3], seeds=_five),
    dict(settings=['baseline'], budgets=[60], learning_rates='tuned', seeds=_five),
    dict(settings=_best, budgets=[60], learning_rates=_rates[1:3], seeds=_five),
    dict(settings=[*_untried, *_controls, *_survey], budgets=[60], learning_rates=[0.05], seeds=_seeds),
    dict(settings=['baseline', *_best[:2]], budgets=[240], learning_rates=_rates[1:3], seeds=_five),
    dict(settings=['dice-w10'], budgets=[60, 240], learning_rates=_rates[:3], seeds=_five),
    # Both at once.
    dict(settings=['dice-w10+sobel-p1.5-w3'], budgets=[120, 240], learning_rates=_rates[:2], seeds=_five),
]
