"""Does a training run survive being killed? Kills one many times, resumes it, and compares it with an undisturbed one.

Trains a small detector on generated images, on the CPU, with tools/train.py. Each start meets one fault, in turn:

- in a step, in an evaluation, while it starts: SIGKILL and SIGTERM in turn, at a random moment of these;
- inside a write: half of a checkpoint is written;
- after a write: a checkpoint has its final name, and nothing has happened since;
- truncated: killed in a step, then the latest checkpoint is cut, as a file system might after a power failure;
- disk full: a checkpoint does not fit (a limit of the file size); the training run ends by itself.

After each fault, all checkpoints except the one that was cut must be intact, and no process may be left. The losses of
all iterations, and weights and momentum at the end, must equal those of the undisturbed run bit for bit. Writes
report.json to the work dir; exits with 1 if a promise is broken.
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
from mmdet_edge.engine.atomic_local_backend import UNFINISHED, AtomicLocalBackend
from mmdet_edge.errors import UserError, one_line_errors

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
    parser.add_argument('--iterations', type=int, help='training iterations (default: 10, and 2 for each fault)')
    parser.add_argument('--workers', type=int, default=0, help='dataloader workers (default: 0)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the moments of the faults (default: 0)')
    parser.add_argument('--work-dir', type=Path, default='work_dirs/kill_and_resume', help='(default: %(default)s)')
    args = parser.parse_args()
    args.iterations = args.iterations or 2 * args.kills + 10
    return args


def call_before(owner: Any, name: str, count: int, reached: Callable[[], None]) -> None:
    """Call a function before a method is called for the ``count``-th time."""
    original, counter = getattr(owner, name), itertools.count(1)

    def replacement(*args: Any, **kwargs: Any) -> Any:
        if next(counter) == count:
            reached()
        return original(*args, **kwargs)

    setattr(owner, name, replacement)


def pause_at(fault: str, count: int, reached: Callable[[], None]) -> None:
    """Change the code that trains so that it reports the moment of a fault; to be called in the child.

    Args:
        fault (str): One of ``FAULTS``.
        count (int): At which iteration, image of the evaluation or write of this start.
        reached (Callable): Reports it.
    """
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

    if fault in ('in a step', 'truncated'):
        call_before(IterBasedTrainLoop, 'run_iter', count, reached)
    elif fault == 'in an evaluation':
        call_before(ValLoop, 'run_iter', count, reached)
    elif fault == 'inside a write':
        call_before(AtomicLocalBackend, 'put', count, lambda: setattr(os, 'fsync', half))
    elif fault == 'after a write':
        call_before(AtomicLocalBackend, 'put', count, lambda: setattr(os, 'replace', renamed))


def train(work_dir: Path, options: dict[str, Any], prepare: Callable[[], None]) -> None:
    """Run tools/train.py; to be called in a child, which gets a process group and a log of its own."""
    os.setsid()
    log = os.open(work_dir.with_suffix('.log'), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    prepare()
    cfg_options = [f'{key}={value}' for key, value in options.items()]
    sys.argv = [str(TRAIN), CONFIG, '--work-dir', str(work_dir), '--resume', '--cfg-options', *cfg_options]
    runpy.run_path(str(TRAIN), run_name='__main__')


class Victim:
    """A training run that is killed and resumed.

    Args:
        work_dir (Path): Its work dir.
        options (dict): Its ``--cfg-options``.
        moments (random.Random): Chooses the moments.
    """

    def __init__(self, work_dir: Path, options: dict[str, Any], moments: random.Random) -> None:
        self.work_dir, self.options, self.random = work_dir, options, moments
        self.log = work_dir.with_suffix('.log')
        # The checkpoint that was cut, until another replaces it; whether the next start has to notice it.
        self.truncated, self.notice = Path(), False

    def run(self) -> None:
        """Train to the end."""
        process = PROCESSES.Process(target=train, args=(self.work_dir, self.options, lambda: None))
        process.start()
        process.join()
        if process.exitcode:
            raise UserError(f'the training run ended with {process.exitcode}; its log is {self.log}')

    def run_until_fault(self, fault: str, end: signal.Signals) -> dict[str, Any]:
        """Start the training run, let it meet a fault, and check what is left.

        Args:
            fault (str): One of ``FAULTS``.
            end (signal.Signals): What kills it.

        Returns:
            dict: What happened; 'broken' lists the promises that were broken.
        """
        size = max((path.stat().st_size for path in self.checkpoints()), default=0)
        logged = self.log.stat().st_size if self.log.exists() else 0
        process = self._start(fault, size // 2)
        if fault != 'disk full':
            # As Slurm does: only the process itself. What it has started has to notice.
            os.kill(process.pid, end)
        killed = time.time()
        process.join()
        broken = [] if fault == 'disk full' else self._check_end(process, end, killed)
        seconds = time.time() - killed
        text = self.log.read_text(errors='replace')[logged:]
        if fault == 'disk full':
            broken += self._check_full_disk(process.exitcode, text)
        broken += self._check_checkpoints(text)
        iterations = [int(path.stem.split('_')[1]) for path in self.checkpoints()]
        self.notice = fault == 'truncated' and len(iterations) > 1
        if self.notice:
            # The checkpoint that was noted: a resume does not look at one that was killed before that.
            self.truncated = Path((self.work_dir / 'last_checkpoint').read_text())
            os.truncate(self.truncated, size // 2)
        return dict(
            fault=fault, signal=end.name, seconds_to_end=round(seconds, 2), checkpoints=iterations, broken=broken
        )

    def _start(self, fault: str, file_size: int) -> Any:
        """Start the training run and wait for the moment of the fault."""
        read, write = os.pipe()
        count = self.random.randint(1, 2 if 'write' in fault else 5)

        def prepare() -> None:
            pause_at(fault, count, lambda: os.write(write, b'!') and None)
            if fault == 'disk full':
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))

        process = PROCESSES.Process(target=train, args=(self.work_dir, self.options, prepare))
        process.start()
        os.close(write)
        if fault == 'while it starts':
            time.sleep(self.random.uniform(0, 2))
        elif fault != 'disk full':
            select.select([read], [], [])
            time.sleep(self.random.uniform(0, 0.5))
        os.close(read)
        return process

    def _check_end(self, process: Any, end: signal.Signals, killed: float) -> list[str]:
        """Wait until the children of a killed run are gone."""
        if process.exitcode != -end:
            return [f'it ended with {process.exitcode} before it was killed']
        while time.time() < killed + 30:
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return []
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        return ['30 s after the run, processes of it are left']

    def _check_full_disk(self, exitcode: int, text: str) -> list[str]:
        """Check that a full disk ends a run with one line and no unfinished file."""
        broken = []
        errors = [line for line in text.splitlines() if line.startswith('error: ')]
        if exitcode != 1 or len(errors) != 1 or 'no space to save' not in errors[0]:
            broken.append(f'a full disk ended with {exitcode} and {errors}')
        if unfinished := [path.name for path in self.work_dir.glob(f'.*{UNFINISHED}')]:
            broken.append(f'a full disk left {unfinished}')
        return broken

    def _check_checkpoints(self, text: str) -> list[str]:
        """Check that all checkpoints are intact, and that the truncated one was noticed."""
        broken = []
        if self.notice and ': resuming from the one before' not in text:
            broken.append('a truncated checkpoint was not noticed')
        damaged = [path.name for path in self.checkpoints() if not is_intact(path)]
        broken += [f'{name} is damaged' for name in damaged if name != self.truncated.name]
        if self.truncated.name not in damaged:
            self.truncated = Path()
        return broken

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints, the latest last."""
        return sorted(self.work_dir.glob('iter_*.pth'), key=lambda path: int(path.stem.split('_')[1]))


