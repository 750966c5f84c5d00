_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmdet_edge'], allow_failed_imports=False)
model = dict(
    roi_head=dict(
        mask_head=dict(
            type='EdgeAgreementMaskHead',
            feature_grad_scale=1.0,
            loss_edge=dict(type='EdgeLoss', exponent=3.0),
        )
    )
)
