"""Real images, if MMDET_EDGE_DATA names a folder that has them."""

import json

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from mmengine.logging import MMLogger

from mmdet_edge import CocoBoundaryMetric
from mmdet_edge.evaluation.coco_boundary_metric import BACKENDS

from .conftest import CONFIGS, ROOT, metrics, run_python, scalars

# A hardly trained model: draw whatever it finds, so that there is something to evaluate.
FEW_IMAGES = [
    'model.test_cfg.rcnn.score_thr=0.0',
    'val_dataloader.dataset.indices=3',
    'test_dataloader.dataset.indices=3',
]
# The standard COCO config at half its image size: a quarter of the time.
HALF_SIZE = [
    'train_dataloader.dataset.pipeline.2.scale=(667,400)',
    'val_dataloader.dataset.pipeline.1.scale=(667,400)',
    'test_dataloader.dataset.pipeline.1.scale=(667,400)',
]


@pytest.mark.slow
def test_nuclei(real_data, tmp_path):
    config = CONFIGS / 'mask-rcnn_r18_fpn_edge_1xb4-300i_nuclei.py'
    settings = ['--cfg-options', f'data_root={real_data / "nuclei"}', *FEW_IMAGES]
    run_python(
        'train.py', config, '--work-dir', tmp_path / 'run', *settings, 'train_cfg.max_iters=2',
        'train_cfg.val_interval=2', 'default_hooks.checkpoint.interval=2', 'default_hooks.logger.interval=1',
    )  # fmt: skip
    assert all(line['loss_edge'] > 0 for line in scalars(tmp_path / 'run') if 'loss' in line)
    values = {}
    for backend in BACKENDS:
        arguments = ('test.py', config, tmp_path / 'run' / 'iter_2.pth', '--work-dir', tmp_path / backend, *settings)
        run_python(*arguments, f'test_evaluator.backend={backend}')
        values[backend] = metrics(tmp_path / backend)
    assert {'coco/bbox_mAP', 'coco/segm_mAP', 'coco/boundary_mAP'} <= set(values[backend])
    assert values[BACKENDS[0]] == pytest.approx(values[BACKENDS[1]], abs=1e-9)


def test_backends_agree_on_coco(real_data):
    """Real annotations of 80 classes, crowds among them; predictions are the annotations, moved."""
    file = str(real_data / 'coco_tiny' / 'annotations' / 'instances_val2017.json')
    coco = CocoBoundaryMetric(ann_file=file)._coco_api
    assert any(a['iscrowd'] for a in coco.anns.values())
    rng = np.random.default_rng(0)
    detections = []
    for annotation in coco.anns.values():
        moved = np.roll(coco.annToMask(annotation), rng.integers(-4, 5, 2), (0, 1))
        rle = mask_utils.encode(np.asfortranarray(moved))
        detections.append(
            dict(
                image_id=annotation['image_id'],
                category_id=annotation['category_id'],
                bbox=mask_utils.toBbox(rle).tolist(),
                score=float(rng.uniform()),
                segmentation=dict(size=rle['size'], counts=rle['counts'].decode()),
            )
        )
    values = {backend: {} for backend in BACKENDS}
    for backend in BACKENDS:
        metric = CocoBoundaryMetric(ann_file=file, backend=backend)
        metric.cat_ids, metric.img_ids = coco.getCatIds(), coco.getImgIds()
        logger = MMLogger.get_current_instance()
        for kind in ('bbox', 'segm', 'boundary'):
            truth = metric._make_truth()
            found = truth.loadRes([{k: v for k, v in d.items() if kind == 'bbox' or k != 'bbox'} for d in detections])
            values[backend].update(metric._evaluate(kind, truth, found, logger))
    assert values[BACKENDS[0]] == pytest.approx(values[BACKENDS[1]], abs=1e-9)
    assert 0.2 < values[BACKENDS[0]]['boundary_mAP'] < values[BACKENDS[0]]['segm_mAP'] < 1


@pytest.mark.slow
def test_the_standard_coco_config(real_data, tmp_path):
    """R50 1x on real COCO images of 80 classes: unchanged but for data root, initial weights, image size and steps."""
    config = CONFIGS / 'mask-rcnn_r50_fpn_edge_1x_coco.py'
    settings = ['--cfg-options', f'data_root={real_data / "coco_tiny"}', *FEW_IMAGES, *HALF_SIZE]
    run_python(
        'train.py', config, '--work-dir', tmp_path / 'run', *settings, 'model.backbone.init_cfg=None',
        'train_cfg.max_epochs=1', 'train_dataloader.dataset.indices=4', 'default_hooks.logger.interval=1',
    )  # fmt: skip
    steps = [line for line in scalars(tmp_path / 'run') if 'loss' in line]
    assert len(steps) == 2 and all(0 < step['loss_edge'] < 10 for step in steps)
    run_python('test.py', config, tmp_path / 'run' / 'epoch_1.pth', '--work-dir', tmp_path / 'test', *settings)
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= set(metrics(tmp_path / 'test'))


@pytest.mark.slow
def test_the_coco_benchmark(real_data, tmp_path):
    """The spec for 8 GPUs with 2 processes and 2 iterations, on a few small images, from random weights."""
    spec = tmp_path / 'coco_two_steps.py'
    spec.write_text(
        f'_base_ = {str(ROOT / "benchmarks/convergence/specs/coco_full.py")!r}\n'
        'gpus = 2\nbaseline = "edge"\n'
        'runs = [dict(settings=["edge"], learning_rates=[0.02], seeds=[0])]\n'
    )
    run_python(
        'benchmarks.convergence', spec, '--work-dir', tmp_path / 'run', '--data-root', real_data / 'coco_tiny',
        '--cfg-options', *FEW_IMAGES, *HALF_SIZE, 'model.backbone.init_cfg=None', 'train_cfg.max_epochs=1',
        'train_dataloader.batch_size=1', 'train_dataloader.dataset.indices=4', 'default_hooks.logger.interval=1',
    )  # fmt: skip
    (line,) = (json.loads(text) for text in (tmp_path / 'run/results.jsonl').read_text().splitlines())
    assert {'coco/bbox_mAP', 'coco/segm_mAP', 'coco/boundary_mAP'} <= set(line['metrics'])
    (work_dir,) = (tmp_path / 'run/runs/own-schedule').glob('edge_lr0.02/seed0')
    steps = [step for step in scalars(work_dir) if 'loss' in step]
    assert len(steps) == 2 and all(0 < step['loss_edge'] < 20 for step in steps)
