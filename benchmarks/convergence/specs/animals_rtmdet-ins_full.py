# A MobileNetV2 with weights from ImageNet, its first stages frozen; images of half their size:
# their short side is 320, and with a factor that is not the same for both sides RTMDetInsHead's masks miss a column.
_base_ = './_base_/full_rtmdet-ins.py'
config = 'mask_rcnn_edge/mask-rcnn_mobilenet-v2_fpn_1xb4-300i_animals.py'
_options = {
    'train_dataloader.dataset.pipeline.2.scale': (1000, 160),
    'val_dataloader.dataset.pipeline.1.scale': (1000, 160),
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
settings = {name: dict(cfg_options=_options) for name in _base_.settings}
runs = [
    dict(settings=['baseline', 'edge-edges-w1'], budgets=[200], learning_rates=[0.002], seeds=[0, 1, 2]),
]
