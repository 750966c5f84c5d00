"""A file backend that writes a file completely or not at all."""

import contextlib
import os
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

# Suffix of a file that is being written; it is hidden, and *.pth does not match it.
UNFINISHED = '.unfinished'


@register_backend('atomic_local')
class AtomicLocalBackend(LocalBackend):
    """mmengine's ``LocalBackend`` with atomic writes.

    At any moment, and after a crash, the file has its old content or all of the new one; ``LocalBackend`` writes in
    place. ``backend_args=dict(backend='atomic_local')`` selects this backend.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a file; its folder is created if necessary.

        They go to a hidden file in the same folder, which is synced to the disk and then renamed to ``filepath``. If
        writing fails, the hidden file is removed.

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
        # The new name must survive a power failure, too. Some file systems cannot sync a folder.
        with contextlib.suppress(OSError):
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text to a file; see :meth:`put`."""
        self.put(obj.encode(encoding), filepath)
