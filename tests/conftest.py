import copy
import os
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

# First: it may have to serve the operators without which mmdet cannot be imported.
import mmdet_edge  # noqa: F401

# isort: split
import mmcv
import mmdet
import numpy as np
import pytest
import torch
from mmdet.structures.mask import BitmapMasks
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config, ConfigDict
from mmengine.config import utils as config_utils
from mmengine.structures import InstanceData
from mmengine.utils import digit_version
from mmengine.visualization import Visualizer

ROOT = Path(__file__).parents[1]


def build_wheel(what, folder):
    """Build the wheel of a source folder or an sdist; return its path."""
    options = ['-q', '--no-deps', '--no-build-isolation', '-w', folder]
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', *options, what], check=True)
    (path,) = folder.glob('*.whl')
    return path


def pytest_addoption(parser):
    parser.addoption('--device', default='cpu', help='where numerical tests compute: cpu, cuda, cuda:1, ...')


@pytest.fixture(scope='session')
def device(request):
    """The device that --device names."""
    device = torch.device(request.config.getoption('--device'))
    if device.type == 'cuda' and not torch.cuda.is_available():
        pytest.skip(f'--device {device}, but torch sees no GPU')
    # By default a GPU's convolutions round their inputs to 10 bits; expected values have 23.
    torch.backends.cudnn.allow_tf32 = False
    return device


@pytest.fixture(autouse=True)
def forget_the_visualizer():
    """Let each test have its own: mmengine keeps one for a process, which writes into the work dir of its first run."""
    yield
    # mmengine registers a visualizer under its class and under the base class.
    DetLocalVisualizer._instance_dict.clear()
    Visualizer._instance_dict.clear()


@pytest.fixture
def mmdet_alone():
    """For tests of mmdet without this package, or before it: skips them where mmdet refuses mmcv."""
    refused = getattr(mmdet, 'mmcv_maximum_version', None)
    if refused and digit_version(mmcv.__version__) >= digit_version(refused):
        pytest.skip(f'mmdet {mmdet.__version__} alone refuses mmcv {mmcv.__version__}')


@pytest.fixture(scope='session')
def real_data():
    """The folder with nuclei/ and coco_tiny/, named by MMDET_EDGE_DATA."""
    folder = os.environ.get('MMDET_EDGE_DATA')
    if not folder:
        pytest.skip('MMDET_EDGE_DATA does not name a folder with real images')
    return Path(folder).resolve()


@pytest.fixture(scope='session')
def read_config():
    """Config.fromfile without custom imports, each file read once and not once for each of its children."""
    file2dict, load = Config._file2dict, lru_cache(config_utils.load)
    files = {}

    def cached(filename, *args, **kwargs):
        path = os.path.abspath(filename)
        if path not in files:
            files[path] = file2dict(filename, *args, **kwargs)
        return copy.deepcopy(files[path])

    def read(path):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Config, '_file2dict', cached)
            # The metafiles, which mmengine looks into for each 'mmdet::' base.
            patch.setattr(config_utils, 'load', load)
            return Config.fromfile(path, import_custom_modules=False)

    return read


@pytest.fixture(scope='session')
def source(tmp_path_factory):
    """The files of the repository, copied, as a build leaves files in the source folder."""
    folder = tmp_path_factory.mktemp('build') / 'source'
    command = ['git', 'ls-files', '-co', '--exclude-standard']
    for name in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if os.path.lexists(ROOT / name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    return folder


@pytest.fixture(scope='session')
def wheel(source):
    """The wheel of the package."""
    return build_wheel(source, source.parent)


@pytest.fixture
def head_inputs():
    """Make what a RoI head hands to loss_and_target for N positive RoIs, targets cut out of real masks."""

    def make(labels, channels, size=28, requires_grad=True):
        num = len(labels)
        generator = torch.Generator().manual_seed(0)
        preds = torch.randn(num, channels, size, size, generator=generator)
        masks = np.zeros((max(num, 1), 64, 64), np.uint8)
        for i, mask in enumerate(masks):
            mask[10 + i : 40, 12 : 50 - 2 * i] = 1
        boxes = torch.tensor([[8.0 + i, 6.0, 52.0, 44.0] for i in range(num)]).reshape(num, 4)
        sampled = SimpleNamespace(
            pos_priors=boxes,
            pos_assigned_gt_inds=torch.arange(num),
            pos_gt_labels=torch.tensor(labels, dtype=torch.long),
        )
        gt_instances = InstanceData(masks=BitmapMasks(masks, 64, 64))
        return dict(
            mask_preds=preds.requires_grad_(requires_grad),
            sampling_results=[sampled],
            batch_gt_instances=[gt_instances],
            rcnn_train_cfg=ConfigDict(mask_size=size),
        )

    return make
