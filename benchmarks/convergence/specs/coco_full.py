# Mask R-CNN R50-FPN on COCO, 1x: for 8 GPUs, and not run by us. python -m benchmarks.convergence SPEC
protocol = 'full'
gpus = 8
config = 'mask_rcnn_edge/mask-rcnn_r50_fpn_edge_1x_coco.py'
baseline = 'baseline'
metrics = ['coco/segm_mAP', 'coco/segm_mAP_75', 'coco/boundary_mAP', 'coco/bbox_mAP']
_boundary = {
    'val_evaluator.type': 'CocoBoundaryMetric',
    'val_evaluator.metric': ['bbox', 'segm', 'boundary'],
}
settings = {
    # Without loss_edge the head is FCNMaskHead, bit for bit.
    'baseline': dict(cfg_options={**_boundary, 'model.roi_head.mask_head.loss_edge': None}),
    'edge': dict(cfg_options=_boundary),
    'edge-paper': dict(config='mask_rcnn_edge/mask-rcnn_r50_fpn_edge-paper_1x_coco.py', cfg_options=_boundary),
}
runs = [
    dict(settings=['baseline'], learning_rates=[0.01, 0.02, 0.03, 0.04], seeds=[0]),
    dict(settings=['baseline', 'edge', 'edge-paper'], learning_rates='tuned', seeds=[0, 1, 2]),
]
