"""The demo: train Mask R-CNN without and with the edge head on generated images, and compare them.

Can be interrupted and repeated: it goes on where it was.
"""

import json
import pickle
import subprocess
import sys
import time
from pathlib import Path

from pycocotools.coco import COCO
from rich.console import Console
from rich.table import Table

from mmdet_edge.analysis import draw_comparison, read_run
from mmdet_edge.datasets import make_shapes_dataset

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / 'data' / 'shapes'
WORK = ROOT / 'work_dirs' / 'demo'
STEPS = 300
CONFIGS = {
    'baseline': f'mask-rcnn_r18_fpn_1xb4-{STEPS}i_shapes',
    'edge': f'mask-rcnn_r18_fpn_edge_1xb4-{STEPS}i_shapes',
}


def say(message: str) -> None:
    """Print a line that stands out from the logs."""
    Console().print(f'[bold green]\\[demo][/] {message}', highlight=False)


def run_tool(name: str, *args: object) -> None:
    """Run another command line of tools/; end with its exit code if it fails."""
    code = subprocess.call([sys.executable, str(ROOT / 'tools' / name), *map(str, args)], cwd=ROOT)
    if code:
        sys.exit(code)


def train_and_test(name: str, config: str) -> None:
    """Train and test one setting, unless that is done."""
    path = ROOT / 'configs' / 'mask_rcnn_edge' / f'{config}.py'
    work_dir = WORK / name
    checkpoint = work_dir / f'iter_{STEPS}.pth'
    predictions = work_dir / 'predictions.pkl'
    if checkpoint.exists():
        say(f'{name}: already trained, {checkpoint.relative_to(ROOT)}')
    else:
        say(f'{name}: training {STEPS} steps of {config}, a few minutes on 2 cores')
        run_tool('train.py', path, '--work-dir', work_dir, '--resume')
    # The metrics are written last.
    if not list(work_dir.glob('test/*/*.json')):
        say(f'{name}: testing')
        run_tool('test.py', path, checkpoint, '--work-dir', work_dir / 'test', '--out', predictions)


def read_metrics(name: str) -> dict:
    """Return the metrics of the latest test of a setting."""
    return json.loads(sorted((WORK / name / 'test').glob('*/*.json'))[-1].read_text())


def main() -> None:
    """Make the data, train and test both settings, print the table, draw the figure."""
    start = time.time()
    say(f'data: {DATA.relative_to(ROOT)}')
    try:
        make_shapes_dataset(str(DATA))
    except FileExistsError as error:
        sys.exit(f'error: {error}')
    for name, config in CONFIGS.items():
        train_and_test(name, config)

    runs = {name: read_run(WORK / name) for name in CONFIGS}
    table = Table(
        title=f'{STEPS} steps from scratch, one seed: an illustration',
        title_justify='left',
    )
    for column in ('', 'mask AP', 'mask AP75', 'box AP', 'seconds a step'):
        table.add_column(column, justify='right' if column else 'left')
    for name, run in runs.items():
        metrics = read_metrics(name)
        seconds = run.curve('time')[1]
        table.add_row(
            name,
            *(f'{metrics[f"coco/{key}"]:.3f}' for key in ('segm_mAP', 'segm_mAP_75', 'bbox_mAP')),
            f'{sum(seconds) / len(seconds):.2f}',
        )
    Console().print(table)

    figure = WORK / 'comparison.png'
    predictions = {name: pickle.loads((WORK / name / 'predictions.pkl').read_bytes()) for name in CONFIGS}
    draw_comparison(runs, predictions, COCO(DATA / 'val.json'), DATA / 'val', figure)
    say(f'figure: {figure.relative_to(ROOT)}')
    say(f'done in {time.time() - start:.0f} s')


if __name__ == '__main__':
    main()
