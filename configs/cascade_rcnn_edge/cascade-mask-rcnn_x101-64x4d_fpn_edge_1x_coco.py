_base_ = 'mmdet::cascade_rcnn/cascade-mask-rcnn_x101-64x4d_fpn_1x_coco.py'
custom_imports = dict(imports=['mmdet_edge'], allow_failed_imports=False)
model = dict(roi_head=dict(mask_head=dict(type='EdgeAgreementMaskHead')))
