"""Measure inference with the edge head against plain Mask R-CNN: the same model in turn, on the same images.

The two must take the same time, since the edge loss exists in training only.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

# First: it may have to serve the operators without which mmdet cannot be imported.
import mmdet_edge  # noqa: F401

# isort: split
import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import DictAction
from mmengine.logging import MMLogger
from rich.console import Console
from rich.table import Table

from benchmarks.cost.step import edge_and_plain, load_config
from benchmarks.cost.timing import describe_machine, time_in_turn, time_ratio
from mmdet_edge.errors import one_line_errors


@one_line_errors
def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file, or mmdet::NAME')
    parser.add_argument('--repeats', type=int, default=31, help='measured runs of each (default: 31)')
    parser.add_argument('--device', default='cpu', help='default: cpu')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='override settings of the config: key=value'
    )
    parser.add_argument('--out', help='JSON file to write')
    args = parser.parse_args()
    register_all_modules()
    MMLogger.get_current_instance().setLevel('ERROR')
    cfg = load_config(args.config, args.cfg_options or {}, '')
    # With random weights nothing scores high: let all boxes through, so that the mask head has its usual 100 RoIs.
    cfg.model.test_cfg.rcnn.score_thr = 0.0
    models = {name: MODELS.build(model_cfg) for name, model_cfg in edge_and_plain(cfg).items()}
    models['edge'].load_state_dict(models['plain'].state_dict())
    size = [3, 800, 1333] if torch.device(args.device).type == 'cuda' else [3, 160, 160]
    batch = demo_mm_inputs(1, [size], num_items=[8], num_classes=3, with_mask=True)
    for model in models.values():
        model.to(args.device).eval()
    with torch.no_grad():
        seconds = time_in_turn(
            {name: lambda model=model: model.test_step(batch) for name, model in models.items()},
            args.repeats,
            args.device,
        )
    ratio = time_ratio(seconds['edge'], seconds['plain'])
    machine = describe_machine(args.device)
    table = Table('mask head', 's an image (median)', title=f'{args.config}, inference: {machine}')
    for name in seconds:
        table.add_row(name, f'{np.median(seconds[name]):.4f}')
    table.add_row('edge / plain', f'{ratio} ({args.repeats} pairs)')
    Console().print(table)
    if args.out:
        result = dict(config=args.config, machine=machine, time_ratio=asdict(ratio), seconds=seconds)
        Path(args.out).write_text(json.dumps(result, indent=1))


if __name__ == '__main__':
    main()
