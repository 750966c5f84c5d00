"""The demo: train Mask R-CNN without and with the edge head on generated images, compare them, draw where they differ.

Can be interrupted and repeated: it resumes where it was.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from pycocotools.coco import COCO
from rich.console import Console
from rich.table import Table

from mmdet_edge.analysis import Run, compare, draw_comparison, read_run, write_report
from mmdet_edge.datasets import make_shapes_dataset

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / 'data' / 'shapes'
WORK = ROOT / 'work_dirs' / 'demo'
ITERATIONS = 300
CONFIGS = {
    'baseline': f'mask-rcnn_r18_fpn_1xb4-{ITERATIONS}i_shapes',
    'edge': f'mask-rcnn_r18_fpn_edge_1xb4-{ITERATIONS}i_shapes',
}


def say(message: str) -> None:
    """Print a line that stands out from the logs."""
    Console().print(f'[bold green]\\[demo][/] {message}', highlight=False)


def run_tool(name: str, *args: object) -> None:
    """Run another command line of tools/; end with its exit code if it fails."""
    with subprocess.Popen([sys.executable, str(ROOT / 'tools' / name), *map(str, args)], cwd=ROOT) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            # Ctrl-C has reached it too: the last line is to be ours.
            process.wait()
            raise
    if code:
        sys.exit(code)


def config_path(name: str) -> Path:
    """Return the config of a variant."""
    return ROOT / 'configs' / 'mask_rcnn_edge' / f'{CONFIGS[name]}.py'


def checkpoint_path(name: str) -> Path:
    """Return the last checkpoint of a variant."""
    return WORK / name / f'iter_{ITERATIONS}.pth'


def predictions_path(name: str) -> Path:
    """Return the predicted masks of a variant, as CocoMetric writes them."""
    return WORK / name / 'predictions.segm.json'


def train_and_test(name: str) -> None:
    """Train and test one variant, unless that is done."""
    config, checkpoint, work_dir = config_path(name), checkpoint_path(name), WORK / name
    if checkpoint.exists():
        say(f'{name}: already trained, {checkpoint.relative_to(ROOT)}')
    else:
        say(f'{name}: training {ITERATIONS} iterations of {CONFIGS[name]}, a few minutes on 2 cores')
        run_tool('train.py', config, '--work-dir', work_dir, '--resume')
    # The metrics are written last.
    if not (predictions_path(name).exists() and list(work_dir.glob('test/*/*.json'))):
        say(f'{name}: testing')
        prefix = str(predictions_path(name)).removesuffix('.segm.json')
        options = ('--cfg-options', f'test_evaluator.outfile_prefix={prefix}')
        run_tool('test.py', config, checkpoint, '--work-dir', work_dir / 'test', *options)


def read_metrics(name: str) -> dict:
    """Return the metrics of the latest test of a variant."""
    return json.loads(sorted((WORK / name / 'test').glob('*/*.json'))[-1].read_text())


def make_summary(runs: dict[str, Run]) -> Table:
    """Return the table of the final values."""
    columns = {
        'mask AP': 'coco/segm_mAP',
        'AP75': 'coco/segm_mAP_75',
        'boundary AP': 'coco/boundary_mAP',
        'box AP': 'coco/bbox_mAP',
        'mask IoU*': 'mask_branch/mIoU',
        'boundary IoU*': 'mask_branch/boundary_IoU_1px',
    }
    table = Table(
        title=f'{ITERATIONS} iterations from scratch, one seed: an illustration',
        caption='* of the mask branch alone: ground-truth boxes as RoIs, 28x28, boundary of 1 pixel',
    )
    for column in ('', *columns, 's/iteration'):
        table.add_column(column, justify='right' if column else 'left')
    for name, run in runs.items():
        values = {**run.scalars[-1], **read_metrics(name)}
        table.add_row(name, *(f'{values[key]:.3f}' for key in columns.values()), f'{run.seconds_per_iteration:.2f}')
    return table


def draw_differences() -> None:
    """Draw the images in which the two differ most, unless that is done."""
    out = WORK / 'differences'
    if not (out / 'index.json').exists():
        say('drawing where the two differ')
        models = (arg for name in CONFIGS for arg in (config_path(name), checkpoint_path(name)))
        run_tool('analysis_tools/compare_predictions.py', *models, '--out', out, '--num-images', 4)


def main() -> None:
    """Make the data, train and test both variants, and show how they differ."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    start = time.time()
    say(f'data: {DATA.relative_to(ROOT)}')
    try:
        make_shapes_dataset(str(DATA))
    except OSError as error:
        sys.exit(f'error: {error}')
    for name in CONFIGS:
        train_and_test(name)

    runs = {name: read_run(WORK / name) for name in CONFIGS}
    Console().print(make_summary(runs))
    predictions = {name: json.loads(predictions_path(name).read_text()) for name in CONFIGS}
    figure = WORK / 'comparison.png'
    draw_comparison(runs, predictions, COCO(DATA / 'val.json'), DATA / 'val', figure)
    draw_differences()
    report = write_report(compare({name: [WORK / name] for name in CONFIGS}, 'baseline'), WORK / 'report', 'make demo')
    say(f'done in {time.time() - start:.0f} s. What to look at, below {WORK.relative_to(ROOT)}:')
    for path, what in (
        (figure, 'predictions of both beside the ground truth, and curves'),
        (WORK / 'differences', 'where they differ most: missed and added pixels'),
        (WORK / 'edge', 'in */vis_data/vis_image: masks and edges that the edge loss saw during training'),
        (report, 'all numbers and curves, and how to read them'),
    ):
        say(f'{path.relative_to(WORK)}: {what}')
    say(f'the report: {report}')


def run() -> None:
    """Run the demo; end with one line if interrupted."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit('\ninterrupted: `make demo` resumes where it was')


if __name__ == '__main__':
    run()
