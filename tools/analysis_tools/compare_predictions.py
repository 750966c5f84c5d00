"""Draw the predictions of two models side by side, the ground truth between them and the errors in color.

Draws the images in which the two differ most, by mask IoU, and random ones; index.json lists the files.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

# First: it may have to serve the operators without which mmdet cannot be imported.
import mmdet_edge  # noqa: F401

# isort: split
import numpy as np
from mmcv import imfrombytes
from mmdet.apis import inference_detector, init_detector
from mmdet.registry import DATASETS
from mmengine.config import Config, DictAction
from mmengine.dataset import BaseDataset
from mmengine.device import get_device
from mmengine.fileio import get
from mmengine.registry import init_default_scope
from rich.progress import track
from torch import nn

from mmdet_edge.analysis.prediction_figures import (
    ImageComparison,
    Instances,
    best_ious,
    choose_images,
    describe,
    draw_predictions,
    load_truth,
)
from mmdet_edge.engine.atomic_local_backend import AtomicLocalBackend
from mmdet_edge.engine.launch import edit_config, read_config
from mmdet_edge.errors import UserError, one_line_errors
from mmdet_edge.preflight import check
from mmdet_edge.preflight.paths import check_writable


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for letter in 'ab':
        parser.add_argument(f'config_{letter}', metavar=f'CONFIG_{letter.upper()}', help='config file')
        parser.add_argument(f'checkpoint_{letter}', metavar=f'CHECKPOINT_{letter.upper()}', help='checkpoint file')
    parser.add_argument('--out', help='folder to write, by default comparison/predictions')
    parser.add_argument('--num-images', type=int, default=8, help='images of each kind, by default 8')
    parser.add_argument('--seed', type=int, default=0, help='seed of the random images, by default 0')
    parser.add_argument('--score-thr', type=float, default=0.5, help='lowest score of a prediction, by default 0.5')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of both configs, e.g. data_root=DIR, or test_dataloader.dataset.indices=200 to compare '
        'the first 200 images only',
    )
    return parser.parse_args()


def load(config: str, checkpoint: str, options: dict) -> Config:
    """Read a config, and check it with its data and weights."""
    cfg = edit_config(read_config(config), options)
    # Nothing is written there.
    cfg.work_dir = None
    check(cfg, ('test',), checkpoint)
    return cfg


def build_dataset(cfg_a: Config, cfg_b: Config) -> BaseDataset:
    """Build A's test data set, and check that B's has the same classes."""
    # None in mmdet's pure-Python configs.
    init_default_scope(cfg_a.get('default_scope') or 'mmdet')
    dataset = DATASETS.build(cfg_a.test_dataloader.dataset)
    other = DATASETS.build({**cfg_b.test_dataloader.dataset, 'lazy_init': True})
    classes_a, classes_b = (d.metainfo.get('classes') for d in (dataset, other))
    if tuple(classes_a or ()) != tuple(classes_b or ()):
        raise UserError(f'A and B must be models of the same classes, got {classes_a} and {classes_b}')
    infos = (dataset.get_data_info(i) for i in range(len(dataset)))
    if not any(not instance['ignore_flag'] for info in infos for instance in info['instances']):
        raise UserError(
            "A's test data has no objects to compare with: choose data with annotations, such as the validation data, "
            'by --cfg-options test_dataloader.dataset.ann_file=FILE'
        )
    return dataset


def predict(model: nn.Module, path: str, score_threshold: float) -> Instances:
    """Return the predictions of a model for an image."""
    found = inference_detector(model, path).pred_instances
    if 'masks' not in found:
        raise UserError(f'{type(model).__name__} predicts no masks: {model.cfg.filename}')
    found = found[found.scores >= score_threshold].cpu().numpy()
    return Instances(found.masks.astype(bool), found.labels)


def names_of(args: argparse.Namespace) -> list[str]:
    """Name A and B after their configs, and after their checkpoints too where the configs are the same."""
    stems = [Path(config).stem for config in (args.config_a, args.config_b)]
    if stems[0] != stems[1]:
        return stems
    return [
        f'{stem}, {"/".join(Path(checkpoint).parts[-2:])}'
        for stem, checkpoint in zip(stems, (args.checkpoint_a, args.checkpoint_b))
    ]


def compare(dataset: BaseDataset, models: Sequence[nn.Module], score_threshold: float) -> list[ImageComparison]:
    """Run both models on all images."""
    comparisons = []
    for index in track(range(len(dataset)), description='comparing'):
        info = dataset.get_data_info(index)
        truth = load_truth(dataset, index)
        try:
            ious = [best_ious(truth, predict(model, info['img_path'], score_threshold)) for model in models]
        except ValueError as error:
            raise UserError(f'{info["img_path"]}: {error}') from None
        comparisons.append(ImageComparison(info['img_id'], index, *ious))
    return comparisons


def remove_earlier(out: Path) -> None:
    """Remove the figures of an earlier comparison in the same folder, and nothing else."""
    if (out / 'index.json').is_file():
        for entry in json.loads((out / 'index.json').read_text())['images']:
            (out / entry['file']).unlink(missing_ok=True)


def draw(
    dataset: BaseDataset,
    models: Sequence[nn.Module],
    names: Sequence[str],
    kinds: dict[str, list[ImageComparison]],
    score_threshold: float,
    out: Path,
) -> list[dict]:
    """Draw the images of each kind; return their entries of the index."""
    entries = []
    places = [(kind, i, chosen) for kind, chosen in kinds.items() for i in range(len(chosen))]
    for kind, i, chosen in track(places, description='drawing'):
        comparison = chosen[i]
        info = dataset.get_data_info(comparison.index)
        content = get(info['img_path'], backend_args=getattr(dataset, 'backend_args', None))
        file = f'{kind}_{i + 1:02d}.png'
        verdict = 'A and B are equal' if comparison.better is None else f'{comparison.better} is better'
        name = Path(info['img_path']).name
        draw_predictions(
            imfrombytes(content, channel_order='rgb'),
            load_truth(dataset, comparison.index),
            [predict(model, info['img_path'], score_threshold) for model in models],
            names,
            comparison,
            out / file,
            title=f'{kind.replace("_", " ")}, {i + 1} of {len(chosen)}: {name} ({verdict})',
        )
        entries.append(dict(file=file, kind=kind, image=info['img_path'], **describe(comparison)))
    return entries


@one_line_errors
def main() -> None:
    """Compare."""
    args = parse_args()
    if args.num_images < 1:
        raise UserError(f'--num-images must be at least 1, got {args.num_images}')
    if not 0 <= args.score_thr <= 1:
        raise UserError(f'--score-thr must be between 0 and 1, got {args.score_thr:g}')
    out = Path(args.out or 'comparison/predictions')
    check_writable('--out', out)
    checkpoints = [args.checkpoint_a, args.checkpoint_b]
    configs = [load(*pair, args.cfg_options or {}) for pair in zip((args.config_a, args.config_b), checkpoints)]
    names = names_of(args)
    dataset = build_dataset(*configs)
    models = [init_detector(c, checkpoint, device=get_device()) for c, checkpoint in zip(configs, checkpoints)]

    comparisons = compare(dataset, models, args.score_thr)
    remove_earlier(out)
    different, at_random = choose_images(comparisons, args.num_images, args.seed)
    kinds = {'most_different': different, 'random': at_random}
    ious_a, ious_b = (np.concatenate(ious) for ious in zip(*((c.ious_a, c.ious_b) for c in comparisons)))
    index = dict(
        a=dict(name=names[0], config=args.config_a, checkpoint=args.checkpoint_a, mean_iou=float(ious_a.mean())),
        b=dict(name=names[1], config=args.config_b, checkpoint=args.checkpoint_b, mean_iou=float(ious_b.mean())),
        score_threshold=args.score_thr,
        seed=args.seed,
        num_images_compared=len(comparisons),
        num_objects_compared=len(ious_a),
        images=draw(dataset, models, names, kinds, args.score_thr, out),
    )
    AtomicLocalBackend().put_text(json.dumps(index, indent=2) + '\n', out / 'index.json')
    print(
        f'mean mask IoU of {len(ious_a)} objects in {len(comparisons)} images: A {ious_a.mean():.4f} ({names[0]}), '
        f'B {ious_b.mean():.4f} ({names[1]})\n{out}: {len(different)} most different, {len(at_random)} random images'
    )


if __name__ == '__main__':
    main()
