"""Test, measure and train on a GPU, within a given time; print a summary at the end.

The stages come in the order of their importance: it works (tests and command lines), what it costs (time and memory
against plain Mask R-CNN), what it gains (full training runs with several seeds). Each may take a fraction of the time.
A task that fails or reaches its limit does not stop the next. Needs no network.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.cost.timing import describe_machine
from mmdet_edge.errors import UserError, one_line_errors
from mmdet_edge.version import __version__

from .stages import ROOT, Task, checks, commands, what_it_costs, what_it_gains

SHARES = {'works': 0.3, 'costs': 0.4, 'gains': 0.3}
"""Fraction of the time that each stage may take; the next one gets what is left."""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog='python -m benchmarks.gpu', description=__doc__)
    parser.add_argument('out', type=Path, help='folder for the summary, the log and the results')
    parser.add_argument('--minutes', type=float, default=9, help='time for everything (default: 9)')
    parser.add_argument('--stage', action='append', choices=list(SHARES), help='only this; repeatable (default: all)')
    parser.add_argument('--device', default='cuda', help="'cpu' rehearses with small sizes (default: cuda)")
    parser.add_argument('--data', type=Path, help='folder with animals/ and weights/ (default: generated images)')
    return parser.parse_args()


def run(task: Task, limit: float, log: Path) -> dict[str, Any]:
    """Run a task in a process group of its own, and end all of it at its limit.

    Args:
        task (Task): What to run.
        limit (float): Seconds that are left of the stage.
        log (Path): Receives what it printed, in one piece.

    Returns:
        dict[str, Any]: ``task``, ``status`` ('passed', 'failed', 'timed out' or 'no time left'), ``seconds``, and
        ``result``, what the command wrote as JSON.
    """
    limit = min(task.seconds, limit - task.leave)
    record: dict[str, Any] = dict(task=task.name, command=' '.join(task.command), status='no time left', seconds=0.0)
    if limit < 5:
        return record
    start = time.monotonic()
    with tempfile.TemporaryFile('w+', errors='replace') as output:
        process = subprocess.Popen(
            task.command, cwd=ROOT, env=environment(), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            record['status'] = 'passed' if process.wait(limit) == 0 else 'failed'
        except subprocess.TimeoutExpired:
            record['status'] = 'passed' if task.may_time_out else 'timed out'
        finally:
            end(process)
            output.seek(0)
            with log.open('a') as file:
                file.write(f'\n$ {record["command"]}\n{output.read()}')
    record['seconds'] = round(time.monotonic() - start, 1)
    if task.result and task.result.is_file():
        record['result'] = json.loads(task.result.read_text())
    return record


def environment() -> dict[str, str]:
    """Return the environment of a task: this checkout first, and this interpreter's programs, such as torchrun."""
    path = f'{Path(sys.executable).parent}:{os.environ.get("PATH", "")}'
    return {**os.environ, 'PATH': path, 'PYTHONPATH': f'{ROOT}:{os.environ.get("PYTHONPATH", "")}'}


def end(process: subprocess.Popen) -> None:
    """End a process and all that it started: first politely, so that it can finish a line of its results."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                continue


def run_stage(name: str, lanes: list[Iterable[Task]], deadline: float, out: Path, results: dict) -> None:
    """Run the tasks of a stage, writing the results after each.

    Args:
        name (str): Of the stage.
        lanes (list[Iterable[Task]]): Tasks that are run one after the other, beside those of the other lanes.
        deadline (float): On the monotonic clock.
        out (Path): Folder of the results.
        results (dict): Extended in place.
    """
    records = results['stages'][name] = []
    lock = threading.Lock()

    def run_lane(tasks: Iterable[Task]) -> None:
        for task in tasks:
            record = run(task, deadline - time.monotonic(), out / 'log.txt')
            with lock:
                records.append(record)
                print(f'{name}: {task.name}: {record["status"]} ({record["seconds"]:.0f} s)', flush=True)
                for path in task.keep:
                    if path.is_file():
                        shutil.copy(path, out)
                (out / 'results.json').write_text(json.dumps(results, indent=1))

    with ThreadPoolExecutor(len(lanes)) as pool:
        # Consumed, so that an error of a lane is raised here.
        list(pool.map(run_lane, lanes))


def figures(result: dict) -> str:
    """Return what a benchmark measured in a few words."""
    if 'time_ratio' in result:
        return 'edge / plain: time {median:.3f} [{low:.3f}, {high:.3f}]'.format(**result['time_ratio']) + (
            f', memory {result["memory_ratio"]:.3f}' if 'memory_ratio' in result else ''
        )
    rows = [row for row in result.get('rows', []) if row['rois'] == 256]
    return '; '.join(
        f'p = {row["exponent"]:g}: edge / BCE {row["edge_to_bce"]["median"]:.2f} '
        f'[{row["edge_to_bce"]["low"]:.2f}, {row["edge_to_bce"]["high"]:.2f}]'
        for row in rows[:2]
    )


def make_summary(results: dict) -> Table:
    """Return all tasks with what they measured as a table."""
    table = Table('stage', 'task', 'status', 's', 'measured', title=f'{results["machine"]}, {results["commit"]}')
    for stage, records in results['stages'].items():
        for record in records:
            measured = figures(record.get('result', {}))
            table.add_row(stage, record['task'], record['status'], f'{record["seconds"]:.0f}', measured)
    return table


def describe(device: str) -> dict[str, Any]:
    """Return what identifies this run: the machine, the driver and the commit."""
    git = ['git', '-C', str(ROOT), 'describe', '--always', '--dirty']
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or __version__
    driver = None
    if torch.cuda.is_available():
        query = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
        driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    return dict(machine=describe_machine(device), driver=driver, cuda=torch.version.cuda, commit=commit, stages={})


@one_line_errors
def main() -> None:
    """Run the stages."""
    args = parse_args()
    if args.device != 'cpu' and not torch.cuda.is_available():
        raise UserError(
            f'--device {args.device}: torch {torch.__version__} sees no GPU; DEVICE=cpu rehearses without one'
        )
    if args.data and not (args.data / 'animals/train.json').is_file():
        raise UserError(f'--data: expected a folder with animals/train.json, got {args.data}')
    out, data = args.out.resolve(), args.data and args.data.resolve()
    out.mkdir(parents=True, exist_ok=True)
    (out / 'log.txt').unlink(missing_ok=True)
    results = describe(args.device)
    deadline = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
        shares = {name: share for name, share in SHARES.items() if not args.stage or name in args.stage}
        for name, share in shares.items():
            deadline += 60 * args.minutes * share / sum(shares.values())
            left = deadline - time.monotonic()
            lanes = {
                'works': lambda left: [checks(args.device, left), commands(args.device, Path(work), left)],
                'costs': lambda left: [what_it_costs(args.device, Path(work), left)],
                'gains': lambda left: [what_it_gains(args.device, Path(work), left, data)],
            }[name](left)
            run_stage(name, lanes, deadline, out, results)
    console = Console(width=160)
    failed = [
        f'{name}: {record["task"]}'
        for name, records in results['stages'].items()
        for record in records
        if record['status'] != 'passed'
    ]
    if failed:
        log = (out / 'log.txt').read_text(errors='replace').splitlines()
        console.print('\n'.join(log[-30:]), markup=False, highlight=False)
    console.print(make_summary(results))
    console.print(f'{out}/results.json, log.txt; not passed: {", ".join(failed) or "nothing"}', highlight=False)
    sys.exit(any(not name.startswith('gains') for name in failed))


if __name__ == '__main__':
    main()
