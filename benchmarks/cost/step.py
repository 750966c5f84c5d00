"""Measure an iteration with the edge head beside the same iteration with the plain mask head.

CONFIG is a file or a name such as mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py. Its mask heads are measured as edge
heads (see apply_edge_agreement) and with loss_edge=None, which equals mmdet's head. Both are built with the
same weights and run in turn in one process, on the same images and with the same random numbers.

Without --mask-branch, the whole step (losses, backward, optimizer) is measured, on images of --data-root or on
synthetic ones. With it, forward, losses and backward of the mask head alone (in a cascade, that of the first stage), on
--rois random RoIs with given targets.
"""

import argparse
import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

# First: it may have to serve the operators without which mmdet cannot be imported.
import mmdet_edge  # noqa: F401

# isort: split
import numpy as np
import torch
from mmdet.models.roi_heads.mask_heads import DynamicMaskHead
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.cost.timing import describe_machine, peak_memory, time_in_turn, time_ratio
from mmdet_edge import apply_edge_agreement
from mmdet_edge.config.edits import override_data_root
from mmdet_edge.engine.launch import edit_config, read_config
from mmdet_edge.errors import UserError, one_line_errors
from mmdet_edge.preflight.checkpoint import check_pretrained
from mmdet_edge.preflight.data import check_data
from mmdet_edge.preflight.paths import check_writable
from mmdet_edge.preflight.settings import check_amp


def check_at_least_1(args: argparse.Namespace, *names: str) -> None:
    """Check options that count something."""
    for name in names:
        if getattr(args, name) < 1:
            raise UserError(f'--{name.replace("_", "-")} must be at least 1, got {getattr(args, name)}')


def load_config(name: str, options: dict, data_root: str) -> Config:
    """Read the config, with its data in ``data_root``."""
    cfg = edit_config(read_config(name), options)
    if data_root:
        override_data_root(cfg, cfg.get('data_root', ''), data_root)
    return cfg


def mask_heads(model: dict) -> Iterator[dict]:
    """Yield the configs of a model's mask heads, wherever they are."""
    for key, value in model.items():
        if key == 'mask_head':
            yield from value if isinstance(value, list) else [value]
        elif isinstance(value, dict):
            yield from mask_heads(value)


def edge_and_plain(cfg: Config) -> dict[str, ConfigDict]:
    """Return the model's config with plain mask heads and with edge heads."""
    configs = {name: Config(copy.deepcopy(cfg.to_dict())) for name in ('plain', 'edge')}
    for config in configs.values():
        try:
            apply_edge_agreement(config)
        except ValueError as error:
            raise UserError(str(error)) from None
    for head in mask_heads(configs['plain'].model):
        head['loss_edge'] = None
    return {name: config.model for name, config in configs.items()}


def load_batches(cfg: Config, data_root: str, number: int) -> list[dict]:
    """Return training batches from the config's data set, or synthetic ones of COCO's size."""
    if not data_root:
        images = cfg.train_dataloader.batch_size
        sizes, objects = [[3, 800, 1333]] * images, [8] * images
        return [demo_mm_inputs(images, sizes, num_items=objects, num_classes=3, with_mask=True) for _ in range(number)]
    check_data(cfg, ('train',))
    loader = cfg.train_dataloader
    loader.update(num_workers=0, persistent_workers=False)
    batches = iter(Runner.build_dataloader(loader, seed=0))
    return [next(batches) for _ in range(number)]


def whole_step(model: nn.Module, cfg: Config, batches: list[dict]) -> Callable[[], Any]:
    """Return a function that trains on the batches, one after the other, with the same random numbers each time."""
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    # The weights must not change: other weights mean other RoIs, and other costs.
    for group in optim_wrapper.param_groups:
        group['lr'] = 0.0

    def run() -> None:
        for number, batch in enumerate(batches):
            torch.manual_seed(number)
            np.random.seed(number)
            model.train_step(batch, optim_wrapper)

    return run


