# Everything that is not said here is as in the config of mmdet-edge.
_base_ = __import__('mmdet_edge').get_config_path('mask_rcnn_edge/mask-rcnn_r50_fpn_edge_1x_coco.py')
data_root = 'data/nuclei/'
own = dict(data_root=data_root, metainfo=dict(classes=('nucleus',)))
model = dict(roi_head=dict(bbox_head=dict(num_classes=1), mask_head=dict(num_classes=1)))
train_dataloader = dict(dataset=dict(ann_file='train.json', data_prefix=dict(img='train/'), **own))
val_dataloader = dict(dataset=dict(ann_file='val.json', data_prefix=dict(img='val/'), **own))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'val.json')
test_evaluator = val_evaluator
