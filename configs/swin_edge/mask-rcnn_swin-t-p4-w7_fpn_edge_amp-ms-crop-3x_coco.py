_base_ = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_amp-ms-crop-3x_coco.py'
custom_imports = dict(imports=['mmdet_edge'], allow_failed_imports=False)
model = dict(roi_head=dict(mask_head=dict(type='EdgeAgreementMaskHead')))
