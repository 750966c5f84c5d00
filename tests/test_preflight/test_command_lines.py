"""What users get wrong on a command line or in a config: each case with its message, before anything is written."""

import os
import re

import pytest

from ..test_reliability.conftest import EDGE, ROOT

BOXES_ONLY = "[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]"
MASK_LOSS = dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0)

CONFIG_CASES = {
    # Lines appended to the shapes config -> the expected message.
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
    'hook option': ('default_hooks.checkpoint.typ=x', "checkpoint: AtomicCheckpointHook has no option 'typ'.*'type'"),
    'loader option': ('train_dataloader.batch_szie=2', "train_dataloader: DataLoader has no option 'batch_szie'"),
    'sampler typo': (
        'train_dataloader.sampler.type=InfinitSampler',
        "sampler.type: InfinitSampler .*'InfiniteSampler'",
    ),
    'data option': ('train_dataloader.dataset.filter_cgf.x=1', "CocoDataset has no option 'filter_cgf'.*'filter_cfg'"),
    'classes of mmdet 2': (
        "train_dataloader.dataset.classes=('a','b')",
        "train_dataloader.dataset: CocoDataset has no option 'classes'; since mmdet 3 it is metainfo=dict.classes",
    ),
    'data option of nobody': ('train_dataloader.dataset.speed=9', "dataset: CocoDataset has no option 'speed'$"),
    'loader of mmdet 2': ('train_dataloader.samples_per_gpu=2', "'samples_per_gpu'; since mmdet 3 it is batch_size"),
    'files without a place': ('val_evaluator.format_only=True', 'format_only=True needs outfile_prefix, the path'),
    'half a validation': ('val_cfg=None', 'the config has no val_cfg: the runner takes all of val_dataloader'),
    'learning rate of mmdet 2': ('optimizer.lr=9', 'the config has optimizer, .*: it is optim_wrapper=dict.optimizer'),
    'a list for a section': ('train_cfg=[1]', r'train_cfg must be a dict, got \[1\]$'),
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


# {data}: options for good data; {good}: a good checkpoint; {occupied}: a file; {below}: what would be below it.
COMMANDS = [
    ('train.py {edge} --work-dir {occupied} {data}', 'work dir must be a folder, got the file'),
    ('train.py {edge} --work-dir {below} {data}', 'work dir: .* cannot be made, as .*occupied is a file'),
    ('train.py {folder} {data}', 'config file not found'),
    ('train.py {edge} --work-dir {folder}/run --cfg-options data_root=/nowhere', 'data root not found: /nowhere/'),
    ('train.py {edge} --work-dir {folder}/run --resume no.pth {data}', 'checkpoint not found: no.pth'),
    ('train.py {edge} --work-dir {folder}/run --amp {data}', 'mixed precision needs a GPU'),
    ('train.py {edge} --work-dir {folder}/run --auto-scale-lr {data} auto_scale_lr=None', 'auto_scale_lr'),
    ('test.py {edge} {good} --tta {data}', '--tta: mmdet'),
    ('test.py {edge} {good} --work-dir {occupied} {data}', 'work dir must be a folder'),
    ('test.py {edge} {good} --out {folder}/x.json {data}', 'predictions are written to a pickle file'),
    ('test.py {edge} {good} --out {below}/x.pkl {data}', '--out: .* cannot be made'),
    ('test.py {edge} {folder} {data}', 'checkpoint not found'),
    ('test.py {folder}/no.py {good} {data}', 'config file not found'),
    ('analysis_tools/eval_mask_branch.py {edge} {good} --out {folder} {data}', '--out must be a file, got the folder'),
    ('analysis_tools/eval_mask_branch.py {edge} {folder}/no.pth {data}', 'checkpoint not found'),
    (
        'analysis_tools/compare_predictions.py {edge} {good} {edge} {good} --out {below} {data}',
        '--out: .* cannot be made',
    ),
    (
        'analysis_tools/compare_predictions.py {edge} {good} {edge} {good} --num-images 0 {data}',
        '--num-images must be at least 1',
    ),
    ('analysis_tools/compare_runs.py {folder}/nowhere', 'no such folder'),
    ('analysis_tools/compare_runs.py {folder}', 'is not the work dir of a training run'),
    ('analysis_tools/compare_runs.py ={folder}', 'expected NAME=DIR, got no name'),
    ('analysis_tools/draw_edge_head.py --out {folder}', '--out must be a file, got the folder'),
    ('analysis_tools/draw_edge_head.py --out {below}', '--out: .* cannot be made'),
    ('dataset_converters/make_shapes_dataset.py {folder}/new --size 3', 'size must be at least 64, got 3'),
    ('dataset_converters/make_shapes_dataset.py {folder}/new --num-train 0', 'num_train must be at least 1, got 0'),
    ('dataset_converters/make_shapes_dataset.py {folder}', 'exists and is not the data set asked for'),
    ('dataset_converters/make_shapes_dataset.py {below}', 'Not a directory|File exists'),
]


def test_augmentation_of_several_data_sets(call, shapes, checkpoint, tmp_path):
    text = """model = dict(roi_head=dict(mask_head=None, mask_roi_extractor=None))
part = {{_base_.test_dataloader.dataset}}
test_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=[part, part]))"""
    config = write_config(tmp_path, text)
    call('test.py', config, checkpoint, '--tta', '--check', '--cfg-options', f'data_root={shapes}')


@pytest.mark.parametrize(('command', 'message'), COMMANDS)
def test_a_mistake_on_the_command_line_is_one_line(command, message, error_of, shapes, checkpoint, tmp_path):
    folder = tmp_path / 'place'
    folder.mkdir()
    (folder / 'occupied').write_text('mine')
    words = dict(edge=EDGE, folder=folder, good=checkpoint, data=f'--cfg-options data_root={shapes}')
    words.update(occupied=folder / 'occupied', below=folder / 'occupied' / 'below')
    found = error_of(*command.format(**words).split())
    assert re.search(message, found) and '\n' not in found, found
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
