"""Each config differs from its mmdet twin in nothing but the mask head; files, metafile and README are in step."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.utils import get_installed_path

from mmdet_edge import EdgeAgreementMaskHead, EdgeLoss, EdgeWeightedCrossEntropyLoss

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / 'configs' / 'mask_rcnn_edge'
MMDET = Path(get_installed_path('mmdet')) / '.mim' / 'configs' / 'mask_rcnn'
# The twins of mmdet's configs, and those whose baseline is a config of our own too.
COCO = sorted(p.stem for p in FOLDER.glob('*_coco*.py') if 'staged' not in p.stem)
OWN = sorted(p.stem for p in FOLDER.glob('*_fpn_edge_*.py') if '_coco' not in p.stem or 'staged' in p.stem)
SURVEY = {
    'edge': dict(exponent=1.5, loss_weight=3),
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


def twin(name):
    """The name without our token: the neck field precedes it (with C4, which has no neck, the backbone)."""
    match = re.fullmatch(r'(mask-rcnn_(?:[^_]+-c4|[^_]+_fpn))_edge(?:-[a-z0-9-]+)?(_.+)', name)
    assert match, f'{name} breaks the grammar'
    return match[1] + match[2]


def without_edge(cfg):
    """A config as its twin would have it."""
    cfg = cfg.to_dict()
    assert cfg.pop('custom_imports') == dict(imports=['mmdet_edge'], allow_failed_imports=False)
    head = cfg['model']['roi_head']['mask_head']
    assert head.pop('type') == 'EdgeAgreementMaskHead'
    head.pop('loss_edge', None)
    head['type'] = 'FCNMaskHead'
    return cfg


def test_every_mmdet_config_has_its_twin():
    ours = {twin(name) for name in COCO if '_edge_' in name}
    theirs = {p.stem for p in MMDET.glob('*.py') if 'wandb' not in p.stem}
    assert ours == theirs and len(ours) == 29
    assert {name.split('_')[3] for name in COCO if '_edge-' in name} == set(SURVEY) - {'edge'}


@pytest.mark.parametrize('name', COCO)
def test_differs_from_mmdet_in_the_mask_head_only(name):
    cfg = Config.fromfile(FOLDER / f'{name}.py')
    expected = Config.fromfile(MMDET / f'{twin(name)}.py').to_dict()
    changed = without_edge(cfg)
    for key in ('model', 'train_dataloader'):
        assert _unscoped(changed[key]) == _unscoped(expected[key])
    assert _unscoped(changed) == _unscoped(expected)
    head = MODELS.build(cfg.model.roi_head.mask_head)
    assert type(head) is EdgeAgreementMaskHead
    token = next(field for field in name.split('_') if field.startswith('edge'))
    loss_class = EdgeWeightedCrossEntropyLoss if token == 'edge-weighted-ce' else EdgeLoss
    assert type(head.loss_edge) is loss_class
    for option, value in {**PAPER, **SURVEY.get(token, {})}.items():
        assert getattr(head.loss_edge, option) == value


def _unscoped(value):
    """Drop the `_scope_` that mmengine notes in dicts from another package's config."""
    if isinstance(value, dict):
        return {k: _unscoped(v) for k, v in value.items() if k != '_scope_'}
    return [_unscoped(v) for v in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize('name', OWN)
def test_own_pairs_differ_in_the_mask_head_only(name):
    baseline = FOLDER / f'{twin(name)}.py'
    expected = Config.fromfile(baseline).to_dict()
    del expected['custom_imports']
    assert without_edge(Config.fromfile(FOLDER / f'{name}.py')) == expected


@pytest.mark.parametrize('name', [*COCO, *OWN])
def test_states_nothing_but_the_mask_head(name):
    statements = ast.parse((FOLDER / f'{name}.py').read_text()).body
    names = [s.targets[0].id for s in statements]
    # Ours inherit the import from their baseline.
    assert names == (['_base_', 'custom_imports', 'model'] if name in COCO else ['_base_', 'model'])
    model = ast.literal_eval(_dicts(statements[-1].value))
    assert set(model) == {'roi_head'} and set(model['roi_head']) == {'mask_head'}
    assert set(model['roi_head']['mask_head']) <= {'type', 'loss_edge'}


def _dicts(node):
    """Turn dict(...) calls into dict displays."""

    class Transformer(ast.NodeTransformer):
        def visit_Call(self, call):
            self.generic_visit(call)
            keys = [ast.Constant(k.arg) for k in call.keywords]
            return ast.Dict(keys=keys, values=[k.value for k in call.keywords])

    return ast.fix_missing_locations(Transformer().visit(node))


def test_no_imports_in_configs():
    for path in (ROOT / 'configs').rglob('*.py'):
        assert not [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, (ast.Import, ast.ImportFrom))]


def test_basenames_are_unique():
    # mim finds a config by its basename, below configs/_base_ too.
    names = Counter(p.name for p in (ROOT / 'configs').rglob('*.py'))
    assert [name for name, count in names.items() if count > 1] == []


def test_metafile_is_in_step():
    metafile = yaml.safe_load((FOLDER / 'metafile.yml').read_text())
    collections = {c['Name'] for c in metafile['Collections']}
    models = metafile['Models']
    files = {p.stem for p in FOLDER.glob('*.py') if '_edge' in p.stem}
    assert {m['Name'] for m in models} == files and len(models) == len(files)
    for model in models:
        assert model['Config'] == f'configs/mask_rcnn_edge/{model["Name"]}.py'
        assert model['In Collection'] in collections
        # A result needs a checkpoint to check it with; none is published yet.
        assert 'Results' not in model and 'Weights' not in model
    for collection in metafile['Collections']:
        assert (ROOT / collection['README']).is_file()
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert index['Import'] == [str(p.relative_to(ROOT)) for p in sorted(ROOT.glob('configs/*/metafile.yml'))]


def test_readme_is_in_step():
    readme = (FOLDER / 'README.md').read_text()
    linked = re.findall(r'\]\(\./([^)]+)\.py\)', readme)
    assert sorted(linked) == sorted(p.stem for p in FOLDER.glob('*.py'))
