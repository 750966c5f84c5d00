# mask-rcnn_r18_fpn_64c.py for photographs: MobileNetV2 with ImageNet weights, its first three stages (to stride 8)
# frozen. They are most of the backbone's work and what little data changes least.
_base_ = './mask-rcnn_r18_fpn_64c.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(1, 2, 4, 6),
        frozen_stages=3,
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://mmdet/mobilenet_v2'),
    ),
    neck=dict(in_channels=[24, 32, 96, 320]),
)
