"""Real images, if MMDET_EDGE_DATA names a folder that has them."""

from .conftest import CONFIGS, metrics, run_python, scalars

# A hardly trained model: draw whatever it finds, so that there is something to evaluate.
FEW_IMAGES = [
    'model.test_cfg.rcnn.score_thr=0.0',
    'val_dataloader.dataset.indices=3',
    'test_dataloader.dataset.indices=3',
]


def test_nuclei(real_data, tmp_path):
    config = CONFIGS / 'mask-rcnn_r18_fpn_edge_1xb4-300i_nuclei.py'
    settings = ['--cfg-options', f'data_root={real_data / "nuclei"}', *FEW_IMAGES]
    run_python(
        'train.py', config, '--work-dir', tmp_path / 'run', *settings, 'train_cfg.max_iters=2',
        'train_cfg.val_interval=2', 'default_hooks.checkpoint.interval=2', 'default_hooks.logger.interval=1',
    )  # fmt: skip
    assert all(line['loss_edge'] > 0 for line in scalars(tmp_path / 'run') if 'loss' in line)
    run_python(
        'test.py',
        config,
        tmp_path / 'run' / 'iter_2.pth',
        '--work-dir',
        tmp_path / 'test',
        *settings,
    )
    assert 'coco/segm_mAP' in metrics(tmp_path / 'test')


def test_the_standard_coco_config(real_data, tmp_path):
    """R50 1x on real COCO images of 80 classes: unchanged but for data root, initial weights and number of steps."""
    config = CONFIGS / 'mask-rcnn_r50_fpn_edge_1x_coco.py'
    settings = ['--cfg-options', f'data_root={real_data / "coco_tiny"}', *FEW_IMAGES]
    run_python(
        'train.py', config, '--work-dir', tmp_path / 'run', *settings, 'model.backbone.init_cfg=None',
        'train_cfg.max_epochs=1', 'train_dataloader.dataset.indices=4', 'default_hooks.logger.interval=1',
        OMP_NUM_THREADS='2',
    )  # fmt: skip
    steps = [line for line in scalars(tmp_path / 'run') if 'loss' in line]
    assert len(steps) == 2 and all(0 < step['loss_edge'] < 10 for step in steps)
    run_python(
        'test.py',
        config,
        tmp_path / 'run' / 'epoch_1.pth',
        '--work-dir',
        tmp_path / 'test',
        *settings,
        OMP_NUM_THREADS='2',
    )
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= set(metrics(tmp_path / 'test'))
