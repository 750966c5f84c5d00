"""The wheel carries what a user without a checkout needs, the sdist the repository."""

import email
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement

from mmdet_edge import __version__
from mmdet_edge.compat.versions import MINIMUM

from .conftest import ROOT, build_wheel


def content(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


FOR_A_CHECKOUT = {f'tools/{name}' for name in ('compat_matrix.sh', 'install.sh', 'analysis_tools/draw_edge_head.py')}


def test_configs_tools_and_index_are_in_the_wheel(wheel):
    assert wheel.name == f'mmdet_edge-{__version__}-py3-none-any.whl'
    files = content(wheel)
    for folder, patterns in (('configs', ('*.py', '*.yml', '*.md')), ('tools', ('*.py', '*.sh'))):
        expected = {p.relative_to(ROOT).as_posix() for pattern in patterns for p in (ROOT / folder).rglob(pattern)}
        expected -= FOR_A_CHECKOUT
        assert {n[len('mmdet_edge/.mim/') :] for n in files if n.startswith(f'mmdet_edge/.mim/{folder}/')} == expected
    for name in ('.mim/model-index.yml', 'py.typed', '__init__.py'):
        assert f'mmdet_edge/{name}' in files
    assert {n.split('/')[0] for n in files} == {'mmdet_edge', f'mmdet_edge-{__version__}.dist-info'}


@pytest.fixture(scope='module')
def sdist(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp('sdist')
    code = 'import sys, setuptools.build_meta; setuptools.build_meta.build_sdist(sys.argv[1])'
    subprocess.run([sys.executable, '-c', code, folder], cwd=source, check=True, stdout=subprocess.DEVNULL)
    (path,) = folder.glob('*.tar.gz')
    return path


def test_the_sdist_builds_the_same_wheel(sdist, wheel, tmp_path):
    assert content(build_wheel(sdist, tmp_path)) == content(wheel)


def test_the_sdist_holds_each_file_of_the_repository(sdist):
    with tarfile.open(sdist) as archive:
        files = {name.partition('/')[2] for name in archive.getnames()}
    if not (ROOT / '.git').exists():
        pytest.skip('not a checkout')
    command = ['git', 'ls-files', '-co', '--exclude-standard']
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {name for name in listed if (ROOT / name).exists()} <= files


@pytest.mark.parametrize('name', ['configs', 'tools', 'model-index.yml'])
def test_a_checkout_uses_its_own_configs_and_tools(name):
    assert (ROOT / 'mmdet_edge' / '.mim' / name).resolve() == ROOT / name


# Two distributions of each are in use, which install into the same folders.
LINES = {
    'OpenMMLab': {'mmcv-lite': '2.1.0', 'mmdet': '3.3.0', 'mmengine': '0.10.7', 'setuptools': '82.0.0'},
    'OpenMMLab, compiled': {'mmcv': '2.1.0', 'mmdet': '3.3.0', 'mmengine': '0.10.7', 'setuptools': '80.10.2'},
    'mmcv 2.2': {'mmcv': '2.2.0', 'mmdet': '3.3.0', 'mmengine': '0.10.7'},
    'OneDL': {'onedl-mmcv': '2.3.6', 'onedl-mmdetection': '3.5.1', 'onedl-mmengine': '0.10.12'},
}
STACK = {'setuptools', 'torchvision', *(name for line in LINES.values() for name in line)}


@pytest.fixture(scope='module')
def metadata(wheel):
    """The core metadata, as email headers."""
    return email.message_from_bytes(next(data for name, data in content(wheel).items() if name.endswith('/METADATA')))


@pytest.fixture(scope='module')
def requirements(metadata):
    """Extra -> requirements; those without an extra under ''."""
    found = {}
    for line in metadata.get_all('Requires-Dist'):
        requirement = Requirement(line)
        marker = str(requirement.marker or '')
        found.setdefault(marker.partition('extra == ')[2].strip('"'), []).append(requirement)
    return found


@pytest.mark.parametrize('field', ['Author', 'Keywords', 'License', 'Project-URL', 'Requires-Python', 'Summary'])
def test_the_metadata_is_complete(field, metadata):
    assert metadata[field]


def test_the_metadata_name_the_python_versions_that_are_promised(metadata):
    found = [c.rpartition(' ')[2] for c in metadata.get_all('Classifier') if 'Python :: 3.' in c]
    first, last = re.search(r'3\.(\d+) to 3\.(\d+)', (ROOT / 'docs' / 'install.md').read_text()).groups()
    assert found == [f'3.{minor}' for minor in range(int(first), int(last) + 1)]


def test_the_package_requires_neither_line_of_the_stack(requirements):
    assert not {requirement.name for requirement in requirements['']} & STACK
    assert f'torch>={MINIMUM["torch"][0]}' in {str(requirement) for requirement in requirements['']}


def test_the_extras_are_the_two_lines_from_the_versions_that_are_checked_at_import(requirements):
    for extra, prefix in (('openmmlab', ''), ('onedl', 'onedl-')):
        required = {requirement.name: requirement.specifier for requirement in requirements[extra]}
        assert set(required) == {*LINES['OneDL' if prefix else 'OpenMMLab'], 'torchvision'}
        for name, (minimum, _) in MINIMUM.items():
            if name != 'torch' and not prefix:
                assert minimum in str(required['mmcv-lite' if name == 'mmcv' else name])
    assert '2.2.0' not in next(r.specifier for r in requirements['openmmlab'] if r.name == 'mmcv-lite')


@pytest.mark.parametrize('line', LINES)
def test_installing_into_an_environment_changes_none_of_its_packages(line, wheel, requirements, tmp_path):
    """As pip sees it: an environment with what such a line has, by metadata."""
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'venv'], check=True)
    (site,) = (tmp_path / 'venv').glob('lib/python*/site-packages')
    installed = {**LINES[line], **{requirement.name: version(requirement.name) for requirement in requirements['']}}
    for name, number in installed.items():
        folder = site / f'{name.replace("-", "_")}-{number}.dist-info'
        folder.mkdir()
        (folder / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n')
    pip = [sys.executable, '-m', 'pip', '--python', tmp_path / 'venv' / 'bin' / 'python']
    options = ['-q', '--dry-run', '--no-index', '--report', tmp_path / 'report.json']
    subprocess.run([*pip, 'install', *options, wheel], check=True)
    report = json.loads((tmp_path / 'report.json').read_text())
    assert [item['metadata']['name'].replace('-', '_') for item in report['install']] == ['mmdet_edge']


def test_installing_into_this_environment_changes_none_of_its_packages(wheel, tmp_path):
    pip = [sys.executable, '-m', 'pip', 'install']
    options = ['-q', '--dry-run', '--no-index', '--report', tmp_path / 'report.json']
    subprocess.run([*pip, *options, wheel], check=True)
    report = json.loads((tmp_path / 'report.json').read_text())
    assert {item['metadata']['name'].replace('-', '_') for item in report['install']} <= {'mmdet_edge'}
