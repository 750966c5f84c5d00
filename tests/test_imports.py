"""Imports go one way."""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest

from .conftest import ROOT

# Each room may import the ones before it; the package's own __init__ imports from any.
ROOMS = (
    *('version', 'errors', 'paths', 'compat', 'models', 'datasets', 'evaluation'),
    *('config', 'preflight', 'engine', 'deployment', 'analysis'),
)
NOT_EVEN = {
    'models': {'version', 'errors', 'paths', 'compat'},
    'config': {'models', 'datasets', 'evaluation'},
    'deployment': {'engine'},
}
"""What some rooms may not import, although it comes before them."""


def find_modules(*folders):
    """Return the files of all modules, by name."""
    files = [file for folder in folders for file in (ROOT / folder).rglob('*.py')]
    names = [file.relative_to(ROOT).with_suffix('').parts for file in files]
    return {'.'.join(n[:-1] if n[-1] == '__init__' else n): file for n, file in zip(names, files)}


def find_imports(modules):
    """Return the names of the modules that each module imports, anywhere in its file."""
    imports = {}
    for name, file in modules.items():
        package = name if file.name == '__init__.py' else name.rpartition('.')[0]
        found = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                parts = package.split('.')[: 1 - node.level or None] if node.level else []
                base = '.'.join([*parts, *filter(None, [node.module])])
                submodules = {f'{base}.{alias.name}' for alias in node.names} & modules.keys()
                found |= submodules or {base}
        imports[name] = found
    return imports


PACKAGE = find_imports(find_modules('mmdet_edge'))
EVERYTHING = find_imports(find_modules('mmdet_edge', 'benchmarks', 'tools'))


def room_of(name):
    return name.split('.')[1] if '.' in name else name


def test_the_rooms_are_those_of_the_package():
    assert {room_of(name) for name in PACKAGE} == {'mmdet_edge', *ROOMS}


@pytest.mark.parametrize('room', ROOMS)
def test_a_room_imports_only_rooms_before_it(room):
    allowed = {*ROOMS[: ROOMS.index(room) + 1]} - NOT_EVEN.get(room, set())
    arrows = [
        f'{name} imports {target}'
        for name, targets in PACKAGE.items()
        for target in targets
        if room_of(name) == room and target.split('.')[0] == 'mmdet_edge' and room_of(target) not in allowed
    ]
    assert not arrows


def test_the_package_imports_neither_benchmarks_nor_tools():
    assert not [n for n, targets in PACKAGE.items() if {t.split('.')[0] for t in targets} & {'benchmarks', 'tools'}]


def test_tools_do_not_import_benchmarks():
    tools = {name: targets for name, targets in EVERYTHING.items() if name.startswith('tools.')}
    assert tools and not [n for n, targets in tools.items() if any(t.startswith('benchmarks') for t in targets)]


def test_no_module_imports_itself_through_others():
    try:
        TopologicalSorter(EVERYTHING).prepare()
    except CycleError as error:
        pytest.fail(f'circle of imports: {" <- ".join(error.args[1])}')


def test_every_module_that_is_imported_exists():
    known = find_modules('mmdet_edge', 'benchmarks', 'tools').keys()
    targets = {target for targets in EVERYTHING.values() for target in targets}
    assert not {target for target in targets if target.split('.')[0] in ('mmdet_edge', 'benchmarks')} - known


def test_imports_are_found():
    losses = EVERYTHING['mmdet_edge.models.losses']
    assert {'mmdet_edge.models.losses.edge_loss', 'mmdet_edge.models.losses.sum_mask_loss'} <= losses
    assert 'mmdet_edge.models.option_checks' in EVERYTHING['mmdet_edge.engine.hooks.edge_visualization_hook']
    assert 'mmdet_edge.models.losses' in EVERYTHING['mmdet_edge.models.mask_heads.edge_agreement_mixin']
