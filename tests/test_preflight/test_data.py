import json
import re
import shutil

import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config, ConfigDict
from PIL import Image

from mmdet_edge import get_config_path
from mmdet_edge.config import edits
from mmdet_edge.engine import launch
from mmdet_edge.errors import UserError
from mmdet_edge.preflight import data as checks
from mmdet_edge.preflight.annotations import check_annotations

from ..test_reliability.conftest import EDGE
from .test_annotations import check, content

COCO = get_config_path('mask_rcnn_edge/mask-rcnn_r50_fpn_edge_1x_coco.py')
POLYGONS = get_config_path('mask_rcnn_edge/mask-rcnn_r50_fpn_edge_ms-poly-3x_coco.py')
NUCLEI = get_config_path('mask_rcnn_edge/mask-rcnn_r18_fpn_edge_1xb4-300i_nuclei.py')


def load(config, **options):
    return launch.edit_config(launch.read_config(config), options)


@pytest.fixture
def data(tmp_path):
    content = dict(
        images=[dict(id=0, file_name='0.png', height=9, width=9)],
        annotations=[
            dict(id=0, image_id=0, category_id=1, bbox=[1, 1, 4, 4], area=8, segmentation=[[1, 1, 5, 1, 1, 5]])
        ],
        categories=[dict(id=1, name='nucleus')],
    )
    for split in ('train', 'val'):
        (tmp_path / split).mkdir()
        (tmp_path / split / '0.png').write_bytes(b'not looked into')
        (tmp_path / f'{split}.json').write_text(json.dumps(content))
    return tmp_path


def test_data_is_there(data):
    cfg = load(NUCLEI, data_root=str(data))
    checks.check_data(cfg, ('train', 'val', 'test'))


@pytest.mark.parametrize(
    ('missing', 'message'),
    [
        ('train', 'image folder not found: .*/train '),
        ('train.json', 'annotation file not found: .*/train.json .train_dataloader'),
        ('val.json', 'annotation file not found: .*/val.json .val_dataloader'),
    ],
)
def test_missing_data(data, missing, message):
    path = data / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    cfg = load(NUCLEI, data_root=str(data))
    with pytest.raises(UserError, match=f'^{message}.*data_root=FOLDER'):
        checks.check_data(cfg, ('train', 'val'))


def test_missing_data_root_and_annotations_of_the_evaluator(data):
    cfg = load(NUCLEI, data_root='/nowhere')
    with pytest.raises(UserError, match='data root not found: /nowhere/'):
        checks.check_data(cfg, ('train',))
    cfg = load(NUCLEI, data_root=str(data))
    cfg.val_evaluator.ann_file = '/nowhere.json'
    with pytest.raises(UserError, match=r'annotation file not found: /nowhere.json \(val_evaluator'):
        checks.check_data(cfg, ('val',))


def test_data_of_another_backend():
    remote = dict(ann_file='nowhere.json', backend_args=dict(backend='petrel'))
    dataset = dict(remote, type='CocoDataset', data_root='nowhere', data_prefix=dict(img='val'))
    evaluator = dict(remote, type='CocoMetric')
    cfg = Config(dict(val_dataloader=dict(dataset=dataset), val_evaluator=evaluator))
    checks.check_data(cfg, ('val',))


def test_data_inside_wrappers_and_elsewhere():
    name = 'mask_rcnn_edge/mask-rcnn_r50_fpn_edge_ms-poly-3x_coco.py'
    cfg = Config.fromfile(get_config_path(name))
    assert 'dataset' in cfg.train_dataloader.dataset  # RepeatDataset
    with pytest.raises(UserError, match='data root not found: data/coco/'):
        checks.check_data(cfg, ('train',))
    for root in ('s3://bucket/coco/', 'https://host/coco/'):
        edits.override_data_root(cfg, cfg.data_root, root)
        checks.check_data(cfg, ('train', 'val'))


CLASSES = dict(classes=('cat', 'dog'))


def check_config(folder, given, **options):
    """Check a data set of a config: the content of its file, and options of the config."""
    check(folder, given)
    dataset = dict(type='CocoDataset', data_root=str(folder), ann_file='x.json', data_prefix=dict(img=''), **options)
    ((path, use),) = checks.uses_of(ConfigDict(dataset), 'train')
    return check_annotations(path, [use])


