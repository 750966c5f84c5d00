"""What users get wrong: each case with the message that tells them, before anything is written."""

import ast
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.utils import get_installed_path
from PIL import Image

from mmdet_edge.engine.launch import load_config
from mmdet_edge.preflight.annotations import ORIENTATION, _run_length, check_annotations, check_dataset
from mmdet_edge.preflight.checks import check_data, check_names, sections
from mmdet_edge.preflight.model import build_model, check_weights

from .conftest import CONFIGS, EDGE, ROOT

BOXES_ONLY = "[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]"
MASK_LOSS = dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0)

CONFIG_CASES = {
    # What stands below the shapes config -> what is said.
    'filter typo': ("HEAD(loss_edge=dict(filters='sobell'))", "unknown edge filter 'sobell'.*did you mean 'sobel'"),
    'filter twice': ("HEAD(loss_edge=dict(filters=['sobel', 'sobel']))", 'a filter is named twice'),
    'no filter': ('HEAD(loss_edge=dict(filters=[]))', 'filters is empty'),
    'option typo': ("HEAD(loss_edge=dict(filter='sobel'))", "unexpected keyword argument 'filter'"),
    'exponent as text': ("HEAD(loss_edge=dict(exponent='2'))", "exponent must be a number, got '2'"),
    'exponent below 1': ('HEAD(loss_edge=dict(exponent=0.5))', 'exponent must be finite and at least 1'),
    'negative weight': ('HEAD(loss_edge=dict(loss_weight=-1))', 'loss_weight must be finite and at least 0'),
    'padding typo': ("HEAD(loss_edge=dict(padding_mode='zero'))", 'padding_mode must be one of'),
    'loss typo': ("HEAD(loss_edge=dict(type='EdgeLos'))", 'EdgeLos is not in the mmdet::model registry'),
    'head typo': ("HEAD(type='EdgeAgreementMaskHaed')", 'EdgeAgreementMaskHaed is not in the mmdet::model registry'),
    'loss as text': ("HEAD(loss_edge='sobel')", "loss_edge must be a config.*got 'sobel'"),
    'loss as a list': ('HEAD(loss_edge=[dict(), dict()])', 'loss_edge must be a config.*In a cascade'),
    'loss is True': ('HEAD(loss_edge=True)', 'loss_edge must be a config.*got True'),
    'mask size': (
        'model = dict(train_cfg=dict(rcnn=dict(mask_size=14)))',
        'predicts 28x28 masks, but .*mask_size is 14',
    ),
    'RoI size': (
        'model = dict(roi_head=dict(mask_roi_extractor=dict(roi_layer=dict(output_size=7))))',
        'predicts 14x14 masks, but .*mask_size is 28',
    ),
    'too few classes': ('HEAD(num_classes=3)', 'mask_head has num_classes=3, but the training data have 6 classes'),
    'classes as text': ("HEAD(num_classes='6')", 'the model cannot be built'),
    'data without masks': (
        f'train_dataloader = dict(dataset=dict(pipeline={BOXES_ONLY}))',
        'the model has a mask head, but the training data come without masks',
    ),
    'detector typo': ("model = dict(type='MaskRCN')", 'MaskRCN is not in the mmdet::model registry'),
    'box-only detector': (
        "model = dict(_delete_=True, type='RetinaNet', roi_head=dict(mask_head=dict(type='EdgeAgreementMaskHead')))",
        'RetinaNet.*(unexpected keyword|missing)',
    ),
    'no data': ('train_dataloader = None', 'the config has no train_dataloader'),
    'no optimizer': ('optim_wrapper = None', 'the config has no optim_wrapper'),
    'no schedule': ('train_cfg = None', 'the config has no train_cfg'),
    'no model': ('model = None', 'the config has no model'),
    'data set typo': (
        "train_dataloader = dict(dataset=dict(type='CocoDatset'))",
        "dataset.type: CocoDatset is not in .*did you mean 'CocoDataset'",
    ),
    'misspelt section': (
        'optim_wraper = dict(optimizer=dict(lr=1))',
        "mine.py has 'optim_wraper', which nothing reads; did you mean 'optim_wrapper'",
    ),
    'misspelt hooks': ("custom_hook = [dict(type='EMAHook')]", "has 'custom_hook', .* did you mean 'custom_hooks'"),
    'letters exchanged': ("modle = dict(type='HTC')", "has 'modle', .* did you mean 'model'"),
    'misspelt file': ("load_form = 'x.pth'", "has 'load_form', which nothing reads; did you mean 'load_from'"),
    'syntax error': ('model = dict(', 'cannot be read: SyntaxError'),
    'unknown name': ('model = dict(a=b)', "cannot be read: NameError: name 'b' is not defined"),
    'missing import': (
        "custom_imports = dict(imports=['nowhere_at_all'], allow_failed_imports=False)",
        'cannot be read: ImportError: .*nowhere_at_all',
    ),
    'missing base': ("_base_ = './nowhere.py'", 'inherits from a file that does not exist'),
    'one class as text': (
        "train_dataloader = dict(dataset=dict(metainfo=dict(classes=('star'))))",
        "the classes of the config must be a list of names, got the text 'star'",
    ),
}


