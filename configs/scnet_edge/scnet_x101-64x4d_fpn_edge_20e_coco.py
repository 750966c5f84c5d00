_base_ = 'mmdet::scnet/scnet_x101-64x4d_fpn_20e_coco.py'
custom_imports = dict(imports=['mmdet_edge'], allow_failed_imports=False)
model = dict(roi_head=dict(mask_head=dict(type='EdgeAgreementSCNetMaskHead')))
