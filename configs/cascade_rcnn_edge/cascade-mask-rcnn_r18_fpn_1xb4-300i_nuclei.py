_base_ = [
    '../_base_/models/cascade-mask-rcnn_r18_fpn_64c.py',
    '../_base_/datasets/nuclei_instance.py',
    '../_base_/schedules/schedule_300i.py',
]
custom_imports = dict(imports=['mmdet_edge'], allow_failed_imports=False)
model = dict(
    roi_head=dict(
        bbox_head=[dict(head, num_classes=1) for head in _base_.model.roi_head.bbox_head],
        mask_head=dict(num_classes=1),
    )
)
custom_hooks = [dict(type='MaskBranchEvalHook'), dict(type='EdgeVisualizationHook', interval=100)]
