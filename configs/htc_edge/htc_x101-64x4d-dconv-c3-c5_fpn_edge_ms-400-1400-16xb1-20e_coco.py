_base_ = 'mmdet::htc/htc_x101-64x4d-dconv-c3-c5_fpn_ms-400-1400-16xb1-20e_coco.py'
custom_imports = dict(imports=['mmdet_edge'], allow_failed_imports=False)
model = dict(
    roi_head=dict(
        mask_head=[dict(head, type='EdgeAgreementHTCMaskHead') for head in _base_.model.roi_head.mask_head],
    )
)
