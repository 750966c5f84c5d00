_base_ = './_base_/full_photographs_adamw.py'
config = 'mask_rcnn_edge/mask-rcnn_mobilenet-v2_fpn_1xb4-300i_animals.py'
