# A MobileNetV2 with weights from ImageNet, its first stages frozen; images of two thirds of their size.
_base_ = './_base_/full_condinst.py'
config = 'mask_rcnn_edge/mask-rcnn_mobilenet-v2_fpn_1xb4-300i_animals.py'
_options = {
    'train_dataloader.dataset.pipeline.2.scale': (1000, 224),
    'val_dataloader.dataset.pipeline.1.scale': (1000, 224),
    'model': dict(
        backbone=dict(
            _delete_=True,
            type='MobileNetV2',
            out_indices=(2, 4, 6),
            frozen_stages=3,
            norm_eval=True,
            init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://mmdet/mobilenet_v2'),
        ),
        neck=dict(in_channels=[32, 96, 320]),
        bbox_head=dict(num_classes=7),
    ),
}
settings = {name: dict(cfg_options=_options) for name in _base_.settings if name != '_delete_'}
_rates = [0.002, 0.001, 0.004]
_seeds = [0, 1, 2, 3, 4]
runs = [
    dict(settings=['baseline'], budgets=[400], learning_rates=_rates, seeds=[0]),
    dict(settings=['baseline', 'edge-edges-w0.5'], budgets=[400], learning_rates='tuned', seeds=_seeds),
    dict(settings=['dice-w2', 'edge-edges-w1'], budgets=[400], learning_rates='tuned', seeds=_seeds[:3]),
]
