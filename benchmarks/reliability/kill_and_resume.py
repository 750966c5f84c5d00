"""Does a training survive being killed? Kills one again and again, resumes it, and compares it with an undisturbed one.

Trains a small detector on generated images, on the CPU, with tools/train.py. Each start meets one fault, in turn:

- in a step, in an evaluation, while it starts: SIGKILL and SIGTERM in turn, at a random moment of these;
- inside a write: a checkpoint is written by half;
- after a write: a checkpoint has its name, and nothing has happened since;
- truncated: killed in a step, then the latest checkpoint is cut, as a file system might after a power failure;
- disk full: a checkpoint does not fit (a limit of the file size); the training ends by itself.

After each, all checkpoints must be whole but the one that was cut, and no process may be left. The losses of all steps,
and weights and momentum at the end, must equal those of the undisturbed training bit for bit. Writes report.json to the
work dir; exits with 1 if a promise is broken.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import random
import resource
import runpy
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import CheckpointLoader, IterBasedTrainLoop, ValLoop

from mmdet_edge import get_config_path
from mmdet_edge.analysis import read_run
from mmdet_edge.datasets import make_shapes_dataset
from mmdet_edge.engine import atomic_local_backend

CONFIG = get_config_path('mask_rcnn_edge/mask-rcnn_r18_fpn_edge_1xb4-300i_shapes.py')
TRAIN = Path(__file__).parents[2] / 'tools' / 'train.py'
FAULTS = (
    'in a step',
    'inside a write',
    'truncated',
    'disk full',
    'after a write',
    'in an evaluation',
    'while it starts',
)
# A forked child has the libraries loaded already.
PROCESSES: Any = multiprocessing.get_context('fork')
SMALL = {
    'model.backbone.base_channels': 8,
    'model.neck.in_channels': '[8,16,32,64]',
    'model.train_cfg.rpn_proposal.max_per_img': 50,
    'model.train_cfg.rcnn.sampler.num': 16,
    'model.test_cfg.rpn.max_per_img': 20,
    'model.test_cfg.rcnn.max_per_img': 5,
    'train_dataloader.batch_size': 2,
    'train_dataloader.dataset.pipeline.2.scale': '(96,96)',
    'val_dataloader.dataset.pipeline.1.scale': '(96,96)',
    'train_cfg.val_interval': 4,
    'default_hooks.logger.interval': 1,
    'default_hooks.checkpoint.interval': 2,
    'default_hooks.checkpoint.max_keep_ckpts': 2,
}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=30, help='number of faults (default: 30)')
    parser.add_argument('--steps', type=int, help='length of the training (default: 2 for each fault, and 10)')
    parser.add_argument('--workers', type=int, default=0, help='processes that load data (default: 0)')
    parser.add_argument('--seed', type=int, default=0, help='of the moments, not of the training (default: 0)')
    parser.add_argument('--work-dir', type=Path, default='work_dirs/kill_and_resume', help='(default: %(default)s)')
    args = parser.parse_args()
    args.steps = args.steps or 2 * args.kills + 10
    return args


def pause_at(fault: str, count: int, reached: Callable[[], None]) -> None:
    """Change the code that trains so that it says when the moment of a fault is there; to be called in the child.

    Args:
        fault (str): One of ``FAULTS``.
        count (int): At which step, image of the evaluation or write of this start.
        reached (Callable): What says it.
    """
    counter = itertools.count(1)

    def before(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def replacement(*args: Any, **kwargs: Any) -> Any:
            if next(counter) == count:
                reached()
            return original(*args, **kwargs)

        setattr(owner, name, replacement)

    if fault in ('in a step', 'truncated'):
        before(IterBasedTrainLoop, 'run_iter')
    elif fault == 'in an evaluation':
        before(ValLoop, 'run_iter')
    elif fault in ('inside a write', 'after a write'):
        put = atomic_local_backend.AtomicLocalBackend.put
        fsync, replace = os.fsync, os.replace

        def half(descriptor: int) -> None:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            fsync(descriptor)
            reached()
            time.sleep(600)

        def renamed(source: Any, target: Any) -> None:
            replace(source, target)
            reached()
            time.sleep(600)

        def paused_put(self: Any, obj: bytes, filepath: str) -> None:
            if next(counter) == count:
                if fault == 'inside a write':
                    os.fsync = half
                else:
                    os.replace = renamed
            put(self, obj, filepath)

        atomic_local_backend.AtomicLocalBackend.put = paused_put


def train(work_dir: Path, options: dict[str, Any], prepare: Callable[[], None]) -> None:
    """Run tools/train.py; to be called in a child, which gets a process group and a log of its own."""
    os.setsid()
    log = os.open(work_dir.with_suffix('.log'), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    prepare()
    settings = [f'{key}={value}' for key, value in options.items()]
    sys.argv = [str(TRAIN), CONFIG, '--work-dir', str(work_dir), '--resume', '--cfg-options', *settings]
    runpy.run_path(str(TRAIN), run_name='__main__')


class Victim:
    """A training that is killed and resumed.

    Args:
        work_dir (Path): Its work dir.
        options (dict): Its ``--cfg-options``.
        moments (random.Random): Chooses the moments.
    """

    def __init__(self, work_dir: Path, options: dict[str, Any], moments: random.Random) -> None:
        self.work_dir, self.options, self.random = work_dir, options, moments
        self.log = work_dir.with_suffix('.log')
        # The checkpoint that was cut, until another takes its place; whether the next start has to notice it.
        self.truncated, self.notice = Path(), False

    def run(self) -> None:
        """Train to the end."""
        process = PROCESSES.Process(target=train, args=(self.work_dir, self.options, lambda: None))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f'error: the training ended with {process.exitcode}; its log is {self.log}')

    def suffer(self, fault: str, end: signal.Signals) -> dict[str, Any]:
        """Start the training, let it meet a fault, and look at what is left.

        Args:
            fault (str): One of ``FAULTS``.
            end (signal.Signals): What kills it.

        Returns:
            dict: What happened; 'broken' lists the promises that were broken.
        """
        read, write = os.pipe()
        size = max((path.stat().st_size for path in self.checkpoints()), default=0)
        logged = self.log.stat().st_size if self.log.exists() else 0
        count = self.random.randint(1, 2 if 'write' in fault else 5)

        def prepare() -> None:
            pause_at(fault, count, lambda: os.write(write, b'!') and None)
            if fault == 'disk full':
                resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

        process = PROCESSES.Process(target=train, args=(self.work_dir, self.options, prepare))
        process.start()
        os.close(write)
        if fault == 'while it starts':
            time.sleep(self.random.uniform(0, 2))
        elif fault != 'disk full':
            select.select([read], [], [])
            time.sleep(self.random.uniform(0, 0.5))
        os.close(read)
        if fault != 'disk full':
            # As Slurm does: the process itself. What it started has to notice.
            os.kill(process.pid, end)
        killed = time.time()
        process.join()
        broken = [] if fault == 'disk full' else self._check_end(process, end, killed)
        seconds = time.time() - killed
        text = self.log.read_text(errors='replace')[logged:]
        errors = [line for line in text.splitlines() if line.startswith('error: ')]
        if fault == 'disk full' and not (
            process.exitcode == 1 and len(errors) == 1 and 'no space to save' in errors[0]
        ):
            broken.append(f'a full disk ended with {process.exitcode} and {errors}')
        if fault == 'disk full' and self._unfinished():
            broken.append(f'a full disk left {self._unfinished()}')
        if self.notice and ': resuming from the one before' not in text:
            broken.append('a truncated checkpoint went unnoticed')
        damaged = [path for path in self.checkpoints() if not is_whole(path)]
        broken += [f'{path.name} is damaged' for path in damaged if path.name != self.truncated.name]
        if self.truncated.name not in [path.name for path in damaged]:
            self.truncated = Path()
        steps = [int(path.stem.split('_')[1]) for path in self.checkpoints()]
        self.notice = fault == 'truncated' and len(steps) > 1
        if self.notice:
            # Not one that was killed before it was noted: the resume does not look at that.
            self.truncated = Path((self.work_dir / 'last_checkpoint').read_text())
            os.truncate(self.truncated, size // 2)
        return dict(fault=fault, signal=end.name, seconds_to_end=round(seconds, 2), checkpoints=steps, broken=broken)

    def _check_end(self, process: Any, end: signal.Signals, killed: float) -> list[str]:
        """Wait until the children of a killed training are gone."""
        if process.exitcode != -end:
            return [f'it ended with {process.exitcode} before it was killed']
        while time.time() < killed + 30:
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return []
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        return ['30 s after the training, processes of it are left']

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints, the latest last."""
        return sorted(self.work_dir.glob('iter_*.pth'), key=lambda path: int(path.stem.split('_')[1]))

    def _unfinished(self) -> list[str]:
        return [path.name for path in self.work_dir.glob(f'.*{atomic_local_backend.UNFINISHED}')]


