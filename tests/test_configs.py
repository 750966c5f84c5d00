"""Each config differs from mmdet's in nothing but the mask head; metafiles and READMEs list all of them."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.utils import get_installed_path

from mmdet_edge import EdgeLoss, EdgeWeightedCrossEntropyLoss, apply_edge_agreement
from mmdet_edge.preflight.parts import check_parts

ROOT = Path(__file__).parents[1]
MMDET = Path(get_installed_path('mmdet')) / '.mim' / 'configs'
# Folder -> pattern of mmdet's configs that have a counterpart here, and how many there are.
FOLDERS = {
    'mask_rcnn_edge': ('*', 29),
    'cascade_rcnn_edge': ('cascade-mask-rcnn_*', 17),
    'htc_edge': ('*', 7),
    'ms_rcnn_edge': ('*', 8),
    'scnet_edge': ('*', 5),
    'swin_edge': ('mask-rcnn_*', 4),
    'convnext_edge': ('*', 3),
    'lvis_edge': ('*', 8),
    'condinst_edge': ('*', 1),
}
PLAIN = {
    'EdgeAgreementMaskHead': 'FCNMaskHead',
    'EdgeAgreementHTCMaskHead': 'HTCMaskHead',
    'EdgeAgreementSCNetMaskHead': 'SCNetMaskHead',
}


def configs(pattern):
    return [str(p.relative_to(ROOT / 'configs')) for p in sorted(ROOT.glob(f'configs/*_edge/{pattern}.py'))]


# Configs whose counterpart is one of mmdet's, and those whose baseline is a config of ours.
_LARGE = [name for name in configs('*_edge*') if re.search('_(coco|lvis)', name) and 'staged' not in name]
WITHOUT_ROIS = [name for name in _LARGE if name.startswith('condinst')]
COUNTERPARTS = [name for name in _LARGE if name not in WITHOUT_ROIS]
OWN = [name for name in configs('*_fpn_edge*') if name not in _LARGE]
ABLATION = {
    'edge': dict(exponent=2, loss_weight=3),
    'edge-paper': dict(),
    'edge-laplacian': dict(filters=('laplacian',)),
    'edge-sobel-laplacian': dict(filters=('sobel', 'laplacian')),
    'edge-prewitt': dict(filters=('prewitt',)),
    'edge-kayyali': dict(filters=('kayyali',)),
    'edge-roberts': dict(filters=('roberts',)),
    'edge-l1': dict(exponent=1),
    'edge-l3': dict(exponent=3),
    'edge-l4': dict(exponent=4),
    'edge-l5': dict(exponent=5),
    'edge-smooth-target': dict(smooth_target=True),
    'edge-smooth-both': dict(smooth_pred=True, smooth_target=True),
    'edge-weighted-ce': dict(temperature=16),
}
PAPER = dict(
    filters=('sobel',),
    exponent=2,
    smooth_pred=False,
    smooth_target=False,
    padding_mode='zeros',
    loss_weight=1,
)


def counterpart(name):
    """The counterpart's name, without the token edge; the neck precedes it (for C4, without a neck, the backbone)."""
    folder, stem = Path(name).parent.name, Path(name).stem
    match = re.fullmatch(r'([a-z-]+_(?:[^_]+-c4|[^_]+_fpn))_edge(?:-[a-z0-9-]+)?(_.+)', stem)
    assert match, f'{name} breaks the grammar'
    return f'{folder.removesuffix("_edge")}/{match[1]}{match[2]}.py'


def token(name):
    return next(field for field in Path(name).stem.split('_') if field.startswith('edge'))


def without_edge(cfg):
    """A config without the edge loss and without imports, to compare with its counterpart config."""
    cfg = cfg.to_dict()
    cfg.pop('custom_imports', None)
    roi_head = cfg['model']['roi_head']
    heads = roi_head['mask_head'] if isinstance(roi_head['mask_head'], list) else [roi_head['mask_head']]
    for head in heads:
        head['type'] = PLAIN.get(head['type'], head['type'])
        head.pop('loss_edge', None)
        head.pop('feature_grad_scale', None)
    return cfg


@pytest.mark.parametrize('folder', FOLDERS)
def test_every_mmdet_config_has_a_counterpart(folder):
    pattern, count = FOLDERS[folder]
    ours = {counterpart(name) for name in [*COUNTERPARTS, *WITHOUT_ROIS] if name.startswith(folder)}
    theirs = MMDET.glob(f'{folder.removesuffix("_edge")}/{pattern}.py')
    assert ours == {str(p.relative_to(MMDET)) for p in theirs if 'wandb' not in p.stem} and len(ours) == count


