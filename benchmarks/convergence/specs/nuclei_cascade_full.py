# Which stages of a cascade: the edge loss in all three, or only in the last. The learning rate is that of the baseline of
# nuclei_full.py, tuned there.
_base_ = './_base_/full.py'
config = 'cascade_rcnn_edge/cascade-mask-rcnn_r18_fpn_1xb4-300i_nuclei.py'


def _edge(config, head):
    loss_edge = dict(type='EdgeLoss', exponent=1.5, loss_weight=3.0)
    return dict(config=config, cfg_options={f'{head}.loss_edge': loss_edge, f'{head}.feature_grad_scale': 1.0})


settings = dict(
    _delete_=True,
    baseline=dict(),
    **{
        'edge': _edge(
            'cascade_rcnn_edge/cascade-mask-rcnn_r18_fpn_edge_1xb4-300i_nuclei.py', 'model.roi_head.mask_head'
        ),
        'edge-last': _edge(
            'cascade_rcnn_edge/cascade-mask-rcnn_r18_fpn_edge-last_1xb4-300i_nuclei.py', 'model.roi_head.mask_head.2'
        ),
    },
)
runs = [
    dict(settings=['baseline', 'edge', 'edge-last'], budgets=[100], learning_rates=[0.03], seeds=[0, 1, 2, 3, 4, 5])
]
