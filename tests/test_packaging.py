"""The wheel carries what a user without a checkout needs."""

import subprocess
import sys
import zipfile

import pytest

from mmdet_edge import __version__

from .conftest import ROOT, build_wheel


def content(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_configs_tools_and_index_are_in_the_wheel(wheel):
    assert wheel.name == f'mmdet_edge-{__version__}-py3-none-any.whl'
    files = content(wheel)
    for folder, patterns in (('configs', ('*.py', '*.yml', '*.md')), ('tools', ('*.py', '*.sh'))):
        expected = {p.relative_to(ROOT).as_posix() for pattern in patterns for p in (ROOT / folder).rglob(pattern)}
        assert {n[len('mmdet_edge/.mim/') :] for n in files if n.startswith(f'mmdet_edge/.mim/{folder}/')} == expected
    for name in ('.mim/model-index.yml', 'py.typed', '__init__.py'):
        assert f'mmdet_edge/{name}' in files
    assert {n.split('/')[0] for n in files} == {'mmdet_edge', f'mmdet_edge-{__version__}.dist-info'}


def test_the_sdist_builds_the_same_wheel(source, wheel, tmp_path):
    code = 'import sys, setuptools.build_meta; setuptools.build_meta.build_sdist(sys.argv[1])'
    subprocess.run([sys.executable, '-c', code, tmp_path], cwd=source, check=True, stdout=subprocess.DEVNULL)
    (sdist,) = tmp_path.glob('*.tar.gz')
    assert content(build_wheel(sdist, tmp_path)) == content(wheel)


@pytest.mark.parametrize('name', ['configs', 'tools', 'model-index.yml'])
def test_a_checkout_uses_its_own_configs_and_tools(name):
    assert (ROOT / 'mmdet_edge' / '.mim' / name).resolve() == ROOT / name
