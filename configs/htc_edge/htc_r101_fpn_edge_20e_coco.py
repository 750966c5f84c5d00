_base_ = 'mmdet::htc/htc_r101_fpn_20e_coco.py'
custom_imports = dict(imports=['mmdet_edge'], allow_failed_imports=False)
model = dict(
    roi_head=dict(
        mask_head=[dict(head, type='EdgeAgreementHTCMaskHead') for head in _base_.model.roi_head.mask_head],
    )
)
