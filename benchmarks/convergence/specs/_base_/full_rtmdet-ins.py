# RTMDet-Ins, with two thirds of the channels of its tiny variant, in the place of a Mask R-CNN, everything trained: does
# the edge loss help where masks are predicted for the whole image and trained with Dice? A child names config and runs.
protocol = 'full'
baseline = 'baseline'
metrics = ['coco/segm_mAP', 'coco/segm_mAP_75', 'coco/boundary_mAP', 'coco/bbox_mAP']


_act_cfg = dict(type='SiLU', inplace=True)
_dice = dict(type='DiceLoss', loss_weight=2.0, eps=5e-6)
_model = dict(
    _delete_=True,
    type='RTMDet',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_mask=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type='CSPNeXt',
        arch='P5',
        expand_ratio=0.5,
        deepen_factor=0.167,
        widen_factor=0.25,
        channel_attention=True,
        norm_cfg=dict(type='BN'),
        act_cfg=_act_cfg,
    ),
    neck=dict(
        type='CSPNeXtPAFPN',
        in_channels=[64, 128, 256],
        out_channels=64,
        num_csp_blocks=1,
        expand_ratio=0.5,
        norm_cfg=dict(type='BN'),
        act_cfg=_act_cfg,
    ),
    bbox_head=dict(
        type='RTMDetInsSepBNHead',
        num_classes=6,
        in_channels=64,
        stacked_convs=2,
        share_conv=True,
        pred_kernel_size=1,
        feat_channels=64,
        act_cfg=_act_cfg,
        norm_cfg=dict(type='BN'),
        anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        loss_mask=_dice,
    ),
    train_cfg=dict(
        assigner=dict(type='DynamicSoftLabelAssigner', topk=13), allowed_border=-1, pos_weight=-1, debug=False
    ),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.6),
        max_per_img=100,
        mask_thr_binary=0.5,
    ),
)


def _train(loss_mask=_dice):
    return dict(
        cfg_options={
            'model': dict(_model, bbox_head=dict(_model['bbox_head'], loss_mask=loss_mask)),
            'optim_wrapper.optimizer': dict(_delete_=True, type='AdamW', lr=0.002, weight_decay=0.05),
            # What the configs of Mask R-CNN have needs RoIs.
            'custom_hooks': [],
        }
    )


def _edge(**loss):
    return _train(dict(type='SumMaskLoss', losses=[_dice, dict(type='EdgeLoss', **loss)]))


settings = {
    'baseline': _train(),
    'edge-edges-w0.25': _edge(normalize_by='edges', loss_weight=0.25),
    'edge-edges-w0.5': _edge(normalize_by='edges', loss_weight=0.5),
    'edge-edges-w1': _edge(normalize_by='edges', loss_weight=1),
    'edge-edges-w2': _edge(normalize_by='edges', loss_weight=2),
    'edge-map-w2.5': _edge(loss_weight=2.5),
}