def test_objects_are_needed_where_images_without_are_left_out(tmp_path):
    unlabeled = {key: value for key, value in content().items() if key != 'annotations'}
    for filter_cfg in (None, dict(filter_empty_gt=False)):
        assert not check_config(tmp_path, unlabeled, metainfo=CLASSES, filter_cfg=filter_cfg).errors
    (found,) = check_config(tmp_path, unlabeled, metainfo=CLASSES, filter_cfg=dict(filter_empty_gt=True)).errors
    assert "'annotations' must be a list, got nothing" in found


def test_classes_of_a_file(tmp_path):
    (tmp_path / 'classes.txt').write_text('cat\ndog\n')
    problems = check_config(tmp_path, content(), metainfo=dict(classes=str(tmp_path / 'classes.txt')))
    assert problems.errors == problems.warnings == []


def test_the_tools_tell(call, error_of, shapes, tmp_path, capsys):
    data = tmp_path / 'data'
    shutil.copytree(shapes, data)
    given = json.loads((data / 'train.json').read_text())
    command = ('train.py', EDGE, '--check', '--work-dir', tmp_path / 'run', '--cfg-options', f'data_root={data}')
    call(*command)
    assert capsys.readouterr().err == ''
    given['annotations'][0]['area'] = 0
    (data / 'train.json').write_text(json.dumps(given))
    call(*command)
    assert re.fullmatch('warning: .*/train.json: 1 objects smaller than one pixel .*\n', capsys.readouterr().err)
    given['annotations'][1]['category_id'] = 99
    given['images'][0]['file_name'] = 'gone.png'
    (data / 'train.json').write_text(json.dumps(given))
    lines = error_of(*command).splitlines()
    assert len(lines) == 2 and all(line.startswith(f'error: {data}/train.json: 1 ') for line in lines)


@pytest.mark.parametrize('name', ['nuclei', 'animals', 'facade', 'coco_tiny'])
def test_real_data_pass_without_a_word(name, real_data, capsys):
    cfg = load(COCO if name == 'coco_tiny' else NUCLEI, data_root=str(real_data / name))
    if name in ('animals', 'facade'):
        categories = json.loads((real_data / name / 'train.json').read_text())['categories']
        for split in ('train', 'val', 'test'):
            cfg[f'{split}_dataloader'].dataset.metainfo = dict(classes=[item['name'] for item in categories])
    checks.check_data(cfg, ('train', 'val', 'test'))
    assert capsys.readouterr().err == ''


def test_run_lengths_are_lost_by_configs_that_train_on_polygons(real_data):
    cfg = load(POLYGONS, data_root=str(real_data / 'nuclei'))
    nuclei = load(NUCLEI, data_root=str(real_data / 'nuclei'))
    pipeline = cfg.train_dataloader.dataset.dataset.pipeline
    cfg.train_dataloader.dataset = dict(nuclei.train_dataloader.dataset, pipeline=pipeline)
    with pytest.raises(UserError, match='none of 7390 objects is left to train on: 7390 with a run-length mask'):
        checks.check_data(cfg, ('train',))


def test_lvis_has_names_of_its_own(tmp_path):
    given = content(categories=[dict(id=1, name='aardvark'), dict(id=2, name='zebra')])
    for image in given['images']:
        image['coco_url'] = f'http://images.cocodataset.org/train2017/{image.pop("file_name")}'
    (tmp_path / 'lvis.json').write_text(json.dumps(given))
    dataset = ConfigDict(
        type='LVISV1Dataset', data_root=str(tmp_path), ann_file='lvis.json', data_prefix=dict(img=''), pipeline=[]
    )
    ((path, use),) = checks.uses_of(dataset, 'train')
    problems = check_annotations(path, [use])
    assert problems.errors == problems.warnings == []


LOADERS = {
    'cv2': dict(),
    'pillow': dict(imdecode_backend='pillow'),
    'cv2 as stored': dict(color_type='color_ignore_orientation'),
    'cv2 unchanged': dict(color_type='unchanged'),
    'pillow unchanged': dict(color_type='unchanged', imdecode_backend='pillow'),
}


