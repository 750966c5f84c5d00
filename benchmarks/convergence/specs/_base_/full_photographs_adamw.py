# Photographs with AdamW, with which 300 iterations reach the mask AP of more than 600 with SGD; eight seeds.
_base_ = './full.py'
_adamw = {'optim_wrapper.optimizer': dict(_delete_=True, type='AdamW', lr=0.0005, weight_decay=0.05)}
_edge = dict(type='EdgeAgreementMaskHead', loss_edge=dict(filters='sobel', exponent=2, loss_weight=3))
settings = {
    '_delete_': True,
    'baseline': dict(cfg_options=_adamw),
    'sobel-p2-w3': dict(cfg_options={**_adamw, 'model.roi_head.mask_head': _edge}),
}
runs = [
    dict(settings=['baseline'], budgets=[300], learning_rates=[0.0005, 0.001], seeds=[0]),
    dict(settings=['baseline', 'sobel-p2-w3'], budgets=[300], learning_rates='tuned', seeds=[0, 1, 2, 3, 4, 5, 6, 7]),
]
