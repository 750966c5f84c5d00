# Everything trained from scratch, as a user would; a child names config and runs.
protocol = 'full'
baseline = 'baseline'
# Learning rates are tuned by the first.
metrics = ['coco/segm_mAP', 'coco/segm_mAP_75', 'coco/boundary_mAP', 'coco/bbox_mAP']
metrics += ['mask_branch/mIoU', 'mask_branch/boundary_IoU_1px']


def _edge(**loss):
    return dict(cfg_options={'model.roi_head.mask_head': dict(type='EdgeAgreementMaskHead', loss_edge=loss)})


settings = {
    'baseline': dict(),
    'sobel-p2-w1': _edge(filters='sobel', exponent=2, loss_weight=1),
    'sobel-p2-w3': _edge(filters='sobel', exponent=2, loss_weight=3),
}