@pytest.mark.parametrize('loader', LOADERS)
@pytest.mark.parametrize('orientation', [None, 1, 3, 6, 8])
@pytest.mark.parametrize('stated', [(48, 64), (64, 48), (24, 32)])
def test_the_stated_size_is_what_the_pipeline_loads(loader, orientation, stated, tmp_path):
    exif = Image.Exif()
    if orientation:
        exif[checks.ORIENTATION] = orientation
    Image.new('RGB', (64, 48)).save(tmp_path / '0.jpg', exif=exif)
    given = content(annotations=[], images=[dict(id=0, file_name='0.jpg', height=stated[0], width=stated[1])])
    step = dict(type='LoadImageFromFile', **LOADERS[loader])
    loaded = LoadImageFromFile(**LOADERS[loader])(dict(img_path=str(tmp_path / '0.jpg')))['img_shape']
    if orientation in (6, 8):
        assert loaded == ((48, 64) if loader in ('cv2 as stored', 'cv2 unchanged', 'pillow unchanged') else (64, 48))
    errors = check_config(tmp_path, given, pipeline=[step], metainfo=CLASSES).errors
    if loaded == stated:
        assert errors == []
    else:
        (found,) = errors
        assert '1 images that are loaded with another size than the file says' in found
        assert found.endswith(
            f'0.jpg is {loaded[0]} high and {loaded[1]} wide, the file says {stated[0]} and {stated[1]}'
        )


def test_an_image_that_cannot_be_opened_is_left_to_mmdet(tmp_path):
    given = content(annotations=[], images=[dict(id=0, file_name='0.png', height=48, width=64)])
    assert check_config(tmp_path, given, pipeline=[dict(type='LoadImageFromFile')], metainfo=CLASSES).errors == []


LOADS = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]


def config_of(folder, train=None, val=None, metric='CocoMetric', **changes):
    """A config whose splits read the files given; ``changes`` are merged into it."""
    check(folder, content())
    for split, given in (('train', train), ('val', val)):
        (folder / f'{split}.json').write_text(json.dumps(given or content()))
    cfg = {
        f'{split}_dataloader': dict(
            dataset=dict(
                type='CocoDataset',
                data_root=str(folder),
                ann_file=f'{split}.json',
                data_prefix=dict(img=''),
                metainfo=CLASSES,
                pipeline=LOADS,
            )
        )
        for split in ('train', 'val')
    }
    cfg['val_evaluator'] = dict(type=metric, ann_file=str(folder / 'val.json'), metric=['bbox', 'segm'])
    cfg = Config(cfg)
    cfg.merge_from_dict(changes)
    return cfg


def objects(**values):
    """Valid content whose objects all have other values, with ids from 1."""
    changed = content()
    for number, item in enumerate(changed['annotations'], 1):
        item.update({'iscrowd': 0, 'segmentation': [[10, 10, 20, 10, 20, 20, 10, 20]], **values, 'id': number})
    return changed


GOOD = objects()
RLE = dict(size=[48, 64], counts=[490, *[10, 38] * 9, 10, 48 * 64 - 490 - 48 * 9 - 10])
LEFT_CASES = {
    'crowds': (objects(iscrowd=1), {}, '4 with iscrowd=1'),
    'no area': (objects(area=0), {}, '4 smaller than one pixel'),
    'run lengths': (
        objects(segmentation=RLE),
        {'train_dataloader.dataset.pipeline.1.poly2mask': False},
        '4 with a run-length mask, which LoadAnnotations leaves out with poly2mask=False',
    ),
    'small images': (
        GOOD,
        {'train_dataloader.dataset.filter_cfg': dict(min_size=49)},
        '4 in images below filter_cfg.min_size',
    ),
    'points': (objects(segmentation=[[1, 2]]), {}, '4 without a polygon of 3 points or more'),
    'ignored': (objects(ignore=1), {}, '4 with "ignore"'),
}


@pytest.mark.parametrize('case', LEFT_CASES)
def test_nothing_left_to_train_on_is_an_error(case, tmp_path):
    train, changes, reason = LEFT_CASES[case]
    cfg = config_of(tmp_path, train, GOOD, **changes)
    with pytest.raises(UserError, match=f'^train_dataloader: none of 4 objects is left to train on: {reason}'):
        checks.check_data(cfg, ('train', 'val'))
    # What another part of the training data has is enough.
    part = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[part, dict(part, ann_file='val.json', filter_cfg=None, pipeline=LOADS)]
    )
    checks.check_data(cfg, ('train', 'val'))