def write_config(folder, text):
    path = folder / 'mine.py'
    base = '' if text.startswith('_base_') else f'_base_ = {str(EDGE)!r}\n'
    if text.startswith('HEAD('):
        text = f'model = dict(roi_head=dict(mask_head=dict({text[5:]}))'
    path.write_text(base + text + '\n')
    return path


@pytest.mark.parametrize('case', CONFIG_CASES)
def test_config(case, error_of, shapes, tmp_path):
    text, message = CONFIG_CASES[case]
    config = write_config(tmp_path, text)
    found = error_of('train.py', config, '--work-dir', tmp_path / 'run', '--cfg-options', f'data_root={shapes}')
    assert re.search(message, found), found
    assert '\n' not in found and not (tmp_path / 'run').exists()


def test_cascade_with_heads_that_do_not_fit():
    head = dict(
        type='EdgeAgreementMaskHead',
        num_convs=1,
        in_channels=64,
        conv_out_channels=8,
        num_classes=6,
        loss_mask=MASK_LOSS,
    )
    cfg = Config.fromfile(EDGE)
    box = dict(cfg.model.roi_head.bbox_head, in_channels=64, fc_out_channels=8)
    cfg.model.type = 'CascadeRCNN'
    cfg.model.roi_head.update(
        type='CascadeRoIHead', num_stages=2, stage_loss_weights=[1, 0.5], bbox_head=[box, box], mask_head=[head, head]
    )
    rcnn = cfg.model.train_cfg.rcnn
    cfg.model.train_cfg.rcnn = [rcnn, dict(rcnn, mask_size=14)]
    with pytest.raises(ValueError, match='mask head 1 predicts 28x28 masks, but train_cfg.rcnn.mask_size is 14'):
        build_model(cfg)
    cfg.model.train_cfg.rcnn = [rcnn, rcnn]
    assert build_model(cfg).roi_head.num_stages == 2
    cfg.model.roi_head.mask_head = [head]
    with pytest.raises(ValueError, match=r'cannot be built: AssertionError.*assert len\(mask_head\) =='):
        build_model(cfg)


@pytest.mark.parametrize('kind', ['CocoDataset', 'mmdet.CocoDataset', CocoDataset])
def test_every_data_set_must_fit(kind):
    cfg = Config.fromfile(EDGE)
    fits = cfg.train_dataloader.dataset
    fits.type = kind
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[fits, dict(fits)])
    build_model(cfg)
    other = cfg.train_dataloader.dataset.datasets[1]
    other.metainfo = None
    with pytest.raises(ValueError, match='the training data have 80 classes'):
        build_model(cfg)
    other.update(metainfo=fits.metainfo, pipeline=[dict(type='mmdet.LoadAnnotations', with_bbox=True)])
    with pytest.raises(ValueError, match='the training data come without masks'):
        build_model(cfg)


def test_a_shared_head_and_a_data_set_with_its_own_classes():
    cfg = Config.fromfile(CONFIGS / 'mask-rcnn_r50-caffe-c4_edge_1x_coco.py')
    assert build_model(cfg).roi_head.with_shared_head
    cfg = Config.fromfile(EDGE)
    cfg.train_dataloader.dataset.metainfo = None
    with pytest.raises(ValueError, match='bbox_head has num_classes=6, but the training data have 80 classes'):
        build_model(cfg)


