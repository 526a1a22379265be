"""The user's cache: which folder it is, who may write to it, what is said when that fails."""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # no such lock there
    fcntl = None  # type: ignore[assignment]


def folder() -> Path:
    """Where the cache is: ``AKM_CACHE_DIR``, else ``akm_triton`` in the user's cache folder.

    Raises:
        OSError: there is none, as for a user of a container who has no home.
    """
    named = os.environ.get("AKM_CACHE_DIR")
    if named:
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "akm_triton"
    except RuntimeError as error:
        raise OSError(str(error)) from error


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """One writer of the file at a time. The system releases the lock of a process that dies."""
    lock = path.with_suffix(".lock")
    while True:
        with open(lock, "a") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
                if not _is_at(file.fileno(), lock):  # ``clear`` removed it meanwhile
                    continue
            yield
            return


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@functools.cache
def warn_once(message: str) -> None:
    """Each in a process, whatever the filters."""
    warnings.warn(message, stacklevel=3)