def test_the_ablation_is_complete():
    assert {token(name) for name in COUNTERPARTS} == set(ABLATION)
    assert set(FOLDERS) == {p.parent.name for p in ROOT.glob('configs/*/metafile.yml')}


@pytest.mark.parametrize('name', COUNTERPARTS)
def test_differs_from_mmdet_in_the_mask_head_only(name, read_config):
    cfg, plain = read_config(ROOT / 'configs' / name), read_config(MMDET / counterpart(name))
    # A child's list replaces its parent's.
    imports = [*plain.pop('custom_imports', dict(imports=[]))['imports'], 'mmdet_edge']
    assert cfg.custom_imports == dict(imports=imports, allow_failed_imports=False)
    changed, expected = without_edge(cfg), plain.to_dict()
    for key in ('model', 'train_dataloader'):
        assert _unscoped(changed[key]) == _unscoped(expected[key])
    assert _unscoped(changed) == _unscoped(expected)
    given = cfg.model.roi_head.mask_head
    for head_cfg in given if isinstance(given, list) else [given]:
        assert head_cfg.type in PLAIN
        head = MODELS.build({**head_cfg, 'num_convs': 1})
        assert type(head).__name__ == head_cfg.type
        loss_class = EdgeWeightedCrossEntropyLoss if token(name) == 'edge-weighted-ce' else EdgeLoss
        assert type(head.loss_edge) is loss_class
        for option, value in {**PAPER, **ABLATION[token(name)]}.items():
            assert getattr(head.loss_edge, option) == value
        # The authors' variants train the shared layers as they did.
        assert head.feature_grad_scale == (0.25 if token(name) == 'edge' else 1)


@pytest.mark.parametrize('name', WITHOUT_ROIS)
def test_without_rois_is_what_the_switch_makes(name, read_config):
    expected = read_config(MMDET / counterpart(name))
    apply_edge_agreement(expected)
    assert _unscoped(read_config(ROOT / 'configs' / name).to_dict()) == _unscoped(expected.to_dict())


