"""Measure CocoBoundaryMetric's two backends on synthetic results with the statistics of COCO val2017.

Images of 640x480 with 7.3 objects on average, sizes spread like COCO's (41 % small, 34 % medium, 24 % large), 80
classes; for each object a detection that is a little off, and as many false positives. Both backends evaluate the same
files in turn; what is timed is the evaluation, not the reading of the predictions.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_utils
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmdet_edge import CocoBoundaryMetric
from mmdet_edge.errors import UserError, one_line_errors

HEIGHT, WIDTH, CLASSES = 480, 640, 80
# Side lengths in pixels of small, medium and large objects, and their shares.
SIDES, SHARES = ((6, 32), (32, 96), (96, 400)), (0.415, 0.343, 0.242)


def blob(rng: np.random.Generator, centre: np.ndarray, side: float, shape: np.ndarray) -> dict:
    """Return a run-length encoded star-shaped blob; ``shape`` are its radii, relative to the side."""
    angles = np.linspace(0, 2 * np.pi, len(shape), endpoint=False)
    points = centre + side / 2 * shape[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    mask = cv2.fillPoly(np.zeros((HEIGHT, WIDTH), np.uint8), [points.astype(np.int32)], 1)
    rle = mask_utils.encode(np.asfortranarray(mask))
    return dict(size=rle['size'], counts=rle['counts'].decode())


def make_data(num_images: int, seed: int) -> tuple[dict, list[dict]]:
    """Return annotations and results in COCO format."""
    rng = np.random.default_rng(seed)
    annotations: list[dict] = []
    results: list[dict] = []
    for image_id in track(range(num_images), 'making data'):
        for _ in range(max(1, rng.poisson(7.3))):
            low, high = SIDES[rng.choice(3, p=SHARES)]
            side = float(np.exp(rng.uniform(np.log(low), np.log(high))))
            centre = rng.uniform((0, 0), (WIDTH, HEIGHT))
            shape = rng.uniform(0.6, 1.0, 12)
            category_id = int(rng.integers(1, CLASSES + 1))
            segmentation = blob(rng, centre, side, shape)
            area = int(mask_utils.area(segmentation))
            if not area:
                continue
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=category_id,
                    segmentation=segmentation,
                    area=area,
                    bbox=mask_utils.toBbox(segmentation).tolist(),
                    iscrowd=0,
                )
            )
            off = blob(rng, centre + rng.normal(0, 0.03 * side, 2), side, shape * rng.normal(1, 0.05, 12))
            false = blob(rng, rng.uniform((0, 0), (WIDTH, HEIGHT)), side, shape)
            for found, score in ((off, rng.uniform(0.3, 1)), (false, rng.uniform(0.05, 0.6))):
                box = mask_utils.toBbox(found).tolist()
                common = dict(image_id=image_id, category_id=category_id, score=float(score), bbox=box)
                results.append(dict(common, segmentation=found))
    truth = dict(
        images=[dict(id=i, height=HEIGHT, width=WIDTH) for i in range(num_images)],
        annotations=annotations,
        categories=[dict(id=i, name=str(i)) for i in range(1, CLASSES + 1)],
    )
    return truth, results


@one_line_errors
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--num-images', type=int, default=5000, help='number of images (default: 5000)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the data (default: 0)')
    args = parser.parse_args()
    if args.num_images < 1:
        raise UserError(f'--num-images must be at least 1, got {args.num_images}')
    truth, results = make_data(args.num_images, args.seed)
    logger = MMLogger.get_current_instance()
    logger.setLevel('ERROR')
    table = Table(title=f'{args.num_images} images, {len(truth["annotations"])} objects, {len(results)} detections')
    for column in ('metric', 'pycocotools (s)', 'faster-coco-eval (s)', 'ratio', 'mAP', 'largest difference'):
        table.add_column(column, justify='right')
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'truth.json'
        file.write_text(json.dumps(truth))
        for metric in ('bbox', 'segm', 'boundary'):
            seconds, values = [], []
            for backend in ('pycocotools', 'faster-coco-eval'):
                evaluator = CocoBoundaryMetric(ann_file=str(file), metric=metric, backend=backend)
                evaluator.cat_ids = list(range(1, CLASSES + 1))
                evaluator.img_ids = list(range(args.num_images))
                copies = [dict(result) for result in results]
                start = time.perf_counter()
                values.append(evaluator._evaluate(metric, copies, logger))
                seconds.append(time.perf_counter() - start)
            difference = max(abs(values[0][k] - values[1][k]) for k in values[0])
            table.add_row(
                metric,
                *(f'{s:.1f}' for s in seconds),
                f'{seconds[0] / seconds[1]:.1f}',
                f'{values[0][f"{metric}_mAP"]:.4f}',
                f'{difference:.0e}',
            )
    Console().print(table)


if __name__ == '__main__':
    main()
