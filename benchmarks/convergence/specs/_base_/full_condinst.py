# CondInst with the small backbone and neck of full_rtmdet-ins.py: the same question for another model whose masks are
# predicted for the whole image and trained with Dice. A child names config and runs.
_base_ = './full_rtmdet-ins.py'
_dice = dict(type='DiceLoss', use_sigmoid=True, activate=True, eps=5e-6, loss_weight=1.0)
_optimizer = dict(_delete_=True, type='AdamW', lr=0.002, weight_decay=0.05)
_small = _base_._model


def _train(loss_mask=_dice):
    model = dict(
        _delete_=True,
        type='CondInst',
        data_preprocessor=_small['data_preprocessor'],
        backbone=_small['backbone'],
        neck=_small['neck'],
        bbox_head=dict(
            type='CondInstBboxHead',
            num_params=169,
            num_classes=6,
            in_channels=64,
            stacked_convs=2,
            feat_channels=64,
            strides=[8, 16, 32],
            regress_ranges=((-1, 64), (64, 128), (128, 1e8)),
            norm_on_bbox=True,
            centerness_on_reg=True,
            center_sampling=True,
            conv_bias=True,
            loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
            loss_bbox=dict(type='GIoULoss', loss_weight=1.0),
            loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
        ),
        mask_head=dict(
            type='CondInstMaskHead',
            num_layers=3,
            feat_channels=8,
            size_of_interest=8,
            mask_out_stride=4,
            max_masks_to_train=300,
            mask_feature_head=dict(
                in_channels=64,
                feat_channels=64,
                start_level=0,
                end_level=2,
                out_channels=8,
                mask_stride=8,
                num_stacked_convs=2,
                norm_cfg=dict(type='BN'),
            ),
            loss_mask=loss_mask,
        ),
        test_cfg=dict(
            nms_pre=1000,
            min_bbox_size=0,
            score_thr=0.05,
            nms=dict(type='nms', iou_threshold=0.6),
            max_per_img=100,
            mask_thr=0.5,
        ),
    )
    # What the configs of Mask R-CNN have needs RoIs.
    return dict(cfg_options={'model': model, 'optim_wrapper.optimizer': _optimizer, 'custom_hooks': []})


def _edge(**loss):
    return _train(dict(type='SumMaskLoss', losses=[_dice, dict(type='EdgeLoss', **loss)]))


settings = {
    # Merged with those of the base, the settings would lose their own _delete_.
    '_delete_': True,
    'baseline': _train(),
    # The control: more of the loss that is there.
    'dice-w2': _train(dict(_dice, loss_weight=2.0)),
    'edge-edges-w0.5': _edge(normalize_by='edges', loss_weight=0.5),
    'edge-edges-w1': _edge(normalize_by='edges', loss_weight=1),
    'edge-edges-w2': _edge(normalize_by='edges', loss_weight=2),
    'edge-map-w2.5': _edge(loss_weight=2.5),
}