def _unscoped(value):
    """Drop the `_scope_` that mmengine notes in dicts from another package's config."""
    if isinstance(value, dict):
        return {k: _unscoped(v) for k, v in value.items() if k != '_scope_'}
    return [_unscoped(v) for v in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize('name', OWN)
def test_own_pairs_differ_in_the_mask_head_only(name, read_config):
    folder = Path(name).parent
    cfg = read_config(ROOT / 'configs' / name)
    baseline = read_config(ROOT / 'configs' / folder / Path(counterpart(name)).name)
    assert cfg.custom_imports == baseline.custom_imports == dict(imports=['mmdet_edge'], allow_failed_imports=False)
    heads = cfg.model.roi_head.mask_head
    if token(name) == 'edge-last':
        assert [head.type for head in heads] == ['FCNMaskHead', 'FCNMaskHead', 'EdgeAgreementMaskHead']
        assert without_edge(Config(dict(model=dict(roi_head=dict(mask_head=heads))))) == dict(
            model=dict(roi_head=dict(mask_head=[baseline.to_dict()['model']['roi_head']['mask_head']] * 3))
        )
        cfg.model.roi_head.mask_head = heads[-1]
    assert cfg.model.roi_head.mask_head.type == 'EdgeAgreementMaskHead'
    assert without_edge(cfg) == without_edge(baseline)


@pytest.mark.parametrize('name', ['edge_staged', 'staged'])
def test_the_staged_schedule(name, read_config):
    cfg = read_config(ROOT / 'configs' / 'mask_rcnn_edge' / f'mask-rcnn_r101_fpn_{name}-160k_coco.py')
    assert (cfg.train_cfg.type, cfg.train_cfg.max_iters) == ('IterBasedTrainLoop', 160000)
    assert 'max_epochs' not in cfg.train_cfg
    assert cfg.optim_wrapper.optimizer.lr == 0.001 and cfg.optim_wrapper.clip_grad == dict(max_norm=5)
    # No warm-up beside it.
    assert cfg.param_scheduler == [dict(type='MultiStepLR', by_epoch=False, milestones=[120000], gamma=0.1)]
    # --auto-scale-lr on one GPU leaves the rate alone.
    assert cfg.auto_scale_lr.base_batch_size == cfg.train_dataloader.batch_size == 2
    assert cfg.train_dataloader.sampler.type == 'InfiniteSampler'
    (resize,) = (step for step in cfg.train_dataloader.dataset.pipeline if step.type == 'Resize')
    assert resize.scale == (1024, 800) and cfg.model.data_preprocessor.pad_size_divisor == 1024
    (hook,) = cfg.custom_hooks
    assert hook.unfreeze_at == {'backbone': 120000, 'backbone.layer3': 40000, 'backbone.layer4': 40000}


@pytest.mark.parametrize('name', [*COUNTERPARTS, *OWN])
def test_states_nothing_but_the_mask_head(name):
    statements = ast.parse((ROOT / 'configs' / name).read_text()).body
    names = [s.targets[0].id for s in statements]
    # Ours inherit the import from their baseline.
    assert names == (['_base_', 'custom_imports', 'model'] if name in COUNTERPARTS else ['_base_', 'model'])
    (roi_head,) = statements[-1].value.keywords
    (mask_head,) = roi_head.value.keywords
    assert (roi_head.arg, mask_head.arg) == ('roi_head', 'mask_head')
    stated = {key.arg for call in ast.walk(mask_head.value) if _is_head(call) for key in call.keywords}
    assert 'type' in stated and stated <= {'type', 'loss_edge', 'feature_grad_scale'}


def _is_head(node):
    return isinstance(node, ast.Call) and any('MaskHead' in ast.dump(k.value) for k in node.keywords if k.arg == 'type')


# One of each folder, and what is wrong with it.
THEIRS = sorted(
    {path.parent.name: path for path in sorted(MMDET.glob('*/*.py')) if path.parent.name[0] != '_'}.values()
)
THEIR_MISTAKES = r'is not installed|pip install|MOTChallengeMetrics is not|CocoMetric has no option .eval_mode'


@pytest.mark.parametrize(
    'path', [*THEIRS, *(ROOT / 'configs' / name for name in [*COUNTERPARTS, *WITHOUT_ROIS, *OWN])], ids=lambda p: p.stem
)
def test_no_part_is_taken_for_misspelt(path, read_config):
    try:
        cfg = read_config(path)
    except (FileNotFoundError, ModuleNotFoundError) as error:
        pytest.skip(f'{path.name} cannot be read: {error}')
    try:
        check_parts(cfg, ('train', 'val', 'test'))
    except ValueError as error:
        assert re.search(THEIR_MISTAKES, f'{error}')


def test_no_imports_in_configs():
    for path in (ROOT / 'configs').rglob('*.py'):
        assert not [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, (ast.Import, ast.ImportFrom))]


def test_basenames_are_unique():
    # mim finds a config by its basename, below configs/_base_ too.
    names = Counter(p.name for p in (ROOT / 'configs').rglob('*.py'))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize('folder', FOLDERS)
def test_metafile_is_in_step(folder):
    models = yaml.safe_load((ROOT / 'configs' / folder / 'metafile.yml').read_text())['Models']
    files = {p.stem for p in (ROOT / 'configs' / folder).glob('*.py') if '_edge' in p.stem}
    assert {m['Name'] for m in models} == files and len(models) == len(files)
    for model in models:
        assert model['Config'] == f'configs/{folder}/{model["Name"]}.py'
        # Defined in the metafile of mask_rcnn_edge, for all.
        assert model['In Collection'] == 'Edge Agreement Head'
        # A result needs a checkpoint to check it with; none is published yet.
        assert 'Results' not in model and 'Weights' not in model


def test_model_index_is_in_step():
    (collection,) = yaml.safe_load((ROOT / 'configs' / 'mask_rcnn_edge' / 'metafile.yml').read_text())['Collections']
    assert collection['Name'] == 'Edge Agreement Head' and (ROOT / collection['README']).is_file()
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert index['Import'] == [str(p.relative_to(ROOT)) for p in sorted(ROOT.glob('configs/*/metafile.yml'))]


@pytest.mark.parametrize('folder', FOLDERS)
def test_readme_is_in_step(folder):
    readme = (ROOT / 'configs' / folder / 'README.md').read_text()
    linked = re.findall(r'\]\(\./([^)]+)\.py\)', readme)
    assert sorted(linked) == sorted(p.stem for p in (ROOT / 'configs' / folder).glob('*.py'))
