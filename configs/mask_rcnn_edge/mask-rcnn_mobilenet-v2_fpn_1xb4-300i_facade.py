_base_ = [
    '../_base_/models/mask-rcnn_mobilenet-v2_fpn_64c.py',
    '../_base_/datasets/photographs_instance.py',
    '../_base_/schedules/schedule_300i.py',
]
custom_imports = dict(imports=['mmdet_edge'], allow_failed_imports=False)
data_root = 'data/facade/'
metainfo = dict(
    classes=(
        'balcony-fence',
        'car',
        'facade',
        'fence',
        'non-building-infrastructure',
        'shop',
        'street',
        'traffic-infrastructure',
        'vegetation',
        'window',
    )
)
train_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
val_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
test_dataloader = val_dataloader
# Most windows are 30 pixels wide: at the usual 0.02 (11 pixels) they would be nothing but boundary; this is 3 pixels.
val_evaluator = dict(ann_file=data_root + 'val.json', boundary_dilation_ratio=0.005)
test_evaluator = val_evaluator
model = dict(roi_head=dict(bbox_head=dict(num_classes=10), mask_head=dict(num_classes=10)))
custom_hooks = [dict(type='MaskBranchEvalHook'), dict(type='EdgeVisualizationHook', interval=100)]
