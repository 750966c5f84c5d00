"""What is run: tasks in three stages, in the order of their importance."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
SPECS = ROOT / 'benchmarks/gpu/specs'
SHAPES = 'configs/mask_rcnn_edge/mask-rcnn_r18_fpn_edge_1xb4-300i_shapes.py'
COCO = 'configs/mask_rcnn_edge/mask-rcnn_r50_fpn_edge_1x_coco.py'
NO_WEIGHTS = 'model.backbone.init_cfg=None'
REPORT = 40
"""Seconds kept for the report, most of them for the start of Python."""


@dataclass(frozen=True)
class Task:
    """One command.

    Args:
        name (str): For the summary.
        command (list[str]): Run in the root of the repository.
        seconds (float): Limit.
        result (Path, optional): JSON file that the command writes, for the summary. Defaults to None.
        keep (tuple[Path, ...]): Files to keep beside the summary.
        may_time_out (bool): Whether running to the limit counts as success. Defaults to False.
        leave (float): Seconds of the stage that it leaves to the tasks after it. Defaults to 0.
    """

    name: str
    command: list[str]
    seconds: float
    result: Path | None = None
    keep: tuple[Path, ...] = field(default=())
    may_time_out: bool = False
    leave: float = 0


def python(*args: object) -> list[str]:
    """Return a command line of this interpreter."""
    return [sys.executable, *map(str, args)]


def checks(device: str, seconds: float) -> Iterator[Task]:
    """Yield the numerical tests, and those of untrusted checkpoints."""
    pytest = ['-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-m', 'not soak', '--device', device]
    numerical = ['tests/test_models/test_device.py', 'tests/test_compat/test_ops.py']
    yield Task('numerical tests', python(*pytest, *numerical), seconds)
    untrusted = ('tests/test_reliability/test_untrusted_files.py', '-k', 'is_refused or init_detector')
    yield Task('untrusted checkpoints', python(*pytest, *untrusted), seconds)


def commands(device: str, work: Path, seconds: float) -> Iterator[Task]:
    """Yield each command line once, on generated images."""
    data, run = work / 'shapes', work / 'run'
    make_shapes = 'tools/dataset_converters/make_shapes_dataset.py'
    yield Task('make shapes', python(make_shapes, data, '--num-train', 16, '--num-val', 4, '--size', 96), seconds)

    def options(iterations: int) -> list[str]:
        # Evaluated and saved in the middle and at the end.
        return [
            *('--cfg-options', f'data_root={data}', f'train_cfg.max_iters={iterations}', 'train_cfg.val_interval=4'),
            *('default_hooks.checkpoint.interval=2', 'param_scheduler.0.end=2', 'param_scheduler.1.begin=2'),
        ]

    train = ['tools/train.py', SHAPES, '--work-dir', run]
    yield Task('train', python(*train, *options(4)), seconds)
    yield Task('train --resume', python(*train, '--resume', *options(8)), seconds)
    test = ('tools/test.py', SHAPES, run / 'iter_8.pth', '--boundary', '--work-dir', work / 'test')
    yield Task('test --boundary', python(*test, '--cfg-options', f'data_root={data}'), seconds)
    dist_train = ['bash', 'tools/dist_train.sh', SHAPES, '1', '--work-dir', str(work / 'dist')]
    yield Task('dist_train.sh, 1 process', [*dist_train, *options(4)], seconds)
    if device != 'cpu':
        yield Task('train --amp', python(*train[:2], '--work-dir', work / 'amp', '--amp', *options(4)), seconds)


def what_it_costs(device: str, work: Path, seconds: float) -> Iterator[Task]:
    """Yield the benchmarks of the loss, the mask head, the whole iteration and inference."""
    small = device == 'cpu'

    def task(name: str, module: str, *args: object, repeats: int = 31) -> Task:
        out = work / f'{name.replace(" ", "_")}.json'
        command = python('-m', f'benchmarks.cost.{module}', *args, '--device', device, '--out', out)
        return Task(name, [*command, '--repeats', '3' if small else str(repeats)], seconds, out)

    config = SHAPES if small else COCO
    options = ['--cfg-options', NO_WEIGHTS]
    amp = [*options, 'optim_wrapper.type=AmpOptimWrapper']
    # torch.compile needs a compiler.
    compiled = ['--compile'] if shutil.which('c++') or shutil.which('g++') else []
    yield task('loss', 'loss', *compiled, '--exponents', 2, 1.5, repeats=101)
    step = ['step', config, '--batches', 1, '--batch-size']
    yield task('step batch 1' if small else 'step batch 2', *step, 1 if small else 2, *options)
    if not small:
        yield task('step batch 2 amp', *step, 2, *amp)
    for classes in (80, 1203):
        head = f'model.roi_head.mask_head.num_classes={classes}'
        yield task(f'mask head {classes} classes', 'step', COCO, '--mask-branch', *options, head)
    yield task('inference', 'inference', config, *options)
    if not small:
        yield task('step batch 8', *step, 8, *options)
        yield task('step batch 8 amp', *step, 8, *amp)
        yield task('loss growth', 'loss', '--grow', '--figure', work / 'loss_growth.png')


def what_it_gains(device: str, work: Path, seconds: float, data: Path | None) -> Iterator[Task]:
    """Yield a full training of the baseline and the edge loss with several seeds, several runs at a time."""
    folder = work / 'gain'
    small = device == 'cpu'
    spec = 'photographs.py' if data else 'shapes_rehearsal.py' if small else 'shapes.py'
    command = python('-m', 'benchmarks.convergence', SPECS / spec, '--work-dir', folder, '--jobs', 1 if small else 6)
    if data:
        command += ['--data-root', str(data / 'animals'), '--pretrained', str(data / 'weights/mobilenet_v2.pth')]
    else:
        make_shapes = 'tools/dataset_converters/make_shapes_dataset.py'
        few = ['--num-train', 32, '--num-val', 8] if small else []
        yield Task('make shapes', python(make_shapes, work / 'all_shapes', *few), seconds)
        command += ['--data-root', str(work / 'all_shapes')]
    keep = (folder / 'results.jsonl',)
    # The benchmark resumes from its results, so that its limit loses only the runs under way.
    yield Task('full training', command, seconds, keep=keep, may_time_out=True, leave=REPORT)
    report = folder / 'report'
    yield Task('report', [*command, '--report'], REPORT, keep=(report / 'report.md', report / 'convergence.png'))
