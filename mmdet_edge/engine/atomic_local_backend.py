"""A file backend that writes files as a whole or not at all."""

import contextlib
import os
from pathlib import Path
from typing import Union

from mmengine.fileio import LocalBackend, register_backend

# Of a file that is being written: hidden, and not found by who looks for *.pth.
UNFINISHED = '.unfinished'


@register_backend('atomic_local')
class AtomicLocalBackend(LocalBackend):
    """mmengine's ``LocalBackend``, which writes into the file itself, with whole-or-nothing writes.

    Whoever opens the file, at any moment and after a crash, finds what was there before or all that was written.
    ``dict(backend='atomic_local')`` as ``backend_args`` selects it.
    """

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        """Write bytes to a file.

        They go to a hidden file in the same folder, to the disk, and then take the place of ``filepath``. A file that
        cannot be written to its end is removed.

        Args:
            obj (bytes): Data to be written.
            filepath (str | Path): Where to; its folder is made if need be.

        Raises:
            OSError: If the data cannot be written, for example because the disk is full.
        """
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f'.{path.name}{UNFINISHED}')
        try:
            with open(unfinished, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise
        # The new name, too, has to survive a power failure. Some file systems cannot sync a folder.
        with contextlib.suppress(OSError):
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def put_text(self, obj: str, filepath: Union[str, Path], encoding: str = 'utf-8') -> None:
        """Write text to a file; see :meth:`put`.

        Args:
            obj (str): Text to be written.
            filepath (str | Path): Where to.
            encoding (str): Encoding of the file. Defaults to 'utf-8'.
        """
        self.put(obj.encode(encoding), filepath)
