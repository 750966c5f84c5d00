_base_ = './mask-rcnn_r101_fpn_staged-160k_coco.py'
model = dict(roi_head=dict(mask_head=dict(type='EdgeAgreementMaskHead')))
