"""The notebook runs from its first to its last cell."""

import json
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from mmdet_edge.analysis import read_run

NOTEBOOK = Path(__file__).parents[1] / 'demo' / 'edge_agreement.ipynb'


@pytest.mark.slow
def test_the_notebook_trains_and_compares(tmp_path, monkeypatch):
    for name, value in dict(ITERATIONS=4, TRAIN_IMAGES=8, VAL_IMAGES=4).items():
        monkeypatch.setenv(f'NOTEBOOK_{name}', str(value))
    # The kernel is in another folder, and needs the package of this checkout.
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(NOTEBOOK.parents[1]), os.environ.get('PYTHONPATH', '')]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=900, resources=dict(metadata=dict(path=str(tmp_path)))).execute()
    outputs = [json.dumps(cell.get('outputs', '')) for cell in notebook.cells]
    assert sum('Edge loss is on: EdgeLoss(filters=sobel, exponent=2' in output for output in outputs) == 1
    assert 'image/png' in outputs[-2] or 'image/png' in outputs[-1]
    baseline, edge = (read_run(tmp_path / 'work_dirs' / name) for name in ('baseline', 'edge'))
    assert 'loss_edge' in edge.scalars[0] and 'loss_edge' not in baseline.scalars[0]
    assert f'{edge.scalars[-1]["mask_branch/mIoU"]:.3f}' in ''.join(outputs)


def test_the_notebook_is_kept_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())['cells']
    assert not any(cell.get('outputs') for cell in cells)
