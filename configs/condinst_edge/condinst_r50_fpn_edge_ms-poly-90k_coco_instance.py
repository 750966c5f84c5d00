_base_ = 'mmdet::condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py'
custom_imports = dict(imports=['mmdet_edge'], allow_failed_imports=False)
model = dict(
    mask_head=dict(
        loss_mask=dict(
            _delete_=True,
            type='SumMaskLoss',
            losses=[
                dict(type='DiceLoss', use_sigmoid=True, activate=True, eps=5e-6, loss_weight=1.0),
                dict(type='EdgeLoss', normalize_by='edges', loss_weight=0.5),
            ],
        )
    )
)
