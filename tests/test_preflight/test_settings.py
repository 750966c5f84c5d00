import ast
from pathlib import Path

import pytest
from mmengine.utils import get_installed_path

from mmdet_edge.preflight.settings import check_names, sections

from ..test_reliability.conftest import ROOT


@pytest.mark.parametrize('folder', ['mmdet', 'ours'])
def test_no_variable_of_a_config_is_taken_for_a_misspelt_section(folder):
    configs = Path(get_installed_path('mmdet'), '.mim', 'configs') if folder == 'mmdet' else ROOT / 'configs'
    names = {
        target.id
        for path in configs.rglob('*.py')
        for statement in ast.parse(path.read_text()).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    names |= {'mode', 'val_dataset', 'seed', 'model_cfg', 'teacher_model', 'load_pipeline', 'val_evaluator_2'}
    assert {'model', 'train_dataloader'} < names and len(names) > dict(mmdet=200, ours=10)[folder]
    check_names(names, sections(), f'{folder} has', cutoff=0.85)
