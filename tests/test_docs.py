"""What the documentation names exists, its configs are configs, and its language is that of the glossary."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdet_edge import EdgeLoss

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
def test_a_python_snippet_parses_and_a_config_has_an_edge_loss(code, tmp_path):
    if '_base_' not in code:
        ast.parse(code)
        return
    (tmp_path / 'config.py').write_text(code)
    cfg = Config.fromfile(tmp_path / 'config.py')
    init_default_scope('mmdet')
    heads = cfg.model.get('roi_head', cfg.model).mask_head
    heads = heads if isinstance(heads, list) else [heads]
    assert any(isinstance(part, EdgeLoss) for head in heads for part in MODELS.build(head).modules())


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_what_a_page_names_exists(page):
    text = page.read_text()
    for link in re.findall(r'\]\((?!https?:)([^)#]*)(#[^)]*)?\)', text):
        target = (page.parent / link[0]).resolve() if link[0] else page
        assert target.exists(), link
        if link[1]:
            titles = re.findall(r'^#+ (.*)$', target.read_text(), re.MULTILINE)
            assert link[1][1:] in {re.sub(r'[^\w -]', '', t.lower()).replace(' ', '-') for t in titles}, link
    folders = 'benchmarks|configs|demo|docs|mmdet_edge|projects|tests|tools'
    for name in re.findall(rf'(?<![\w/])(?:{folders})/[\w./-]+\.\w+', text):
        assert (ROOT / name).exists() or (page.parent / name).exists(), name
    for name in re.findall(r"get_config_path\('(.*?)'\)", text):
        assert (ROOT / 'configs' / name).is_file(), name
    for name in re.findall(r'[\w-]+_edge[\w-]*\.py', text):
        assert list(ROOT.rglob(name)), name


def test_the_readme_is_at_most_150_lines_long():
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 150


@pytest.fixture(scope='module')
def check_words():
    """The module .ci/check_words.py."""
    spec = importlib.util.spec_from_file_location('check_words', ROOT / '.ci' / 'check_words.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_glossary_and_the_check_of_its_words_agree(check_words):
    rows = re.findall(r'^\| (.*?) \| (`.*`) \|$', (ROOT / 'CONTRIBUTING.md').read_text(), re.MULTILINE)
    retired = [word for _, words in rows for word in re.findall('`(.*?)`', words)]
    assert len(rows) >= 20
    assert [word for word in retired if not list(check_words.find_retired(word))] == []
    # And none of the words to write instead.
    assert [write for write, _ in rows if list(check_words.find_retired(write))] == []


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('a run\nof 20 steps', [(2, '20 steps', 'iterations')]),
        ('# with true\n    # boxes', [(1, 'true # boxes', 'ground-truth boxes')]),
        ('a training run of 20 iterations with a stand-in', []),
    ],
)
def test_a_retired_word_is_found_with_its_line_also_where_a_line_ends_inside_it(text, expected, check_words):
    assert list(check_words.find_retired(text)) == expected


def test_the_pages_of_the_site_are_in_its_table_of_contents():
    listed = re.findall(r'^(?:\.\./)?([\w/]+)$', (ROOT / 'docs' / 'index.md').read_text(), re.MULTILINE)
    pages = [p.stem for p in (ROOT / 'docs').glob('*.md') if p.stem != 'index']
    assert [page for page in pages if page not in listed] == []
