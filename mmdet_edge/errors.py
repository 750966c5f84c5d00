"""How a user's mistake is reported: as one line, by one process."""

import functools
import os
import time
from collections.abc import Callable


class UserError(ValueError):
    """A mistake in a config, a file or a command; the message says who, expected, got and the likely cause."""


def one_line_errors(main: Callable[[], None]) -> Callable[[], None]:
    """Decorate the ``main`` of a command line: print a :class:`UserError` as one line, without a traceback.

    In a distributed job only the first process of each node prints it.

    Args:
        main (Callable): Takes no arguments.

    Returns:
        Callable: The same, which raises SystemExit instead of UserError.
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