def test_hardly_anything_left_is_a_warning(tmp_path, capsys):
    train = objects(iscrowd=1)
    train['annotations'][0]['iscrowd'] = 0
    checks.check_data(config_of(tmp_path, train, GOOD), ('train', 'val'))
    assert capsys.readouterr().err == (
        'warning: train_dataloader: 1 of 4 objects are left to train on: 3 with iscrowd=1\n'
    )


def test_crowds_and_run_lengths_are_no_news_where_they_are_usual(tmp_path, capsys):
    train = objects(segmentation=RLE)
    train['annotations'][0] = dict(train['annotations'][0], iscrowd=1)
    checks.check_data(config_of(tmp_path, train, GOOD), ('train', 'val'))
    train = objects()
    train['annotations'][0].update(iscrowd=1, segmentation=RLE)
    checks.check_data(
        config_of(tmp_path, train, GOOD, **{'train_dataloader.dataset.pipeline.1.poly2mask': False}), ('train', 'val')
    )
    assert capsys.readouterr().err == ''


def test_all_splits_have_the_same_classes(tmp_path, capsys):
    val = dict(GOOD, categories=list(reversed(GOOD['categories'])))
    with pytest.raises(UserError, match="val.json: category 'dog' would get label 0.*Sort the categories of the file"):
        checks.check_data(config_of(tmp_path, GOOD, val), ('train', 'val'))
    # What the message of the file alone might suggest.
    swapped = {'val_dataloader.dataset.metainfo': dict(classes=('dog', 'cat'))}
    cfg = config_of(tmp_path, GOOD, val, **swapped)
    with pytest.raises(UserError, match="val_dataloader has other classes than train_dataloader .'dog' is another"):
        checks.check_data(cfg, ('train', 'val'))
    checks.check_data(cfg, ('val',), ('dog', 'cat'))
    with pytest.raises(UserError, match="val_dataloader has other classes than the checkpoint .'dog' is another"):
        checks.check_data(cfg, ('val',), ('cat', 'dog'))
    with pytest.raises(UserError, match='val_dataloader has other classes than the checkpoint .2 instead of 1.'):
        checks.check_data(cfg, ('val',), ('dog',))
    assert capsys.readouterr().err == ''
    checks.check_data(cfg, ('val',), ('hound', 'cat'))
    assert 'has other names of classes than the checkpoint' in capsys.readouterr().err


def test_a_metric_needs_a_category_for_each_class(tmp_path):
    val = dict(objects(category_id=1), categories=GOOD['categories'][:1])
    with pytest.raises(UserError, match='1 classes of the config that are not among its categories: a prediction.*dog'):
        checks.check_data(config_of(tmp_path, GOOD, val), ('train', 'val'))


def test_a_metric_reads_the_images_that_it_gets_predictions_for(tmp_path, capsys):
    cfg = config_of(tmp_path, GOOD, GOOD)
    other = dict(GOOD, images=[dict(image, file_name=f'x{image["file_name"]}') for image in GOOD['images']])
    (tmp_path / 'other.json').write_text(json.dumps(other))
    cfg.val_evaluator.ann_file = str(tmp_path / 'other.json')
    with pytest.raises(UserError, match='val_evaluator: 2 of the 2 images of val_dataloader are not in .*other.json'):
        checks.check_data(cfg, ('train', 'val'))
    more = dict(GOOD, images=[*GOOD['images'], dict(GOOD['images'][0], id=7)])
    (tmp_path / 'other.json').write_text(json.dumps(more))
    checks.check_data(cfg, ('val',))
    assert (
        'has 3 images and val_dataloader gives 2: the objects of the others count as never' in capsys.readouterr().err
    )
    cfg = config_of(tmp_path, GOOD, GOOD, **{'val_dataloader.dataset.indices': 1})
    checks.check_data(cfg, ('val',))
    assert 'has 2 images and val_dataloader gives 1' in capsys.readouterr().err
    # The same file under another name.
    (tmp_path / 'link.json').symlink_to('val.json')
    cfg = config_of(tmp_path, GOOD, GOOD, **{'val_evaluator.ann_file': str(tmp_path / 'link.json')})
    checks.check_data(cfg, ('val',))
    assert capsys.readouterr().err == ''


