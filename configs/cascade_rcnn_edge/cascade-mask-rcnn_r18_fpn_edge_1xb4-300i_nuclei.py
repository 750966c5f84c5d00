_base_ = './cascade-mask-rcnn_r18_fpn_1xb4-300i_nuclei.py'
model = dict(roi_head=dict(mask_head=dict(type='EdgeAgreementMaskHead')))
