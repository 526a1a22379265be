"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from pathlib import Path

SCRATCH_SUFFIX = r"\.[0-9a-f]{16}"
"""By which a file left by a killed writer is known; its name begins with a dot and the file's."""
SHORT = 100
"""Bytes that every file system takes for a name."""


def replace_bytes(path: Path, content: bytes) -> None:
    """Write atomically: on failure, or if the process is killed, the old file stays, and a reader
    sees all of one or the other. Through a symbolic link; mode and owner of the old file stay.
    """
    old = _stat(path)
    if old is not None and not stat.S_ISREG(old.st_mode):  # a device or a pipe is not replaced
        path.write_bytes(content)
        return
    path = Path(os.path.realpath(path))
    scratch = path.with_name(_scratch_name(path.name))
    try:
        with open(scratch, "xb") as file:
            if old is not None:  # before there is anything to read
                with contextlib.suppress(OSError, AttributeError):  # not ours to give; Windows
                    os.chown(scratch, old.st_uid, old.st_gid)
                if os.fstat(file.fileno()).st_mode != old.st_mode:  # not every system has modes
                    os.chmod(scratch, stat.S_IMODE(old.st_mode))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _scratch_name(name: str) -> str:
    """Of a file beside ``name``, by this writer alone: threads share a pid, and so do containers.
    No longer than ``name``, or short."""
    encoded = os.fsencode(name)
    room = max(len(encoded), SHORT) - len(".") - len(".0123456789abcdef")
    return f".{encoded[:room].decode(errors='ignore')}.{secrets.token_hex(8)}"


def replace_text(path: Path, text: str) -> None:
    """As ``replace_bytes``, in UTF-8."""
    replace_bytes(path, text.encode())


def slug(name: str) -> str:
    """A file name: lower case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
