_base_ = 'mmdet::ms_rcnn/ms-rcnn_r101-caffe_fpn_1x_coco.py'
custom_imports = dict(imports=['mmdet_edge'], allow_failed_imports=False)
model = dict(roi_head=dict(mask_head=dict(type='EdgeAgreementMaskHead')))
