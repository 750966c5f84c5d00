_base_ = './_base_/full.py'
config = 'mask_rcnn_edge/mask-rcnn_r18_fpn_1xb4-300i_nuclei.py'
