"""A training run that is killed and resumed, through the command line; many more kills are in test_soak.py."""

import json

import pytest

from ...test_tools.conftest import run_python


@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed_equals_an_undisturbed_one(tmp_path):
    # In a step, inside the write of a checkpoint, with a truncated checkpoint after it, with a full disk.
    run_python('benchmarks.reliability.kill_and_resume', '--kills', 4, '--work-dir', tmp_path / 'kill')
    report = json.loads((tmp_path / 'kill' / 'report.json').read_text())
    assert [fault['fault'] for fault in report['faults']] == ['in a step', 'inside a write', 'truncated', 'disk full']
    assert report['broken'] == report['different'] == []
