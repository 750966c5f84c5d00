# The edge loss in the last of the three stages only.
_base_ = './cascade-mask-rcnn_r18_fpn_1xb4-300i_nuclei.py'
model = dict(
    roi_head=dict(
        mask_head=[
            _base_.model.roi_head.mask_head,
            _base_.model.roi_head.mask_head,
            dict(_base_.model.roi_head.mask_head, type='EdgeAgreementMaskHead'),
        ]
    )
)
