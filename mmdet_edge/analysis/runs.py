"""Reading the work dir of a training run."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union


@dataclass(frozen=True)
class Run:
    """What a training run logged.

    Args:
        work_dir (Path): The work dir of mmengine's Runner.
        scalars (list[dict]): One dict per log line, with ``step``, in the order of the steps.
    """

    work_dir: Path
    scalars: list[dict[str, Any]]

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Return the steps at which a value was logged, and the values.

        Args:
            key (str): Such as 'loss_mask' or 'coco/segm_mAP'.

        Returns:
            tuple[list[int], list[float]]: Steps and values; both empty if it was never logged.
        """
        lines = [line for line in self.scalars if key in line]
        return [line['step'] for line in lines], [line[key] for line in lines]


def read_run(work_dir: Union[str, Path]) -> Run:
    """Read the scalars of a run, which may have been interrupted and resumed.

    Args:
        work_dir (str | Path): The work dir of mmengine's Runner, with ``*/vis_data/scalars.json``.

    Returns:
        Run: What was logged. Steps that were repeated after a resume count once, as the last start logged them.

    Raises:
        FileNotFoundError: If there is no log in ``work_dir``.
    """
    logs = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    if not logs:
        raise FileNotFoundError(f'{work_dir} has no */vis_data/scalars.json: not the work dir of a training run')
    scalars: list[dict[str, Any]] = []
    for log in logs:
        lines = _read_log(log)
        if lines:
            scalars = [line for line in scalars if line['step'] < lines[0]['step']] + lines
    return Run(Path(work_dir), scalars)


def _read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of one log, the step of an evaluation replaced by that of the last training line.

    mmengine counts evaluations in epochs by default, which for training by iterations is always 0.
    """
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    step = 0
    for line in lines:
        if 'loss' in line:
            step = line['step']
        line['step'] = step
    return lines
