_base_ = 'mmdet::cascade_rcnn/cascade-mask-rcnn_x101-32x8d_fpn_ms-3x_coco.py'
custom_imports = dict(imports=['mmdet_edge'], allow_failed_imports=False)
model = dict(roi_head=dict(mask_head=dict(type='EdgeAgreementMaskHead')))
