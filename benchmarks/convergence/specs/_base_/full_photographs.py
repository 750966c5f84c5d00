# Photographs, everything but the frozen stages trained, as a user would; eight seeds, two lengths.
_base_ = './full.py'
_dice = dict(
    _delete_=True,
    type='SumMaskLoss',
    losses=[
        dict(type='CrossEntropyLoss', use_mask=True),
        dict(type='DiceLoss', activate=False, loss_weight=10),
    ],
)
settings = {
    'dice-w10': dict(cfg_options={'model.roi_head.mask_head.loss_mask': _dice}),
    # The peer with the scale of the default.
    'dice-w10-s0.25': dict(
        cfg_options={
            'model.roi_head.mask_head': dict(
                type='EdgeAgreementMaskHead', feature_grad_scale=0.25, loss_edge=dict(loss_weight=0), loss_mask=_dice
            )
        }
    ),
}
_seeds = [0, 1, 2, 3, 4, 5, 6, 7]
_rates = [0.02, 0.04, 0.01, 0.005]
runs = [
    dict(settings=['baseline'], budgets=[300, 1200], learning_rates=_rates, seeds=[0]),
    dict(settings=['baseline'], budgets=[600], learning_rates=_rates, seeds=[0]),
    dict(settings=['sobel-p2-w3-s0.25'], budgets=[600], learning_rates=[0.02, 0.01, 0.005], seeds=[0]),
    # What the gradient does to the layers that box and mask head share.
    dict(settings=['baseline', 'sobel-p2-w3-s0.25'], budgets=[600], learning_rates=[0.02], seeds=_seeds),
    dict(
        settings=['baseline-s0.25', 'dice-w10-s0.25', 'sobel-p2-w3-s0.25-e0'],
        budgets=[600],
        learning_rates=[0.02],
        seeds=[0, 1, 2],
    ),
    dict(
        settings=['sobel-p2-w3', 'sobel-p2-w1', 'sobel-p2-w3-s0.1', 'sobel-p2-w3-s0'],
        budgets=[600],
        learning_rates=[0.02],
        seeds=[0, 1],
    ),
    dict(settings=['sobel-p2-w1', 'baseline-s0.25'], budgets=[600], learning_rates=[0.02, 0.01], seeds=[0]),
    # At the baseline's own rate.
    dict(settings=['baseline'], budgets=[600], learning_rates='tuned', seeds=_seeds),
    dict(
        settings=['baseline', 'sobel-p2-w3-s0.25', 'dice-w10'],
        budgets=[300, 1200],
        learning_rates='tuned',
        seeds=_seeds,
    ),
]