@pytest.mark.parametrize('folder', ['mmdet', 'ours'])
def test_no_variable_of_a_config_is_taken_for_a_misspelt_section(folder):
    configs = Path(get_installed_path('mmdet'), '.mim', 'configs') if folder == 'mmdet' else ROOT / 'configs'
    names = {
        target.id
        for path in configs.rglob('*.py')
        for statement in ast.parse(path.read_text()).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    names |= {'mode', 'val_dataset', 'seed', 'model_cfg', 'teacher_model', 'load_pipeline', 'val_evaluator_2'}
    assert {'model', 'train_dataloader'} < names and len(names) > dict(mmdet=200, ours=10)[folder]
    check_names(names, sections(), f'{folder} has', cutoff=0.85)


OPTION_CASES = {
    'section typo': ('trian_cfg.max_iters=3', "--cfg-options has 'trian_cfg', which .*; did you mean 'train_cfg'"),
    'variable typo': ('dataroot=x', "--cfg-options has 'dataroot', which .*; did you mean 'data_root'"),
    'index out of range': ('param_scheduler.7.end=3', '--cfg-options .*param_scheduler.*7'),
    'below a text': ('default_scope.x=3', '--cfg-options .*default_scope'),
    'wrapper typo': ('optim_wrapper.type=AmpOptimWraper', "AmpOptimWraper is not in .* mean 'AmpOptimWrapper'"),
    'optimizer typo': (
        'optim_wrapper.optimizer.type=SDG',
        "optimizer.type: SDG is not in the optimizer registry.*'SGD'",
    ),
    'optimizer of None': ('optim_wrapper.optimizer.type=None', 'optimizer.type: None is not in the optimizer registry'),
    'optimizer elsewhere': ('optim_wrapper.optimizer.type=no.such.SGD', 'no.such.SGD is not in .*registry'),
    'hook of nothing': (
        'custom_hooks.0.type=.MaskBranchEvalHook',
        'custom_hooks.0.type: .MaskBranch.* is not in the hook',
    ),
    'optimizer option': (
        'optim_wrapper.optimizer.nesterof=True',
        "SGD has no option 'nesterof'; did you mean 'nesterov'",
    ),
    'unknown option': ('optim_wrapper.optimizer.speed=9', "optim_wrapper.optimizer: SGD has no option 'speed'$"),
    'schedule typo': ('param_scheduler.0.type=LinearLRR', "param_scheduler.0.type: LinearLRR is not in .* 'LinearLR'"),
    'schedule option': ('param_scheduler.0.start_fator=1', "LinearLR has no option 'start_fator'.*'start_factor'"),
    'loop typo': ('train_cfg.type=IterBasedTrainLop', "IterBasedTrainLop is not in the loop.* 'IterBasedTrainLoop'"),
    'loop option': ('train_cfg.max_iter=9', "train_cfg: IterBasedTrainLoop has no option 'max_iter'.*'max_iters'"),
    'val loop option': ('val_cfg.fp=True', "val_cfg: ValLoop has no option 'fp'"),
    'hook typo': ('custom_hooks.0.type=MaskBranchEvlHook', "custom_hooks.0.type: .* 'MaskBranchEvalHook'"),
    'hook option': ('default_hooks.checkpoint.typ=x', "checkpoint: CheckpointHook has no option 'typ'.*'type'"),
    'loader option': ('train_dataloader.batch_szie=2', "train_dataloader: DataLoader has no option 'batch_szie'"),
    'sampler typo': (
        'train_dataloader.sampler.type=InfinitSampler',
        "sampler.type: InfinitSampler .*'InfiniteSampler'",
    ),
    'data option': ('train_dataloader.dataset.filter_cgf.x=1', "CocoDataset has no option 'filter_cgf'.*'filter_cfg'"),
    'transform typo': (
        'train_dataloader.dataset.pipeline.3.type=RandomFlipp',
        "train_dataloader.dataset.pipeline.3.type: RandomFlipp is not in .*did you mean 'RandomFlip'",
    ),
    'transform value': ('train_dataloader.dataset.pipeline.3.prob=2', 'pipeline.3: RandomFlip cannot be built'),
    'metric': ('val_evaluator.metric=segmm', 'val_evaluator: CocoBoundaryMetric cannot be built: .*segmm'),
    'metric option': (
        'val_evaluator.classwize=1',
        "val_evaluator: CocoBoundaryMetric has no option 'classwize'.*'classwise'",
    ),
    'backend typo': ('visualizer.vis_backends.0.type=LocalVisBackand', "LocalVisBackand is not .*'LocalVisBackend'"),
    'log option': (
        'log_processor.windowsize=5',
        "log_processor: LogProcessor has no option 'windowsize'.*'window_size'",
    ),
    'loss by option': ('model.roi_head.mask_head.loss_edge.filters=sobel', None),
}


@pytest.mark.parametrize('case', OPTION_CASES)
def test_options(case, call, error_of, shapes, tmp_path):
    option, message = OPTION_CASES[case]
    command = (
        'train.py',
        EDGE,
        '--check',
        '--work-dir',
        tmp_path / 'run',
        '--cfg-options',
        f'data_root={shapes}',
        option,
    )
    if message is None:
        call(*command)
    else:
        found = error_of(*command)
        assert re.search(message, found) and '\n' not in found, found
    assert not (tmp_path / 'run').exists()


def content(**changes):
    """A valid annotation file with two images and four objects; ``changes`` replace parts of it."""
    square = [[10, 10, 20, 10, 20, 20, 10, 20]]
    objects = [
        dict(id=i, image_id=i % 2, category_id=1 + i % 2, bbox=[10, 10, 10, 10], area=100, segmentation=square)
        for i in range(4)
    ]
    # A hole and a crowd, as COCO has them: run-length masks.
    objects[3] = dict(objects[3], iscrowd=1, segmentation=dict(size=[48, 64], counts=[72, 100, 48 * 64 - 172]))
    return {
        'images': [dict(id=i, file_name=f'{i}.png', height=48, width=64) for i in range(2)],
        'annotations': objects,
        'categories': [dict(id=1, name='cat'), dict(id=2, name='dog')],
        **changes,
    }


def first(**values):
    """The same with other values in the first object; None takes a key out."""
    changed = content()
    changed['annotations'][0].update(values)
    changed['annotations'][0] = {k: v for k, v in changed['annotations'][0].items() if v is not None}
    return changed


def first_image(**values):
    changed = content()
    changed['images'][0].update(values)
    changed['images'][0] = {k: v for k, v in changed['images'][0].items() if v is not None}
    return changed


def all_objects(**values):
    changed = content()
    for item in changed['annotations']:
        item.update(values)
    return changed


def rle(counts, size=(48, 64)):
    return first(segmentation=dict(size=list(size), counts=counts))


NAN, INF = float('nan'), float('inf')
ERRORS = {
    'empty file': ('', 'not JSON, or cut off'),
    'cut off': (json.dumps(content())[:300], 'not JSON, or cut off'),
    'a list': ([], 'not a COCO file: it must hold an object with images, annotations, categories, got list'),
    'no list of images': ({}, "not a COCO file: 'images' must be a list, got nothing"),
    'a list of results': ([dict(image_id=0, bbox=[0, 0, 1, 1], score=1)], 'not a COCO file'),
    'no image': (content(images=[]), "'images' is empty"),
    'no object': (content(annotations=[]), "'annotations' is empty"),
    'no category': (content(categories=[]), "'categories' is empty"),
    'no name matches': (
        content(categories=[dict(id=1, name='Cat'), dict(id=2, name='Dog')]),
        'none of its categories is among the classes of the config.*categories: Cat, Dog; classes: cat, dog',
    ),
    'first name differs': (
        content(categories=[dict(id=1, name='Cat'), dict(id=2, name='dog')]),
        "category 'dog' would get label 0, which is the class 'cat'",
    ),
    'other order': (
        content(categories=[dict(id=2, name='dog'), dict(id=1, name='cat')]),
        "category 'dog' would get label 0, which is the class 'cat'.*categories: dog, cat; classes: cat, dog",
    ),
    'category twice': (
        content(categories=[dict(id=1, name='cat'), dict(id=1, name='dog'), dict(id=2, name='dog')]),
        '1 categories with the id of another one: 1',
    ),
    'category without name': (
        content(categories=[dict(id=1), dict(id=2, name='dog')]),
        'categories without id or name',
    ),
    'unknown category': (
        first(category_id=7),
        r'1 objects of a category that is not in the file: 0 \(category 7\)',
    ),
    'all of unknown categories': (
        all_objects(category_id=0),
        r'4 objects of a category that is not in the file: 0 \(category 0\), 1',
    ),
    'unknown image': (first(image_id=9), r'1 objects of an image that is not in the file: 0 \(image 9\)'),
    'image id as text': (first(image_id='0'), r"of an image that is not in the file: 0 \(image '?0'?\)"),
    'object twice': (first(id=1), '1 objects with the id of another one: 1'),
    'image twice': (
        content(images=[content()['images'][i] for i in (0, 1, 1)]),
        '1 images with the id of another one: 1',
    ),
    'NaN box': (first(bbox=[NAN] * 4), '1 objects whose bbox or area is not finite: 0'),
    'NaN width': (first(bbox=[1, 1, NAN, 5]), 'bbox or area is not finite'),
    'infinite box': (first(bbox=[1, 1, INF, 5]), 'bbox or area is not finite'),
    'NaN area': (first(area=NAN), 'bbox or area is not finite'),
    'box of 3': (first(bbox=[1, 2, 3]), '1 objects without id.*or a bbox of 4 numbers: 0'),
    'box of text': (first(bbox=['1', '2', '3', '4']), 'a bbox of 4 numbers'),
    'no box': (first(bbox=None), 'a bbox of 4 numbers'),
    'no area': (first(area=None), 'without id, image_id, category_id, area'),
    'no image id': (first(image_id=None), 'without id, image_id'),
    'no segmentation': (first(segmentation=None), '1 objects without a segmentation: 0'),
    'empty segmentation': (first(segmentation=[]), 'objects without a segmentation'),
    'segmentation as text': (first(segmentation='x'), 'objects without a segmentation'),
    'NaN polygon': (first(segmentation=[[10, 10, NAN, 20, 20, 20]]), 'a polygon that is not of finite numbers: 0'),
    'polygon of text': (first(segmentation=[['10'] * 6]), 'a polygon that is not of finite numbers'),
    'mask of another size': (rle([48 * 64], (64, 48)), 'a run-length mask of another size than their image: 0'),
    'mask too short': (rle([5, 5]), 'a run-length mask that does not fill its size: 0'),
    'mask of nonsense': (rle('!!!'), 'does not fill its size'),
    'mask without counts': (first(segmentation=dict(size=[48, 64])), 'does not fill its size'),
    'image without a size': (first_image(height=None), '1 images without .*height'),
    'image without a name': (first_image(file_name=None), '1 images without file_name'),
    'image size as text': (first_image(width='64'), 'height or width is not a positive number: 0'),
    'image missing': (first_image(file_name='7.png'), '1 images that are not in .*: 7.png'),
    'image in a missing folder': (first_image(file_name='x/0.png'), '1 images that are not in .*: x/0.png'),
    'image file empty': (first_image(file_name='empty.png'), 'that are empty files: empty.png'),
}
WARNINGS = {
    'a class without a category': (
        dict(all_objects(category_id=1), categories=[dict(id=1, name='cat')]),
        '1 classes of the config that are not among its categories: dog',
    ),
    'a category that is no class': (
        content(categories=[dict(id=1, name='cat'), dict(id=2, name='dog'), dict(id=3, name='cow')]),
        None,
    ),
    'an object of no class': (
        dict(first(category_id=3), categories=[*content()['categories'], dict(id=3, name='cow')]),
        '1 objects of categories that are not among the classes of the config: left out: 0',
    ),
    'zero width': (first(bbox=[10, 10, 0, 10]), '1 objects smaller than one pixel .*: left out: 0'),
    'negative size': (first(bbox=[20, 20, -10, -10]), 'smaller than one pixel'),
    'zero area': (first(area=0), 'smaller than one pixel'),
    'box outside': (first(bbox=[70, 10, 5, 5]), '1 objects with a bbox outside their image: left out: 0'),
    'box across the border': (first(bbox=[-5, 10, 100, 100]), None),
    'polygon of 2 points': (first(segmentation=[[1, 2, 3, 4]]), 'without a polygon of 3 points or more'),
    'odd polygon': (first(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), 'without a polygon of 3 points or more'),
    'polygon without an area': (first(segmentation=[[10, 10, 20, 10, 30, 10]]), 'a polygon without an area'),
    'polygon outside': (first(segmentation=[[90, 90, 95, 90, 95, 95]]), 'a polygon outside their image'),
    'polygon that crosses itself': (first(segmentation=[[10, 10, 20, 20, 20, 10, 10, 20]]), None),
    'nothing': (content(), None),
}


def check(folder, given, **options):
    for name, data in (('0.png', b'x'), ('1.png', b'x'), ('empty.png', b'')):
        (folder / name).write_bytes(data)
    (folder / 'x.json').write_text(given if isinstance(given, str) else json.dumps(given))
    return check_annotations(str(folder / 'x.json'), ('cat', 'dog'), str(folder), **options)


@pytest.mark.parametrize('case', ERRORS)
def test_annotations_with_errors(case, tmp_path):
    given, message = ERRORS[case]
    problems = check(tmp_path, given)
    (found,) = problems.errors
    assert re.search(message, found) and found.startswith(f'{tmp_path}/x.json: '), found


@pytest.mark.parametrize('case', WARNINGS)
def test_annotations_with_warnings(case, tmp_path):
    given, message = WARNINGS[case]
    problems = check(tmp_path, given)
    assert problems.errors == []
    if message is None:
        assert problems.warnings == []
    else:
        (found,) = problems.warnings
        assert re.search(message, found), found


def write_image(folder, size, orientation=None, ending='.png'):
    exif = Image.Exif()
    if orientation:
        exif[ORIENTATION] = orientation
    Image.new('RGB', size).save(folder / f'0{ending}', exif=exif)


@pytest.mark.parametrize('ending', ['.png', '.jpg'])
@pytest.mark.parametrize(
    ('size', 'orientation', 'fits'),
    [
        ((64, 48), None, True),
        ((64, 48), 3, True),
        ((64, 48), 6, True),
        ((48, 64), 6, True),
        ((48, 64), 1, False),
        ((48, 64), None, False),
        ((32, 24), None, False),
        ((32, 24), 8, False),
        ((64, 47), None, False),
    ],
)
def test_an_image_of_another_size(size, orientation, fits, ending, tmp_path):
    write_image(tmp_path, size, orientation, ending)
    given = json.dumps(first_image(file_name=f'0{ending}'))
    (tmp_path / '1.png').write_bytes(b'no image')
    (tmp_path / 'x.json').write_text(given)
    problems = check_annotations(str(tmp_path / 'x.json'), ('cat', 'dog'), str(tmp_path))
    if fits:
        assert problems.errors == []
    else:
        (found,) = problems.errors
        assert re.search('1 images of another size than the file says, .*resized after they were annotated', found)
        assert found.endswith(f': {tmp_path}/0{ending} is {size[1]} high and {size[0]} wide, the file says 48 and 64')


@pytest.mark.parametrize(('number', 'opened'), [(1, 1), (100, 100), (101, 51), (1000, 100)])
def test_a_sample_of_the_images_is_opened(number, opened, tmp_path, monkeypatch):
    given = content(
        images=[dict(id=i, file_name=f'{i}.png', height=48, width=64) for i in range(number)], annotations=[]
    )
    for i in range(number):
        (tmp_path / f'{i}.png').write_bytes(b'x')
    (tmp_path / 'x.json').write_text(json.dumps(given))
    seen = []
    monkeypatch.setattr(Image, 'open', lambda path: seen.append(int(path.stem)) or (_ for _ in ()).throw(OSError))
    assert not check_annotations(str(tmp_path / 'x.json'), None, str(tmp_path), needs_objects=False).errors
    assert len(seen) == opened and seen[-1] >= number - 10


def test_all_problems_are_told_and_counted(tmp_path):
    given = content()
    given['annotations'] += [dict(given['annotations'][0], id=10 + i, category_id=9) for i in range(7)]
    given['annotations'] += [dict(given['annotations'][0], id=20, bbox=[0, 0, 0, 0])]
    given['images'][1]['file_name'] = 'gone.png'
    problems = check(tmp_path, given)
    assert len(problems.errors) == 2 and len(problems.warnings) == 1
    assert '1 images that are not in' in problems.errors[0]
    assert problems.errors[1].endswith(
        '7 objects of a category that is not in the file: 10 (category 9), 11 (category 9), 12 (category 9), '
        '13 (category 9), 14 (category 9), ...'
    )


def test_a_file_for_tests_needs_no_objects_and_boxes_no_masks(tmp_path):
    only_images = {key: value for key, value in content().items() if key != 'annotations'}
    assert not check(tmp_path, only_images, needs_objects=False).errors
    (tmp_path / 'b').mkdir()
    assert not check(tmp_path / 'b', first(segmentation=None), with_masks=False).errors


def check_config(folder, given, **options):
    """Check a data set of a config: what stands in the file, and settings of the config."""
    check_annotations.cache_clear()
    check(folder, given)
    dataset = dict(type='CocoDataset', data_root=str(folder), ann_file='x.json', data_prefix=dict(img=''), **options)
    return check_dataset(ConfigDict(dataset), is_training=True)


def test_objects_are_needed_where_images_without_are_left_out(tmp_path):
    unlabeled = {key: value for key, value in content().items() if key != 'annotations'}
    classes = dict(classes=('cat', 'dog'))
    for filter_cfg in (None, dict(filter_empty_gt=False)):
        assert not check_config(tmp_path, unlabeled, metainfo=classes, filter_cfg=filter_cfg).errors
    (found,) = check_config(tmp_path, unlabeled, metainfo=classes, filter_cfg=dict(filter_empty_gt=True)).errors
    assert "'annotations' must be a list, got nothing" in found


def test_classes_of_a_file(tmp_path):
    (tmp_path / 'classes.txt').write_text('cat\ndog\n')
    problems = check_config(tmp_path, content(), metainfo=dict(classes=str(tmp_path / 'classes.txt')))
    assert problems.errors == problems.warnings == []


def test_a_link_to_nowhere(tmp_path):
    (tmp_path / 'old.png').symlink_to('nowhere.png')
    assert not check(tmp_path, content()).errors
    check_annotations.cache_clear()
    (found,) = check(tmp_path, first_image(file_name='old.png')).errors
    assert '1 images that are not in' in found


@pytest.mark.parametrize('seed', range(20))
def test_run_lengths_as_pycocotools_writes_them(seed):
    rng = np.random.default_rng(seed)
    mask = (rng.random((37 + seed, 300)) > rng.uniform(0, 1)).astype(np.uint8)
    mask[:, : rng.integers(1, 250)] = seed % 2
    counts = mask_utils.encode(np.asfortranarray(mask))['counts'].decode()
    assert _run_length(counts) == mask.size
    assert _run_length(counts[:-1]) != mask.size


def test_the_tools_tell(call, error_of, shapes, tmp_path, capsys):
    data = tmp_path / 'data'
    shutil.copytree(shapes, data)
    given = json.loads((data / 'train.json').read_text())
    command = ('train.py', EDGE, '--check', '--work-dir', tmp_path / 'run', '--cfg-options', f'data_root={data}')
    call(*command)
    assert capsys.readouterr().err == ''
    given['annotations'][0]['area'] = 0
    (data / 'train.json').write_text(json.dumps(given))
    check_annotations.cache_clear()
    call(*command)
    assert re.fullmatch('warning: .*/train.json: 1 objects smaller than one pixel .*\n', capsys.readouterr().err)
    given['annotations'][1]['category_id'] = 99
    given['images'][0]['file_name'] = 'gone.png'
    (data / 'train.json').write_text(json.dumps(given))
    check_annotations.cache_clear()
    lines = error_of(*command).splitlines()
    assert len(lines) == 2 and all(line.startswith(f'error: {data}/train.json: 1 ') for line in lines)


@pytest.mark.parametrize('name', ['nuclei', 'coco_tiny'])
def test_real_data_pass_without_a_word(name, real_data, capsys):
    config = {'nuclei': 'r18_fpn_edge_1xb4-300i_nuclei', 'coco_tiny': 'r50_fpn_edge_1x_coco'}[name]
    cfg = load_config(str(CONFIGS / f'mask-rcnn_{config}.py'), dict(data_root=str(real_data / name)))
    check_data(cfg, ('train', 'val', 'test'))
    assert capsys.readouterr().err == ''


def test_lvis_has_names_of_its_own(tmp_path):
    given = content(categories=[dict(id=1, name='aardvark'), dict(id=2, name='zebra')])
    for image in given['images']:
        image['coco_url'] = f'http://images.cocodataset.org/train2017/{image.pop("file_name")}'
    (tmp_path / 'lvis.json').write_text(json.dumps(given))
    dataset = ConfigDict(
        type='LVISV1Dataset', data_root=str(tmp_path), ann_file='lvis.json', data_prefix=dict(img=''), pipeline=[]
    )
    problems = check_dataset(dataset, is_training=True)
    assert problems.errors == problems.warnings == []


def images():
    image = cv2.cvtColor(np.arange(24 * 32, dtype=np.uint8).reshape(24, 32), cv2.COLOR_GRAY2BGR)
    image[:12, :16, 2] = 200
    return {
        'gray': image[..., 0],
        '16 bit': image.astype(np.uint16) * 257,
        'RGBA': np.dstack([image, np.zeros_like(image[..., :1])]),
    }


@pytest.mark.parametrize('case', images())
def test_unusual_images_are_read_as_colours_of_8_bits(case, tmp_path):
    init_default_scope('mmdet')
    cv2.imwrite(str(tmp_path / 'x.png'), images()[case])
    read = LoadImageFromFile().transform(dict(img_path=str(tmp_path / 'x.png')))['img']
    assert read.dtype == np.uint8 and read.shape == (24, 32, 3)
    expected = images()[case] if case == 'gray' else images()['RGBA'][..., 2]
    assert np.array_equal(read[..., 2], expected)


@pytest.mark.parametrize('ending', ['.png', '.jpg'])
@pytest.mark.parametrize('damage', ['truncated', 'not an image', 'missing'])
def test_mmdet_names_an_image_that_it_cannot_read(ending, damage, tmp_path):
    path = tmp_path / f'x{ending}'
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    data = dict(truncated=path.read_bytes()[: path.stat().st_size // 2]).get(damage, b'text' * 100)
    path.write_bytes(data) if damage != 'missing' else path.unlink()
    with pytest.raises((AssertionError, FileNotFoundError), match=re.escape(str(path))):
        LoadImageFromFile().transform(dict(img_path=str(path)))


def checkpoint_cases(weights, folder):
    """Name -> file, what is said of it by test.py, and whether train.py starts from it."""
    whole = dict(state_dict=weights, meta={})
    kept = {k: v for k, v in weights.items() if 'mask_head' not in k}
    other = {k: v[:4] if 'fc_cls' in k else v for k, v in weights.items()}
    contents = {
        'another architecture': (dict(state_dict=dict(encoder=torch.ones(3))), 'nothing in .* fits the model', False),
        'without a mask head': (
            dict(state_dict=kept),
            r'lacks \d+ of the \d+ weights of the model: roi_head.mask',
            True,
        ),
        'other classes': (dict(state_dict=other), 'does not fit the model, as if of other classes', True),
        'a list': ([1, 2], 'is not a checkpoint of a model', False),
        'no weights': (dict(state_dict={}), 'is not a checkpoint of a model', False),
        'from several GPUs': (dict(state_dict={f'module.{k}': v for k, v in weights.items()}), None, True),
        'weights alone': (weights, None, True),
        'whole': (whole, None, True),
    }
    cases = {}
    for name, (data, message, starts) in contents.items():
        torch.save(data, folder / f'{name}.pth'.replace(' ', '_'))
        cases[name] = (folder / f'{name}.pth'.replace(' ', '_'), message, starts)
    data = (folder / 'whole.pth').read_bytes()
    for name, damaged in {
        'cut off': data[: len(data) // 2],
        'one byte less': data[:-1],
        'an empty file': b'',
        'a text': b'epoch,loss\n1,2\n',
        'an image': b'\x89PNG\r\n\x1a\n' * 10,
    }.items():
        path = folder / f'{name}.pth'.replace(' ', '_')
        path.write_bytes(damaged)
        cases[name] = (path, '(cannot be loaded: cut off, damaged|is not a checkpoint)', False)
    return cases


def test_checkpoints(weights, call, error_of, shapes, tmp_path):
    options = ('--check', '--work-dir', tmp_path / 'run', '--cfg-options', f'data_root={shapes}')
    (tmp_path / 'files').mkdir()
    cases = checkpoint_cases(weights, tmp_path / 'files')
    for name, (path, message, _) in cases.items():
        command = ('test.py', EDGE, path, *options)
        if message is None:
            call(*command)
        else:
            found = error_of(*command)
            assert re.search(message, found) and str(path) in found and '\n' not in found, (name, found)
    for name in ('another architecture', 'other classes', 'cut off'):
        path, _, starts = cases[name]
        command = ('train.py', EDGE, *options, f'load_from={path}')
        if starts:
            call(*command)
        else:
            assert str(path) in error_of(*command), name
    assert not (tmp_path / 'run').exists()


def test_a_detector_for_a_student_and_its_teacher(checkpoint, tmp_path):
    init_default_scope('mmdet')
    model = MODELS.build(dict(type='SoftTeacher', detector=Config.fromfile(EDGE).model, semi_train_cfg={}))
    for whole in (True, False):
        check_weights(str(checkpoint), model, whole)
    torch.save(dict(encoder=torch.ones(3)), tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=r'nothing in .* fits the model \(SoftTeacher\); it has encoder'):
        check_weights(str(tmp_path / 'other.pth'), model, whole=False)


def test_a_resume_needs_the_whole_model(weights, error_of, shapes, tmp_path):
    (tmp_path / 'files').mkdir()
    cases = checkpoint_cases(weights, tmp_path / 'files')
    for name in ('without a mask head', 'cut off'):
        path, message, _ = cases[name]
        found = error_of('train.py', EDGE, '--resume', path, '--check', '--cfg-options', f'data_root={shapes}')
        assert re.search(message, found), found


def command_lines(folder, shapes, good):
    """Command line -> message, for each tool that has options of its own."""
    occupied, below = folder / 'occupied', folder / 'occupied' / 'below'
    occupied.write_text('mine')
    data = ('--cfg-options', f'data_root={shapes}')
    tools, compare, shapes_tool = (
        'analysis_tools/',
        'analysis_tools/compare_predictions.py',
        'dataset_converters/make_shapes_dataset.py',
    )
    return [
        (('train.py', EDGE, '--work-dir', occupied, *data), 'work dir must be a folder, got the file'),
        (('train.py', EDGE, '--work-dir', below, *data), 'work dir: .* cannot be made, as .*occupied is a file'),
        (('train.py', folder, *data), 'config file not found'),
        (('test.py', EDGE, good, '--work-dir', occupied, *data), 'work dir must be a folder'),
        (('test.py', EDGE, good, '--out', folder / 'x.json', *data), 'predictions are written to a pickle file'),
        (('test.py', EDGE, good, '--out', below / 'x.pkl', *data), '--out: .* cannot be made'),
        (('test.py', EDGE, folder, *data), 'checkpoint not found'),
        (('test.py', folder / 'no.py', good, *data), 'config file not found'),
        ((tools + 'eval_mask_branch.py', EDGE, good, '--out', folder, *data), '--out must be a file, got the folder'),
        ((tools + 'eval_mask_branch.py', EDGE, folder / 'no.pth', *data), 'checkpoint not found'),
        ((compare, EDGE, good, EDGE, good, '--out', below, *data), '--out: .* cannot be made'),
        ((compare, EDGE, good, EDGE, good, '--num-images', '0', *data), '--num-images must be at least 1'),
        ((tools + 'compare_runs.py', folder / 'nowhere'), 'no such folder'),
        ((tools + 'compare_runs.py', folder), 'is not the work dir of a training run'),
        ((tools + 'compare_runs.py', f'={folder}'), 'expected NAME=DIR, got no name'),
        ((tools + 'draw_edge_head.py', '--out', folder), '--out must be a file, got the folder'),
        ((tools + 'draw_edge_head.py', '--out', below), '--out: .* cannot be made'),
        ((shapes_tool, folder / 'new', '--size', '3'), 'size must be at least 64, got 3'),
        ((shapes_tool, folder / 'new', '--num-train', '0'), 'num_train must be at least 1, got 0'),
        ((shapes_tool, folder), 'exists and is not the data set asked for'),
        ((shapes_tool, below), 'Not a directory|File exists'),
        (('benchmarks.cost.evaluation', '--num-images', '0'), '--num-images must be at least 1, got 0'),
        (('benchmarks.cost.step', EDGE, '--mask-branch', '--rois', '0'), '--rois must be at least 1, got 0'),
        (('benchmarks.cost.loss', '--repeats', '-1'), '--repeats must be at least 1, got -1'),
        (('benchmarks.convergence', folder / 'no.py'), 'no.py'),
        (('benchmarks.convergence', EDGE), 'unknown fields'),
        (
            ('benchmarks.convergence', ROOT / 'benchmarks/convergence/specs/shapes_full.py', '--jobs', '0'),
            'at least 1 training',
        ),
    ]


def test_augmentation_of_several_data_sets(call, shapes, checkpoint, tmp_path):
    text = """model = dict(roi_head=dict(mask_head=None, mask_roi_extractor=None))
part = {{_base_.test_dataloader.dataset}}
test_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=[part, part]))"""
    config = write_config(tmp_path, text)
    call('test.py', config, checkpoint, '--tta', '--check', '--cfg-options', f'data_root={shapes}')


def test_command_lines(call, error_of, shapes, checkpoint, tmp_path):
    folder = tmp_path / 'place'
    folder.mkdir()
    for command, message in command_lines(folder, shapes, checkpoint):
        found = error_of(*command)
        assert re.search(message, found) and '\n' not in found, (command, found)
    assert [path.name for path in folder.iterdir()] == ['occupied']
    assert (folder / 'occupied').read_text() == 'mine'


@pytest.mark.parametrize(
    'tool',
    [str(path.relative_to(ROOT / 'tools')) for path in sorted((ROOT / 'tools').rglob('*.py'))
     if 'ArgumentParser' in path.read_text()],
)  # fmt: skip
def test_an_unknown_option_is_told_with_the_usage(tool, call, capsys):
    with pytest.raises(SystemExit) as stopped:
        call(tool, '--no-such-option')
    assert stopped.value.code == 2
    assert 'usage: ' in capsys.readouterr().err


@pytest.mark.parametrize('text', ['1,', '1,x', '1;2', '', 'first', '1.5'])
def test_stages_that_are_none(text, call, capsys):
    with pytest.raises(SystemExit) as stopped:
        call('train.py', EDGE, '--edge-stages', text)
    assert stopped.value.code == 2
    message = f"--edge-stages: expected 'all', 'last', or numbers .* such as 1,2; got '{text}'$"
    assert re.search(message, capsys.readouterr().err.strip())


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_a_folder_without_permission(error_of, shapes, tmp_path):
    place = tmp_path / 'place'
    place.mkdir(mode=0o500)
    for path in (place, place / 'run'):
        found = error_of('train.py', EDGE, '--work-dir', path, '--cfg-options', f'data_root={shapes}')
        assert f'work dir: no permission to write {place}' in found
    assert not list(place.iterdir())


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which('mount') is None, reason='mounting needs root')
def test_a_read_only_file_system(error_of, shapes, tmp_path):
    place = tmp_path / 'place'
    place.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'ro', 'tmpfs', str(place)], stderr=subprocess.DEVNULL).returncode:
        pytest.skip('mounting is not allowed here')
    try:
        found = error_of('train.py', EDGE, '--work-dir', place / 'run', '--cfg-options', f'data_root={shapes}')
    finally:
        subprocess.run(['umount', str(place)], check=True)
    assert f'work dir: no permission to write {place}' in found
