"""The demo: train Mask R-CNN without and with the edge head on generated images, compare them, draw where they differ.

Can be interrupted and repeated: it resumes where it was.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pycocotools.mask as mask_utils
from mmcv import imread
from pycocotools.coco import COCO
from rich.console import Console
from rich.table import Table

from mmdet_edge.analysis import Run, compare, read_run, write_report
from mmdet_edge.analysis.figures import draw_band, draw_image, line_styles, title_panel
from mmdet_edge.datasets import make_shapes_dataset

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / 'data' / 'shapes'
WORK = ROOT / 'work_dirs' / 'demo'
ITERATIONS = 300
CONFIGS = {
    'baseline': f'mask-rcnn_r18_fpn_1xb4-{ITERATIONS}i_shapes',
    'edge': f'mask-rcnn_r18_fpn_edge_1xb4-{ITERATIONS}i_shapes',
}

SCORE_THRESHOLD = 0.5
"""Predictions below this score are not drawn."""

MATCH_IOU = 0.5
"""Mask IoU from which a prediction counts as that of an object."""


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


def _best_matches(masks: list[dict[str, Any]], truth: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each object (RLE) the predicted mask (RLE) that overlaps it most, if it does by :data:`MATCH_IOU`."""
    if not masks or not truth:
        return []
    overlaps = mask_utils.iou(masks, truth, [0] * len(truth))
    return [masks[best] for best in {int(column.argmax()) for column in overlaps.T if column.max() >= MATCH_IOU}]


def draw_comparison(
    runs: dict[str, Run],
    predictions: dict[str, list[dict[str, Any]]],
    coco: COCO,
    image_folder: Path,
    path: Path,
    num_images: int = 4,
) -> None:
    """Draw the first images with each run's predictions below the ground truth, and the curves of the runs.

    Of each object one prediction is drawn, the one that overlaps it most: duplicates with other boxes would hide it.

    Args:
        runs (dict[str, Run]): Name -> run.
        predictions (dict[str, list[dict]]): Name -> the run's predicted masks in COCO's result format, as CocoMetric
            writes them to ``outfile_prefix``.
        coco (COCO): Annotations of the images.
        image_folder (Path): Where the images are.
        path (Path): File to write; its ending decides the format.
        num_images (int): Number of images, one per column. Defaults to 4.
    """
    rows = ['ground truth', *runs]
    figure = plt.figure(figsize=(3 * num_images, 3 * len(rows) + 3.4), layout='constrained')
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[3 * len(rows), 3.4]).flat
    grid = upper.subplots(len(rows), num_images, squeeze=False)
    for column, image_id in enumerate(sorted(coco.imgs)[:num_images]):
        image = imread(str(image_folder / coco.imgs[image_id]['file_name']), channel_order='rgb')
        truth = [coco.annToRLE(annotation) for annotation in coco.imgToAnns[image_id]]
        draw_image(grid[0, column], image, map(mask_utils.decode, truth))
        for row, name in enumerate(runs, start=1):
            masks = [
                result['segmentation']
                for result in predictions[name]
                if result['image_id'] == image_id and result['score'] >= SCORE_THRESHOLD
            ]
            draw_image(grid[row, column], image, map(mask_utils.decode, _best_matches(masks, truth)))
    for row, name in enumerate(rows):
        grid[row, 0].set_ylabel(name, fontsize=16)
    titles = {
        'loss_mask': 'mask cross entropy in training (the same term in both)',
        'coco/segm_mAP': 'mask AP on the validation images',
    }
    for axes, (metric, title) in zip(lower.subplots(1, 2), titles.items()):
        for style, run in zip(line_styles(list(runs)).values(), runs.values()):
            iterations, values = run.curve(metric)
            draw_band(axes, iterations, np.array(values), 0.0, style)
        title_panel(axes, title, metric)
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    plt.close(figure)


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
