"""What the documentation names exists, and its configs are configs."""

import ast
import re
from pathlib import Path

import pytest
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdet_edge.models.mask_heads.edge_agreement_mixin import EdgeAgreementMixin

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob('*.md'), *(p for folder in ('configs', 'docs', 'projects') for p in (ROOT / folder).rglob('*.md'))]
)
SNIPPETS = [
    pytest.param(code, id=f'{page.relative_to(ROOT)}:{number}')
    for page in PAGES
    for number, code in enumerate(re.findall(r'```python\n(.*?)```', page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize('code', SNIPPETS)
def test_python_snippets(code, tmp_path):
    if '_base_' not in code:
        ast.parse(code)
        return
    (tmp_path / 'config.py').write_text(code)
    cfg = Config.fromfile(tmp_path / 'config.py')
    init_default_scope('mmdet')
    heads = cfg.model.roi_head.mask_head
    heads = heads if isinstance(heads, list) else [heads]
    assert any(isinstance(MODELS.build(head), EdgeAgreementMixin) for head in heads)


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_what_a_page_names_exists(page):
    text = page.read_text()
    for link in re.findall(r'\]\((?!https?:)([^)#]*)(#[^)]*)?\)', text):
        target = (page.parent / link[0]).resolve() if link[0] else page
        assert target.exists(), link
        if link[1]:
            titles = re.findall(r'^#+ (.*)$', target.read_text(), re.MULTILINE)
            assert link[1][1:] in {re.sub(r'[^\w -]', '', t.lower()).replace(' ', '-') for t in titles}, link
    for name in re.findall(r'\b(?:configs|tools|tests|docs|projects|benchmarks)/[\w./-]+\.\w+', text):
        assert (ROOT / name).exists() or (page.parent / name).exists(), name
    for name in re.findall(r"get_config_path\('(.*?)'\)", text):
        assert (ROOT / 'configs' / name).is_file(), name
    for name in re.findall(r'[\w-]+_edge[\w-]*\.py', text):
        assert list(ROOT.rglob(name)), name
