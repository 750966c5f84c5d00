_base_ = './mask-rcnn_mobilenet-v2_fpn_1xb4-300i_animals.py'
model = dict(roi_head=dict(mask_head=dict(type='EdgeAgreementMaskHead')))
