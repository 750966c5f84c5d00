"""Where the packaged configs are, in a wheel and in a checkout."""

import difflib
from pathlib import Path


def get_config_path(name: str) -> str:
    """Return the path of a config of this package.

    Args:
        name (str): Path below ``configs/``, such as 'mask_rcnn_edge/mask-rcnn_r50_fpn_edge_1x_coco.py'.

    Returns:
        str: Absolute path of the config file.

    Raises:
        FileNotFoundError: If there is no such config; the message names the nearest.

    Example:
        In a config of another project::

            _base_ = __import__('mmdet_edge').get_config_path('mask_rcnn_edge/mask-rcnn_r50_fpn_edge_1x_coco.py')
    """
    # Where OpenMMLab's packages carry configs and tools; in a checkout a link to the folder of that name.
    root = (Path(__file__).parent / '.mim' / 'configs').resolve()
    path = root / name
    if path.is_file():
        return str(path)
    known = sorted(p.relative_to(root).as_posix() for p in root.glob('*/*.py'))
    near = difflib.get_close_matches(name, known, n=1, cutoff=0)
    hint = f'; the nearest is {near[0]!r}' if near else ''
    raise FileNotFoundError(f'mmdet_edge has no config {name!r} in {root}{hint}')
