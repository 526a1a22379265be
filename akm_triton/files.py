"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path


def replace_bytes(path: Path, content: bytes) -> None:
    """Write atomically: on failure, or if the process is killed, the old file stays."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(scratch, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """As ``replace_bytes``, in UTF-8."""
    replace_bytes(path, text.encode())


def slug(name: str) -> str:
    """A file name: lower case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
