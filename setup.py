"""What setup.cfg cannot do: ship configs, tools and the model index inside the package.

OpenMMLab packages carry them as ``<package>/.mim``; that is where ``mim`` and
:func:`mmdet_edge.get_config_path` look for them in an installed wheel.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildPyWithMim(build_py):
    """``build_py`` that also copies ``configs``, ``tools`` and ``model-index.yml`` to ``.mim``."""

    def run(self):
        """Build the package, then add ``.mim`` (left out for an editable install)."""
        super().run()
        if self.editable_mode:
            return
        mim = Path(self.build_lib) / 'mmdet_edge' / '.mim'
        shutil.rmtree(mim, ignore_errors=True)
        for folder in ('configs', 'tools'):
            shutil.copytree(ROOT / folder, mim / folder, ignore=shutil.ignore_patterns('__pycache__'))
        shutil.copy2(ROOT / 'model-index.yml', mim)


setup(cmdclass={'build_py': BuildPyWithMim})