def read(path: Path) -> dict[str, Any]:
    """Return what is in a checkpoint."""
    return CheckpointLoader.load_checkpoint(str(path), 'cpu', logger='silent')


def is_whole(path: Path) -> bool:
    """Tell whether a checkpoint can be read."""
    try:
        read(path)
    except Exception:
        return False
    return True


def differences(one: Any, two: Any, name: str = '') -> list[str]:
    """Return the names of the values that two nested containers do not have in common, bit for bit."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, two) else [name]
    if isinstance(one, dict):
        if one.keys() != two.keys():
            return [f'{name}: keys']
        return [found for key in one for found in differences(one[key], two[key], f'{name}.{key}')]
    return [] if one == two else [name]


def compare(killed: Victim, undisturbed: Victim) -> list[str]:
    """Return where two trainings differ."""
    one, two = (read(victim.checkpoints()[-1]) for victim in (killed, undisturbed))
    found = [found for key in ('state_dict', 'optimizer') for found in differences(one[key], two[key], key)]
    for key in ('loss', 'lr', 'coco/segm_mAP'):
        # An evaluation that was killed is not repeated: compare those of the steps that both have.
        one, two = (dict(zip(*read_run(victim.work_dir).curve(key))) for victim in (killed, undisturbed))
        found += [f'{key} of step {step}' for step in one if one[step] != two[step]]
        if key == 'loss' and one.keys() != two.keys():
            found.append('the steps that were logged')
    return found


def main() -> None:
    """Train, kill and compare."""
    args = parse_args()
    shutil.rmtree(args.work_dir, ignore_errors=True)
    args.work_dir.mkdir(parents=True)
    make_shapes_dataset(str(args.work_dir / 'data'), num_train=8, num_val=2, size=96)
    options = {**SMALL, 'data_root': args.work_dir / 'data', 'train_cfg.max_iters': args.steps}
    for split in ('train', 'val'):
        options[f'{split}_dataloader.num_workers'] = args.workers
        options[f'{split}_dataloader.persistent_workers'] = args.workers > 0
    moments = random.Random(args.seed)
    undisturbed = Victim(args.work_dir / 'undisturbed', options, moments)
    killed = Victim(args.work_dir / 'killed', options, moments)

    started = time.time()
    undisturbed.run()
    print(f'undisturbed: {args.steps} steps in {time.time() - started:.0f} s', flush=True)
    report: list[dict[str, Any]] = []
    for number, fault in zip(range(1, args.kills + 1), itertools.cycle(FAULTS)):
        report.append(killed.suffer(fault, signal.SIGTERM if number % 2 else signal.SIGKILL))
        print(f'{number}/{args.kills}', *(f'{key}: {value}' for key, value in report[-1].items()), sep='  ', flush=True)
    killed.run()
    different = compare(killed, undisturbed)
    broken = [promise for line in report for promise in line['broken']]
    summary = dict(
        steps=args.steps,
        workers=args.workers,
        kills=len(report),
        broken=broken,
        different=different,
        slowest_end=max(line['seconds_to_end'] for line in report),
        torch=torch.__version__,
    )
    atomic_local_backend.AtomicLocalBackend().put_text(
        json.dumps(dict(summary, faults=report), indent=1), args.work_dir / 'report.json'
    )
    for path in sorted(args.work_dir.glob('*/*.pth')):
        path.unlink()
    print(*(f'{key}: {value}' for key, value in summary.items()), sep='\n')
    sys.exit(1 if broken or different else 0)


if __name__ == '__main__':
    main()
