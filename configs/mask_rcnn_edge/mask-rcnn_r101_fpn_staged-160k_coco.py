# The set-up of the authors' code (Matterport's Mask R-CNN): in stages, gently, on square images. The learning rate does
# not depend on the number of GPUs there, and theirs is not known: it is taken for that of Matterport's default, one GPU.
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r101_fpn_1x_coco.py'
custom_imports = dict(imports=['mmdet_edge'], allow_failed_imports=False)

# Short side 800, long side at most 1024, padded to 1024x1024.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(1024, 800), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(1024, 800), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(pipeline=train_pipeline),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

model = dict(
    data_preprocessor=dict(pad_size_divisor=1024),
    # The hook says what is frozen when; batch norm keeps its statistics (norm_eval).
    backbone=dict(frozen_stages=-1),
    train_cfg=dict(rcnn=dict(sampler=dict(num=200, pos_fraction=0.33))),
    test_cfg=dict(rcnn=dict(nms=dict(iou_threshold=0.3))),
)

# Neck and heads from the start; ResNet stages 4 and 5, here layer3 and layer4, from 40k on; everything from 120k on.
custom_hooks = [
    dict(
        type='StagedUnfreezeHook',
        unfreeze_at={'backbone': 120000, 'backbone.layer3': 40000, 'backbone.layer4': 40000},
    )
]
find_unused_parameters = True

train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=160000, val_interval=10000)
param_scheduler = [dict(type='MultiStepLR', by_epoch=False, milestones=[120000], gamma=0.1)]
optim_wrapper = dict(
    optimizer=dict(lr=0.001),
    clip_grad=dict(max_norm=5.0),
)
auto_scale_lr = dict(base_batch_size=2)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=10000, max_keep_ckpts=3))
log_processor = dict(by_epoch=False)
