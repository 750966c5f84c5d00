"""Measure CocoBoundaryMetric's two backends on synthetic results with the statistics of COCO val2017.

Images of 640x480 with 7.3 objects on average, sizes spread like COCO's (41 % small, 34 % medium, 24 % large), 80
classes; for each object a slightly shifted detection and a false positive. Both backends evaluate the same files in
turn; the evaluation is timed, not the reading of the predictions.
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
# Side lengths in pixels of small, medium and large objects, and their fractions.
SIDES, FRACTIONS = ((6, 32), (32, 96), (96, 400)), (0.415, 0.343, 0.242)


def blob(rng: np.random.Generator, center: np.ndarray, side: float, shape: np.ndarray) -> dict:
    """Return a run-length encoded star-shaped blob; ``shape`` are its radii, relative to the side."""
    angles = np.linspace(0, 2 * np.pi, len(shape), endpoint=False)
    points = center + side / 2 * shape[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    mask = cv2.fillPoly(np.zeros((HEIGHT, WIDTH), np.uint8), [points.astype(np.int32)], 1)
    rle = mask_utils.encode(np.asfortranarray(mask))
    return dict(size=rle['size'], counts=rle['counts'].decode())


def make_object(rng: np.random.Generator, image_id: int) -> tuple[dict, list[dict]]:
    """Return the annotation of an object, without id, and two results: it, slightly shifted, and a false positive."""
    low, high = SIDES[rng.choice(3, p=FRACTIONS)]
    side = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    center = rng.uniform((0, 0), (WIDTH, HEIGHT))
    shape = rng.uniform(0.6, 1.0, 12)
    common = dict(image_id=image_id, category_id=int(rng.integers(1, CLASSES + 1)))
    segmentation = blob(rng, center, side, shape)
    area, box = int(mask_utils.area(segmentation)), mask_utils.toBbox(segmentation).tolist()
    annotation = dict(common, segmentation=segmentation, area=area, bbox=box, iscrowd=0)
    shifted = blob(rng, center + rng.normal(0, 0.03 * side, 2), side, shape * rng.normal(1, 0.05, 12))
    false = blob(rng, rng.uniform((0, 0), (WIDTH, HEIGHT)), side, shape)
    results = [
        dict(common, segmentation=found, score=float(rng.uniform(*scores)), bbox=mask_utils.toBbox(found).tolist())
        for found, scores in ((shifted, (0.3, 1)), (false, (0.05, 0.6)))
    ]
    return annotation, results


def make_data(num_images: int, seed: int) -> tuple[dict, list[dict]]:
    """Return annotations and results in COCO format."""
    rng = np.random.default_rng(seed)
    annotations: list[dict] = []
    results: list[dict] = []
    for image_id in track(range(num_images), 'making data'):
        for _ in range(max(1, rng.poisson(7.3))):
            annotation, found = make_object(rng, image_id)
            if annotation['area']:
                annotations.append(dict(annotation, id=len(annotations) + 1))
                results += found
    truth = dict(
        images=[dict(id=i, height=HEIGHT, width=WIDTH) for i in range(num_images)],
        annotations=annotations,
        categories=[dict(id=i, name=str(i)) for i in range(1, CLASSES + 1)],
    )
    return truth, results


def measure(metric: str, file: Path, num_images: int, results: list[dict]) -> list[str]:
    """Evaluate with both backends and return the row of the table."""
    seconds, values = [], []
    for backend in ('pycocotools', 'faster-coco-eval'):
        evaluator = CocoBoundaryMetric(ann_file=str(file), metric=metric, backend=backend)
        evaluator.cat_ids = list(range(1, CLASSES + 1))
        evaluator.img_ids = list(range(num_images))
        # With a box in the result, COCO would take the box's area for the object's.
        copies = [{k: v for k, v in result.items() if metric == 'bbox' or k != 'bbox'} for result in results]
        start = time.perf_counter()
        truth = evaluator._make_truth()
        values.append(evaluator._evaluate(metric, truth, truth.loadRes(copies), MMLogger.get_current_instance()))
        seconds.append(time.perf_counter() - start)
    difference = max(abs(values[0][k] - values[1][k]) for k in values[0])
    return [
        metric,
        *(f'{s:.1f}' for s in seconds),
        f'{seconds[0] / seconds[1]:.1f}',
        f'{values[0][f"{metric}_mAP"]:.4f}',
        f'{difference:.0e}',
    ]


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
    MMLogger.get_current_instance().setLevel('ERROR')
    table = Table(title=f'{args.num_images} images, {len(truth["annotations"])} objects, {len(results)} detections')
    for column in ('metric', 'pycocotools (s)', 'faster-coco-eval (s)', 'speed-up', 'mAP', 'largest difference'):
        table.add_column(column, justify='right')
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'truth.json'
        file.write_text(json.dumps(truth))
        for metric in ('bbox', 'segm', 'boundary'):
            table.add_row(*measure(metric, file, args.num_images, results))
    Console().print(table)


if __name__ == '__main__':
    main()
