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

from ..test_reliability.conftest import CONFIGS, EDGE
from .test_annotations import check, content

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
    """Check a data set of a config: what stands in the file, and settings of the config."""
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


@pytest.mark.parametrize('name', ['nuclei', 'coco_tiny'])
def test_real_data_pass_without_a_word(name, real_data, capsys):
    config = {'nuclei': 'r18_fpn_edge_1xb4-300i_nuclei', 'coco_tiny': 'r50_fpn_edge_1x_coco'}[name]
    cfg = load(CONFIGS / f'mask-rcnn_{config}.py', data_root=str(real_data / name))
    checks.check_data(cfg, ('train', 'val', 'test'))
    assert capsys.readouterr().err == ''


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