def mask_branch_step(head: nn.Module, rois: int, device: str) -> Callable[[], None]:
    """Return forward, losses and backward of a mask head on fixed RoIs and targets."""
    if isinstance(head, DynamicMaskHead):
        raise UserError(
            '--mask-branch: the mask head of QueryInst needs the features of its queries: measure the whole step'
        )
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(rois, head.in_channels, *head.roi_feat_size, generator=generator).to(device)
    labels = torch.randint(head.num_classes, (rois,), generator=generator).to(device)
    height, width = (head.scale_factor * side for side in head.roi_feat_size)
    targets = (torch.rand(rois, height, width, generator=generator) > 0.5).float().to(device)

    def run() -> None:
        preds = head(features)
        # HTC's head also returns the features for the next stage.
        preds = preds[0] if isinstance(preds, list) else preds
        # Cutting targets out of masks is the same for both, and noisy.
        with patch.object(head, 'get_targets', lambda **_: targets):
            results = head.loss_and_target(preds, [SimpleNamespace(pos_gt_labels=labels)], [], {})
        sum(loss.sum() for loss in results['loss_mask'].values()).backward()
        head.zero_grad()

    return run


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file, or mmdet::FOLDER/NAME.py')
    parser.add_argument('--mask-branch', action='store_true', help='only the mask head')
    parser.add_argument('--rois', type=int, default=128, help='with --mask-branch: number of RoIs (default: 128)')
    parser.add_argument('--data-root', default='', help='folder of the training data (default: synthetic images)')
    parser.add_argument('--batches', type=int, default=2, help='batches that a run trains on (default: 2)')
    parser.add_argument('--batch-size', type=int, default=1, help='images of a batch (default: 1)')
    parser.add_argument('--repeats', type=int, default=11, help='measured runs of each (default: 11)')
    parser.add_argument('--device', default='cpu', help='default: cpu')
    parser.add_argument('--threads', type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override options of the config: key=value')
    parser.add_argument('--trace', help='file for a table of where the time of an edge step goes, by torch.profiler')
    parser.add_argument('--out', help='JSON file to write')
    return parser.parse_args()


def build_models(configs: dict[str, ConfigDict], mask_branch: bool, device: str) -> tuple[dict[str, nn.Module], str]:
    """Build the models with the same weights.

    Args:
        configs (dict[str, ConfigDict]): Of the detector with plain mask heads and with edge heads.
        mask_branch (bool): Whether to build only the first mask head.
        device (str): Where they are.

    Returns:
        tuple[dict[str, nn.Module], str]: The models in training mode, by name, and what they are.
    """
    measured = 'whole step'
    if mask_branch:
        heads = {name: list(mask_heads(cfg)) for name, cfg in configs.items()}
        configs = {name: first for name, (first, *_) in heads.items()}
        last = len(heads['plain']) - 1
        measured = f'mask head of stage 0 of 0 to {last}' if last else 'mask head'
    models: dict[str, nn.Module] = {name: MODELS.build(cfg) for name, cfg in configs.items()}
    models['plain'].init_weights()
    # Strictly: the two have the same parameters.
    models['edge'].load_state_dict(models['plain'].state_dict())
    return {name: model.to(device).train() for name, model in models.items()}, measured


def report(args: argparse.Namespace, measured: str, steps: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """Measure the steps and print a table.

    Args:
        args (argparse.Namespace): The command line.
        measured (str): What the steps are.
        steps (dict[str, Callable]): The steps with plain mask heads and with edge heads.

    Returns:
        dict: What --out writes.
    """
    seconds = time_in_turn(steps, args.repeats, args.device)
    memory = {name: peak_memory(step, args.device) for name, step in steps.items()}
    ratio, memory_ratio = time_ratio(seconds['edge'], seconds['plain']), memory['edge'] / memory['plain']
    machine = describe_machine(args.device)
    table = Table('mask head', 's a run (median)', 'peak memory MB', title=f'{args.config}, {measured}: {machine}')
    for name in steps:
        table.add_row(name, f'{np.median(seconds[name]):.3f}', f'{memory[name] / 1e6:.0f}')
    table.add_row('edge / plain', f'{ratio} ({args.repeats} pairs)', f'{memory_ratio:.3f}')
    Console().print(table)
    return dict(
        config=args.config,
        measured=measured,
        machine=machine,
        arguments=vars(args),
        time_ratio=asdict(ratio),
        memory_ratio=memory_ratio,
        seconds=seconds,
        bytes=memory,
    )


@one_line_errors
def main() -> None:
    """Measure, print, write."""
    args = parse_args()
    check_at_least_1(args, 'rois', 'batches', 'batch_size', 'repeats')
    for path in filter(None, (args.trace, args.out)):
        check_writable('output', path, is_folder=False)
    if args.threads:
        torch.set_num_threads(args.threads)
    register_all_modules()
    MMLogger.get_current_instance().setLevel('ERROR')
    cfg = load_config(args.config, args.cfg_options or {}, args.data_root)
    check_pretrained(cfg.model)
    check_amp(cfg)
    cfg.train_dataloader.batch_size = args.batch_size
    models, measured = build_models(edge_and_plain(cfg), args.mask_branch, args.device)
    if args.mask_branch:
        steps = {name: mask_branch_step(head, args.rois, args.device) for name, head in models.items()}
    else:
        batches = load_batches(cfg, args.data_root, args.batches)
        steps = {name: whole_step(model, cfg, batches) for name, model in models.items()}
    result = report(args, measured, steps)
    if args.trace:
        with torch.profiler.profile() as trace:
            steps['edge']()
        Path(args.trace).write_text(trace.key_averages().table(sort_by='self_cpu_time_total', row_limit=40))
    if args.out:
        Path(args.out).write_text(json.dumps(result, indent=1))


if __name__ == '__main__':
    main()
