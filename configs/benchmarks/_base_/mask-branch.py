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
        'custom_imports.imports': ['mmdet_edge', 'tried_edge_losses'],
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


settings = dict(baseline=dict())
# Controls: any well-weighted loss on probabilities trains faster, and so may a larger weight of the cross entropy.
for _w in (2, 4, 8):
    settings[f'bce-w{_w}'] = dict(cfg_options={'model.roi_head.mask_head.loss_mask.loss_weight': _w})
for _w in (3, 10, 30):
    settings[f'squared-w{_w}'] = _mask(dict(type='MSELoss', loss_weight=_w))
for _w in (1, 3, 10):
    settings[f'dice-w{_w}'] = _mask(dict(type='DiceLoss', activate=False, loss_weight=_w))
# The survey of the paper: filters and exponents, each with weights over two decades.
for _p, _weights in {
    1: (0.1, 0.3, 1, 3, 10),
    1.5: (0.3, 1, 3),
    2: (0.3, 1, 3, 10, 30),
    3: (0.3, 1, 3),
    4: (0.1, 0.3, 1),
    5: (0.1, 0.3, 1),
}.items():
    for _w in _weights:
        settings[f'sobel-p{_p}-w{_w}'] = _edge(exponent=_p, loss_weight=_w)
for _filters, _weights in dict(
    prewitt=(1.8, 6, 18),
    kayyali=(0.03, 0.1, 0.3),
    roberts=(3, 10, 30),
    laplacian=(0.03, 0.1, 0.3, 1),
).items():
    for _w in _weights:
        settings[f'{_filters}-p2-w{_w}'] = _edge(filters=_filters, loss_weight=_w)
for _w in (0.3, 1, 3):
    settings[f'sobel-laplacian-p2-w{_w}'] = _edge(filters=['sobel', 'laplacian'], loss_weight=_w)
for _p, _w in ((1, 1), (2, 3)):
    settings[f'sobel-p{_p}-w{_w}-smooth-target'] = _edge(exponent=_p, loss_weight=_w, smooth_target=True)
    settings[f'sobel-p{_p}-w{_w}-smooth-both'] = _edge(
        exponent=_p, loss_weight=_w, smooth_target=True, smooth_pred=True
    )
for _w in (0.3, 1, 3):
    settings[f'weighted-ce-w{_w}'] = _edge(type='EdgeWeightedCrossEntropyLoss', loss_weight=_w)
# What the paper did not try.
_l1, _l2 = dict(type='EdgeLoss', exponent=1), dict(type='EdgeLoss', exponent=2)
for _a, _b in ((1, 1), (1, 3), (2, 3), (3, 3), (3, 6)):
    settings[f'sobel-p1-w{_a}+p2-w{_b}'] = _edge(
        type='SumMaskLoss', losses=[dict(_l1, loss_weight=_a), dict(_l2, loss_weight=_b)]
    )
for _a, _b in ((1, 1), (2, 1), (2, 2), (2, 3), (3, 3)):
    settings[f'dice-w{_a}+sobel-p1-w{_b}'] = _mask(
        dict(type='DiceLoss', activate=False, loss_weight=_a), exponent=1, loss_weight=_b
    )
for _a, _b in ((1, 1), (1, 3), (2, 1), (2, 3), (3, 3), (3, 6)):
    settings[f'dice-w{_a}+sobel-p2-w{_b}'] = _mask(
        dict(type='DiceLoss', activate=False, loss_weight=_a), exponent=2, loss_weight=_b
    )
for _a, _b in ((5, 1), (10, 1), (10, 2)):
    settings[f'squared-w{_a}+sobel-p1-w{_b}'] = _mask(dict(type='MSELoss', loss_weight=_a), exponent=1, loss_weight=_b)
for _p, _w in ((1, 0.25), (1, 0.75), (2, 0.1875)):
    settings[f'scharr-p{_p}-w{_w}'] = _tried(type='TriedEdgeLoss', kernels='scharr', exponent=_p, loss_weight=_w)
for _name, _scales in {
    'two-scales': (1, 2),
    'three-scales': (1, 2, 4),
    'four-scales': (1, 2, 4, 8),
    'twofold': (2,),
}.items():
    for _p, _w in ((1, 1), (1, 3), (1.5, 1), (1.5, 3), (2, 1), (2, 3), (2, 10)):
        settings[f'sobel-{_name}-p{_p}-w{_w}'] = _tried(
            type='TriedEdgeLoss', dilations=_scales, exponent=_p, loss_weight=_w
        )
for _p, _w in ((1, 2), (1, 4), (2, 6)):
    settings[f'sobel-identity-p{_p}-w{_w}'] = _tried(
        type='TriedEdgeLoss', kernels=['sobel', 'identity'], exponent=_p, loss_weight=_w
    )
for _p, _a, _b in ((1, 3, 0.3), (1, 0, 3), (2, 10, 1), (2, 0, 3), (2, 0, 6), (2, 0, 10)):
    settings[f'sobel-p{_p}-w{_a}-to-w{_b}'] = _tried(
        dict(option='loss_weight', start=_a, end=_b), type='EdgeLoss', exponent=_p, loss_weight=_a
    )
for _a, _b in ((1, 2), (2, 1)):
    for _w in (1, 3):
        settings[f'sobel-p{_a}-to-p{_b}-w{_w}'] = _tried(
            dict(option='exponent', start=_a, end=_b), type='EdgeLoss', exponent=_a, loss_weight=_w
        )

_rates = [0.02, 0.05, 0.1, 0.2]
_seeds = [0, 1, 2]
_controls = ['squared-w10', 'dice-w3']
_best = ['sobel-p1.5-w3', 'sobel-p2-w1', 'sobel-p2-w3']
_survey = [
    *('sobel-p1-w1', 'sobel-p3-w1', 'sobel-p4-w0.3', 'sobel-p5-w0.1', 'sobel-p2-w0.3', 'sobel-p2-w30', 'prewitt-p2-w6'),
    *('kayyali-p2-w0.1', 'roberts-p2-w10', 'laplacian-p2-w0.3', 'sobel-laplacian-p2-w1'),
    *('sobel-p2-w3-smooth-target', 'sobel-p2-w3-smooth-both', 'weighted-ce-w1'),
]
runs = [
    dict(settings=['baseline'], budgets=[120, 60], learning_rates=_rates, seeds=[0]),
    dict(settings=['baseline'], budgets=[120], learning_rates=_rates[1:], seeds=_seeds),
    # An extra loss makes the gradient larger: the highest rate is too high for it.
    dict(settings=[*_best, *_controls], budgets=[120], learning_rates=_rates[1:3], seeds=_seeds),
    dict(settings=['baseline'], budgets=[60], learning_rates='tuned', seeds=_seeds),
    dict(settings=[_best[0], _best[2]], budgets=[60], learning_rates=_rates[1:3], seeds=_seeds),
    dict(settings=_survey, budgets=[60], learning_rates=[0.05], seeds=_seeds),
]
