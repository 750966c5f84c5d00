_base_ = './_base_/mask-branch_photographs.py'
config = 'mask_rcnn_edge/mask-rcnn_mobilenet-v2_fpn_1xb4-300i_animals.py'
# One or two objects an image: about four views of each.
features = dict(num_train=4000)
