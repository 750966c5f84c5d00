import csv
import errno
import io
import math
import os
import re

import pytest
from rich.console import Console

from mmdet_edge.analysis import compare, make_table, write_report

FILES = ['comparison.csv', 'comparison.md', 'curves.png', 'curves.svg']
METRICS = ['coco/segm_mAP', 'mask_branch/BCE', 'loss_mask']


def compare_runs(runs, baseline, out, metrics=None, command=None):
    return write_report(compare(runs, baseline, metrics), out, command)


@pytest.fixture
def runs(make_run):
    """Three variants, one with a run to be left out, one too slow; names that are markup."""

    def make(name, speed, ends=(400, 400)):
        def rise(step):
            return 1 - math.exp(-step * speed / 150)

        return [
            make_run(
                name,
                seed,
                segm=lambda s, offset=0.01 * seed: rise(s) + offset,
                loss_mask=lambda s: 1.2 - rise(s),
                end=end,
                **{'mask_branch/BCE': lambda s: 1.1 - rise(s)},
            )
            for seed, end in enumerate(ends)
        ]

    return {
        'base': make('base', 1),
        '<edge> & [more]': make('edge', 2),
        'edge-slow': make('edge-slow', 0.5, (400, 200)),
    }


def test_the_report_names_everything(runs, tmp_path):
    report = compare_runs(runs, 'base', tmp_path / 'out', command='python compare_runs.py a<b')
    assert sorted(path.name for path in report.parent.iterdir()) == FILES
    assert report.name == 'comparison.md'
    text = report.read_text()
    for wanted in [
        *runs,
        *METRICS,
        '`python compare_runs.py a<b`',
        'ended at iteration 200',
        'not reached',
        'mmdet_edge 0.',
    ]:
        assert wanted in text, wanted
    for work_dir in [path for paths in runs.values() for path in paths]:
        assert str(work_dir) in text


def test_the_report_is_reproducible_and_replaces_an_earlier_one(runs, tmp_path):
    first, second = (compare_runs(runs, 'base', tmp_path / name) for name in 'ab')
    assert first.read_bytes() == second.read_bytes()
    compare_runs({'base': runs['base']}, None, tmp_path / 'a')
    assert 'edge-slow' not in first.read_text()


def test_what_cannot_be_written_leaves_the_earlier_report(runs, tmp_path, monkeypatch):
    folder = compare_runs(runs, 'base', tmp_path / 'out').parent
    earlier = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(descriptor):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space'):
        compare_runs(runs, 'base', folder, command='another')
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == earlier


def test_csv(runs, tmp_path):
    report = compare_runs(runs, 'base', tmp_path / 'out')
    with (report.parent / 'comparison.csv').open(newline='') as file:
        rows = {(row['metric'], row['variant']): row for row in csv.DictReader(file)}
    assert list(rows) == [(metric, variant) for metric in METRICS for variant in runs]
    fast, slow = rows['coco/segm_mAP', '<edge> & [more]'], rows['coco/segm_mAP', 'edge-slow']
    assert float(fast['speedup']) == pytest.approx(2, abs=0.01)
    assert (fast['seeds'], fast['pairs'], fast['baseline'], fast['at_first']) == ('0 1', '2', 'base', 'False')
    assert [float(value) for value in fast['values'].split()] == pytest.approx([0.99517, 1.00517], abs=1e-5)
    assert (slow['reached_at'], slow['speedup'], slow['sd'], slow['pairs']) == ('', '', '', '1')
    assert (slow['n'], slow['ci95_low'], slow['ci95_high']) == ('1', '', '')


def test_markdown_tables_are_regular(runs, tmp_path):
    runs['edge|bar'] = runs.pop('edge-slow')
    text = (compare_runs(runs, 'base', tmp_path / 'out').parent / 'comparison.md').read_text()
    tables = re.findall(r'(?:^\|.*\|\n)+', text, flags=re.MULTILINE)
    assert len(tables) == 2
    for table in tables:
        assert len({len(re.findall(r'(?<!\\)\|', line)) for line in table.splitlines()}) == 1
    assert r'| edge\|bar | 0.7364 (n = 1) |' in text
    assert '(n = 1) | -' in text
    assert 'left out: edge|bar' in text
    assert '![mean and band per variant over iterations](curves.png)' in text


def test_nothing_left_out_is_said(runs, tmp_path):
    report = compare_runs({'base': runs['base']}, 'base', tmp_path / 'out')
    assert 'Nothing was left out.' in report.read_text()


def test_table(runs):
    console = Console(width=200, file=io.StringIO())
    console.print(make_table(compare(runs, 'base')))
    lines = console.file.getvalue().splitlines()
    (fast,) = [line for line in lines if '<edge> & [more]' in line and '1.0002' in line]
    assert re.search(r'│ +2\.0\d │ +2\.0\d │$', fast.strip())
    assert all(any(metric in line for line in lines) for metric in METRICS)


def test_figures(runs, tmp_path):
    folder = compare_runs(runs, 'base', tmp_path / 'out').parent
    assert (folder / 'curves.png').read_bytes().startswith(b'\x89PNG')
    assert (folder / 'curves.svg').read_text().rstrip().endswith('</svg>')


def test_mistakes_write_nothing(runs, tmp_path):
    out = tmp_path / 'out'
    with pytest.raises(ValueError, match="no variant is called 'nothing'"):
        compare_runs(runs, 'nothing', out)
    with pytest.raises(ValueError, match='no run has logged'):
        compare_runs(runs, 'base', out, metrics=['nothing'])
    assert not out.exists()