def without(key):
    changed = objects()
    del changed['annotations'][0][key]
    return changed


def with_ids(images=int, categories=int, numbers=int):
    changed = objects()
    for image in changed['images']:
        image['id'] = images(image['id'])
    for category in changed['categories']:
        category['id'] = categories(category['id'])
    for item in changed['annotations']:
        item.update(
            id=numbers(item['id']), image_id=images(item['image_id']), category_id=categories(item['category_id'])
        )
    return changed


SQUARE = GOOD['annotations'][0]['segmentation']
# Content of val.json -> what is said with CocoMetric, and with CocoBoundaryMetric; None for nothing.
EVALUATION_CASES = {
    'no iscrowd': (without('iscrowd'), '1 objects without iscrowd, which pycocotools fails on', None),
    'iscrowd of null': (objects(iscrowd=None), '4 objects whose iscrowd is null', '4 objects whose iscrowd is null'),
    'iscrowd as text': (objects(iscrowd='0'), '4 objects whose iscrowd is not 0 or 1', 'iscrowd is not 0 or 1'),
    'a point first': (objects(segmentation=[[1, 2], *SQUARE]), '4 objects whose first polygon has fewer than 3', None),
    'an empty polygon': (
        objects(segmentation=[[]]),
        '4 objects whose first polygon has fewer',
        'without a polygon of 3',
    ),
    'a point last': (objects(segmentation=[*SQUARE, [1, 2]]), None, None),
    'image ids as text': (with_ids(images=str), None, '2 images whose id is not a whole number'),
    'image ids as names': (with_ids(images='im{}'.format), None, '2 images whose id is not a whole number'),
    'halves': (with_ids(images=lambda i: i + 0.5), None, '2 images whose id is not a whole number'),
    'whole floats': (with_ids(float, float, float), None, None),
    'category ids as text': (with_ids(categories=str), None, '2 categories whose id is not a whole number'),
    'object ids as names': (with_ids(numbers='a{}'.format), '4 objects whose id is not a number', None),
    'object ids from 0': (with_ids(numbers=lambda i: i - 1), 'with an id that pycocotools takes for "no match"', None),
    'good': (GOOD, None, None),
    'no object': (dict(GOOD, annotations=[]), 'has no objects to evaluate with', 'has no objects to evaluate with'),
}


@pytest.mark.parametrize('metric', ['CocoMetric', 'CocoBoundaryMetric'])
@pytest.mark.parametrize('case', EVALUATION_CASES)
def test_what_a_metric_fails_on_or_counts_wrongly(case, metric, tmp_path, capsys):
    val, *messages = EVALUATION_CASES[case]
    message = messages[metric == 'CocoBoundaryMetric']
    try:
        checks.check_data(config_of(tmp_path, GOOD, val, metric), ('train', 'val'))
        said = capsys.readouterr().err
    except UserError as error:
        said = f'{error}'
    assert re.search(message, said) if message else said == '', said


def test_a_file_that_is_only_trained_on_need_not_suit_a_metric(tmp_path, capsys):
    for case in ('no iscrowd', 'iscrowd of null', 'a point first', 'image ids as names', 'object ids from 0'):
        checks.check_data(config_of(tmp_path, EVALUATION_CASES[case][0], GOOD), ('train', 'val'))
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'train_dataloader.dataset.ann_file': ['a', 'b']}, r"^train_dataloader: ann_file must be one path, got \['a'"),
        ({'val_evaluator.ann_file': ['a', 'b']}, '^val_evaluator: ann_file must be one path, got'),
        ({'train_dataloader.dataset.data_root': ['a']}, '^train_dataloader: data_root must be one path, got'),
        ({'train_dataloader.dataset.data_prefix': ['a']}, '^train_dataloader: data_prefix must be a dict of folders'),
    ],
)
def test_paths_that_are_none(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        checks.check_data(config_of(tmp_path, GOOD, GOOD, **changes), ('train', 'val'))
