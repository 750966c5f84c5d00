"""Whether files and folders are there, and can be written."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmdet_edge.errors import UserError


def is_local(path: str) -> bool:
    """Return whether a path is one of this machine, and no URL."""
    return '://' not in path and not path.startswith('s3:')


def exists(root: str, path: str, is_there: Callable[[Path], bool] = Path.exists) -> bool:
    """Return whether a file or folder exists; what is not on this machine's disk is given the benefit of the doubt."""
    path = path if Path(path).is_absolute() or not is_local(path) else os.path.join(root, path)
    return not is_local(path) or is_there(Path(path))


def check_writable(what: str, path: Any, is_folder: bool = True) -> None:
    """Raise UserError if a folder or file cannot be written; nothing is made.

    ``what``, the name of an option or setting, opens the message.
    """
    path = Path(path)
    if path.exists() and path.is_dir() != is_folder:
        raise UserError(f'{what} must be a {"folder, got the file" if is_folder else "file, got the folder"} {path}')
    there = path
    while not there.exists():
        there = there.parent
    if there != path and not there.is_dir():
        raise UserError(f'{what}: {path} cannot be made, as {there} is a file')
    if not os.access(there, os.W_OK):
        raise UserError(f'{what}: no permission to write {there}')
