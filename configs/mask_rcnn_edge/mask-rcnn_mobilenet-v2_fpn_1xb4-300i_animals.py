_base_ = [
    '../_base_/models/mask-rcnn_mobilenet-v2_fpn_64c.py',
    '../_base_/datasets/photographs_instance.py',
    '../_base_/schedules/schedule_300i.py',
]
custom_imports = dict(imports=['mmdet_edge'], allow_failed_imports=False)
data_root = 'data/animals/'
metainfo = dict(
    classes=(
        'bear',
        'deer',
        'elephant',
        'otter',
        'rhesus monkey',
        'tiger',
        'turtle',
    )
)
train_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
val_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
test_dataloader = val_dataloader
# Animals fill half of the image: the usual band, 2 % of its diagonal, covers only a part of them.
val_evaluator = dict(ann_file=data_root + 'val.json', boundary_dilation_ratio=0.02)
test_evaluator = val_evaluator
model = dict(roi_head=dict(bbox_head=dict(num_classes=7), mask_head=dict(num_classes=7)))
custom_hooks = [dict(type='MaskBranchEvalHook'), dict(type='EdgeVisualizationHook', interval=100)]
