"""How a user's mistake is reported: as one line, by one process."""

import functools
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

INTERRUPTED = 130
"""Exit code of a process that Ctrl-C ended, as shells have it."""


class UserError(ValueError):
    """A mistake in a config, a file or a command; the message says who, expected, got and the likely cause."""


def one_line_errors(main: Callable[[], None]) -> Callable[[], None]:
    """Decorate the ``main`` of a command line: print a :class:`UserError` or Ctrl-C as one line, without a traceback.

    A ``KeyboardInterrupt`` with a text is printed with it. In a distributed job only local rank 0 of each node prints.
    """

    @functools.wraps(main)
    def run() -> None:
        try:
            main()
        except UserError as error:
            if environment_ranks()[1] == '0':
                raise SystemExit(f'error: {error}') from error.__cause__
            # torchrun ends all processes as soon as one has ended: wait for the one that prints.
            time.sleep(5)
            raise SystemExit(1) from None
        except KeyboardInterrupt as stopped:
            if environment_ranks()[1] == '0':
                print(f'\n{stopped}' if f'{stopped}' else '\ninterrupted', file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None

    return run


def environment_ranks() -> tuple[str, str]:
    """Return the rank of this process in its job and on its node, read from the environment.

    Unlike mmengine's functions it works before the process group is initialised.
    """
    # A Slurm task may start torchrun or mpirun, whose processes inherit the numbers of the task.
    for rank, local_rank in (
        ('RANK', 'LOCAL_RANK'),
        ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK'),
        ('SLURM_PROCID', 'SLURM_LOCALID'),
    ):
        if rank in os.environ:
            return os.environ[rank], os.environ.get(local_rank, '0')
    return '0', '0'


def some(items: Iterable[Any], shown: int = 5) -> str:
    """Return the first items, separated by commas."""
    words = [f'{item}' for item in items]
    return ', '.join(words[:shown]) + (', ...' if len(words) > shown else '')


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line of at most 500 characters, or its type if it has none."""
    text = ' '.join(f'{error}'.split()) or type(error).__name__
    return text if len(text) < 500 else f'{text[:500]}...'
