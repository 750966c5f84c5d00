# Photographs, everything but the frozen stages trained, as a user would; eight seeds, two lengths.
_base_ = './full.py'
settings = {
    'dice-w10': dict(
        cfg_options={
            'model.roi_head.mask_head.loss_mask': dict(
                _delete_=True,
                type='SumMaskLoss',
                losses=[
                    dict(type='CrossEntropyLoss', use_mask=True),
                    dict(type='DiceLoss', activate=False, loss_weight=10),
                ],
            )
        }
    )
}
_seeds = [0, 1, 2, 3, 4, 5, 6, 7]
_rates = [0.02, 0.04, 0.01, 0.005]
runs = [
    dict(settings=['baseline'], budgets=[300, 1200], learning_rates=_rates, seeds=[0]),
    # What the gradient does to the layers that box and mask head share.
    dict(
        settings=['baseline', 'sobel-p2-w3-s0.25', 'sobel-p2-w3', 'sobel-p2-w1', 'baseline-s0.25'],
        budgets=[600],
        learning_rates=[0.02],
        seeds=[0, 1],
    ),
    dict(
        settings=['baseline', 'sobel-p2-w3-s0.25', 'dice-w10'],
        budgets=[300, 1200],
        learning_rates='tuned',
        seeds=_seeds,
    ),
]
