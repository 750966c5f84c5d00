"""The wheel carries what a user without a checkout needs."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mmdet_edge import __version__

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The wheel, unpacked; built from a copy, as the build leaves files in the source folder."""
    folder = tmp_path_factory.mktemp('wheel')
    files = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard'], cwd=ROOT, capture_output=True, text=True)
    for name in files.stdout.splitlines():
        if (ROOT / name).is_file():
            target = folder / 'source' / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', folder, '.']
    done = subprocess.run(command, cwd=folder / 'source', capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob('*.whl')
    assert path.name == f'mmdet_edge-{__version__}-py3-none-any.whl'
    zipfile.ZipFile(path).extractall(folder / 'site')
    return folder / 'site'


def test_configs_tools_and_index_are_in_the_wheel(wheel):
    mim = wheel / 'mmdet_edge' / '.mim'
    for folder, pattern in (('configs', '*.py'), ('configs', '*.yml'), ('tools', '*.py'), ('tools', '*.sh')):
        expected = {p.relative_to(ROOT) for p in (ROOT / folder).rglob(pattern)}
        assert expected and {p.relative_to(mim) for p in (mim / folder).rglob(pattern)} == expected
    assert (mim / 'model-index.yml').is_file()
    assert (wheel / 'mmdet_edge' / 'py.typed').is_file()
    assert not (wheel / 'tests').exists()


def test_the_wheel_finds_its_own_configs(wheel, tmp_path):
    code = (
        'import mmdet_edge; from mmengine.config import Config;'
        "path = mmdet_edge.get_config_path('mask_rcnn_edge/mask-rcnn_r50_fpn_edge_1x_coco.py');"
        'print(path, Config.fromfile(path).model.roi_head.mask_head.type)'
    )
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code],
        env={**os.environ, 'PYTHONPATH': str(wheel)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    path, head = done.stdout.split()
    assert Path(path).is_relative_to(wheel / 'mmdet_edge' / '.mim') and head == 'EdgeAgreementMaskHead'
