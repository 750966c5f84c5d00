"""The example project, with the package from its wheel and not from the checkout, under mmdet's own tools."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import mmcv
import pytest
from mmengine.utils import get_installed_path

PROJECT = Path(__file__).parents[2] / 'projects' / 'nuclei_example'
MMDET_TOOLS = Path(get_installed_path('mmdet')) / '.mim' / 'tools'
CONFIG = 'mask-rcnn_r50_fpn_edge_1x_nuclei'
# No download, no time: random weights, small images.
OPTIONS = {
    'model.backbone.init_cfg': None,
    'train_dataloader.dataset.pipeline.2.scale': '(64,64)',
    'test_dataloader.dataset.pipeline.1.scale': '(64,64)',
    'val_dataloader.dataset.pipeline.1.scale': '(64,64)',
    'default_hooks.logger.interval': 1,
    **{
        f'{split}_dataloader.{key}': value
        for split in ('train', 'val', 'test')
        for key, value in (('num_workers', 0), ('persistent_workers', False))
    },
}


# make_data.py unchanged, but with four images instead of hundreds.
MAKE_FEW = """
import functools, runpy
from mmdet_edge import datasets
datasets.make_shapes_dataset = functools.partial(datasets.make_shapes_dataset, num_train=4, num_val=2, size=64)
runpy.run_path('make_data.py', run_name='__main__')
"""


@pytest.fixture(scope='module')
def python(wheel, tmp_path_factory):
    """An interpreter with the package from the wheel, and all others from the environment that runs the tests."""
    folder = tmp_path_factory.mktemp('downstream') / 'venv'
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder], check=True)
    python = folder / 'bin' / 'python'
    install = [sys.executable, '-m', 'pip', '--python', python, 'install', '-q', '--no-deps', '--no-index', wheel]
    subprocess.run(install, check=True)
    (site,) = folder.glob('lib/python*/site-packages')
    # Adds the folder but not what its own .pth files add, an editable install among them.
    shared = Path(sysconfig.get_path('purelib'))
    (site / 'a_shared.pth').write_text(f'{shared}\n')
    # setuptools' distutils, which OneDL's mmengine needs and Python 3.12 no longer has.
    if (shared / 'distutils-precedence.pth').is_file():
        shutil.copy(shared / 'distutils-precedence.pth', site)
    return python


@pytest.fixture(scope='module')
def project(python, tmp_path_factory):
    """The project, elsewhere, with four images to train on: two steps."""
    folder = tmp_path_factory.mktemp('elsewhere') / 'project'
    shutil.copytree(PROJECT, folder)
    run(python, folder, '-c', MAKE_FEW)
    return folder


def run(python, project, *args):
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    done = subprocess.run(
        [python, '-W', 'ignore', *args],
        cwd=project,
        env={**environment, 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


def run_tool(python, project, tool, *args, **options):
    settings = [f'{k}={v}' for k, v in {**OPTIONS, **options}.items()]
    return run(python, project, tool, *args, '--cfg-options', *settings)


def mim_of(python):
    """The folder with the tools and configs of the installed wheel."""
    (mim,) = python.parents[1].glob('lib/python*/site-packages/mmdet_edge/.mim')
    return mim


def scalars(work_dir):
    logs = sorted(work_dir.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for log in logs for line in log.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.usefixtures('mmdet_alone')
def test_train_resume_and_test_with_mmdets_own_tools(python, project):
    found = run(python, project, '-c', "import importlib.util; print(importlib.util.find_spec('mmdet_edge').origin)")
    assert Path(found).is_relative_to(python.parents[1])

    work_dir = project / 'work_dirs' / CONFIG
    output = run_tool(python, project, MMDET_TOOLS / 'train.py', f'configs/{CONFIG}.py', **{'train_cfg.max_epochs': 1})
    assert 'Edge loss is on: EdgeLoss(filters=sobel, exponent=2' in output
    lines = scalars(work_dir)
    assert all(step['loss_edge'] > 0 for step in lines[:2]) and 'coco/segm_mAP' in lines[-1] and len(lines) == 3

    # What the runner wrote is a config of its own: no base, and no package but by its import.
    dumped = work_dir / f'{CONFIG}.py'
    assert '_base_' not in dumped.read_text() and str(python.parents[1]) not in dumped.read_text()
    run_tool(python, project, MMDET_TOOLS / 'train.py', dumped, '--resume', **{'train_cfg.max_epochs': 2})
    assert [line['step'] for line in scalars(work_dir) if 'loss' in line] == [1, 2, 3, 4]

    # mmdet's own test.py imports mmcv.ops before the config can bring the operators that mmcv-lite lacks.
    is_compiled = any(Path(mmcv.__file__).parent.glob('_ext*.so'))
    tools = MMDET_TOOLS if is_compiled else mim_of(python) / 'tools'
    output = run_tool(python, project, tools / 'test.py', dumped, work_dir / 'epoch_2.pth')
    assert 'coco/segm_mAP' in output


def test_the_wheels_own_train_py(python, project):
    """What `mim train mmdet_edge CONFIG` starts; it does nothing but find it."""
    mim = mim_of(python)
    config = mim / 'configs' / 'mask_rcnn_edge' / 'mask-rcnn_r18_fpn_edge_1xb4-300i_nuclei.py'
    # OneDL's mmdet prints lines of its own.
    output = run_tool(python, project, mim / 'tools' / 'train.py', config, '--check')
    assert [line for line in output.splitlines() if 'OneDL' not in line] == []