def read(path: Path) -> dict[str, Any]:
    """Return what is in a checkpoint."""
    return CheckpointLoader.load_checkpoint(str(path), 'cpu', logger='silent')


def is_intact(path: Path) -> bool:
    """Return whether a checkpoint can be read."""
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
    """Return where two training runs differ."""
    one, two = (read(victim.checkpoints()[-1]) for victim in (killed, undisturbed))
    found = [found for key in ('state_dict', 'optimizer') for found in differences(one[key], two[key], key)]
    for key in ('loss', 'lr', 'coco/segm_mAP'):
        # An evaluation that was killed is not repeated: compare those that both have.
        one, two = (dict(zip(*read_run(victim.work_dir).curve(key))) for victim in (killed, undisturbed))
        found += [f'{key} of iteration {i}' for i in one if one[i] != two[i]]
        if key == 'loss' and one.keys() != two.keys():
            found.append('the iterations that were logged')
    return found


def make_victims(args: argparse.Namespace) -> tuple[Victim, Victim]:
    """Generate the data and return the run that is killed and the undisturbed one."""
    shutil.rmtree(args.work_dir, ignore_errors=True)
    args.work_dir.mkdir(parents=True)
    make_shapes_dataset(str(args.work_dir / 'data'), num_train=8, num_val=2, size=96)
    options = {**SMALL, 'data_root': args.work_dir / 'data', 'train_cfg.max_iters': args.iterations}
    for split in ('train', 'val'):
        options[f'{split}_dataloader.num_workers'] = args.workers
        options[f'{split}_dataloader.persistent_workers'] = args.workers > 0
    moments = random.Random(args.seed)
    return tuple(Victim(args.work_dir / name, options, moments) for name in ('killed', 'undisturbed'))


@one_line_errors
def main() -> None:
    """Train, kill and compare."""
    args = parse_args()
    killed, undisturbed = make_victims(args)
    started = time.time()
    undisturbed.run()
    print(f'undisturbed: {args.iterations} iterations in {time.time() - started:.0f} s', flush=True)
    faults: list[dict[str, Any]] = []
    for number, fault in zip(range(1, args.kills + 1), itertools.cycle(FAULTS)):
        faults.append(killed.run_until_fault(fault, signal.SIGTERM if number % 2 else signal.SIGKILL))
        print(f'{number}/{args.kills}', *(f'{key}: {value}' for key, value in faults[-1].items()), sep='  ', flush=True)
    killed.run()
    summary = dict(
        iterations=args.iterations,
        workers=args.workers,
        kills=len(faults),
        broken=[promise for line in faults for promise in line['broken']],
        different=compare(killed, undisturbed),
        slowest_end=max(line['seconds_to_end'] for line in faults),
        torch=torch.__version__,
    )
    report = json.dumps(dict(summary, faults=faults), indent=1)
    AtomicLocalBackend().put_text(report, args.work_dir / 'report.json')
    for path in sorted(args.work_dir.glob('*/*.pth')):
        path.unlink()
    print(*(f'{key}: {value}' for key, value in summary.items()), sep='\n')
    sys.exit(1 if summary['broken'] or summary['different'] else 0)


if __name__ == '__main__':
    main()
