"""A C++ source → a loaded library: compiled on this machine when it is first needed, and kept in
the user's cache for every later process."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from akm_triton.cache import alone, folder
from akm_triton.files import replace_bytes

NAMES = ("c++", "g++", "clang++")
"""The compilers that are looked for, where the environment's CXX names none."""
FLAGS = ["-std=c++17", "-O3", "-ffp-contract=fast", "-fPIC", "-shared"]
CHOICES = (["-march=native", "-fopenmp"], ["-march=native"], ["-fopenmp"], ["-pthread"])
"""Flags that a compiler may refuse, the best first."""


SUFFIXES = (".cpp", ".h")


class Unavailable(Exception):
    """There is no library, and why."""


def load(source: Path, name: str, *flags: str) -> ctypes.CDLL:
    """The library of this source, the headers beside it and these flags. ``name`` begins its file's
    name in the cache.

    One of several processes compiles, and says so in a line on stderr; the others wait.

    Raises:
        Unavailable: no compiler, none that takes the source, or no cache that can be written.
    """
    compiler = find_compiler()
    try:
        made_of = compiler, _stamp(compiler[0]), FLAGS, CHOICES, flags, _cpu()
        parts = [x.read_bytes() for x in sorted(source.parent.iterdir()) if x.suffix in SUFFIXES]
        parts.append(repr(made_of).encode())
        digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
        path = folder() / f"{name}-{digest}.so"
        with contextlib.suppress(OSError):  # not there yet, or damaged
            return ctypes.CDLL(str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(path):
            with contextlib.suppress(OSError):  # another process made it meanwhile
                return ctypes.CDLL(str(path))
            _compile([*compiler, *FLAGS, *flags], source, path)
            return ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(str(error)) from error


def find_compiler() -> list[str]:
    """The words that call it.

    Raises:
        Unavailable: there is none.
    """
    named = os.environ.get("CXX")
    candidates = [shlex.split(named)] if named else [[name] for name in NAMES]
    for words in candidates:
        found = shutil.which(words[0]) if words else None
        if found:
            return [found, *words[1:]]
    looked = f"CXX={named}" if named else ", ".join(NAMES)
    raise Unavailable(f"there is no C++ compiler ({looked})")


def _stamp(program: str) -> tuple[str, int, int]:
    """Another one where the program is another."""
    real = os.path.realpath(program)
    found = os.stat(real)
    return real, found.st_size, found.st_mtime_ns


@functools.cache
def _cpu() -> str:
    """What this CPU can do: the cache may be shared with machines that can do less."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    told = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    features = {key.strip(): value.strip() for key, value in told.items()}
    return repr([platform.machine(), *map(features.get, ("model name", "flags", "Features"))])


def _compile(command: list[str], source: Path, path: Path) -> None:
    print(
        f"akm_triton: compiling its CPU kernels with {command[0]}, once; this takes some seconds",
        file=sys.stderr,
        flush=True,
    )
    said = ""
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / path.name
        for choice in CHOICES:
            done = subprocess.run(
                [*command, *choice, str(source), "-o", str(made)],
                capture_output=True, text=True, errors="replace", check=False,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
            if done.returncode == 0 and made.exists():
                replace_bytes(path, made.read_bytes())
                return
            said = said or done.stderr.strip()
    raise Unavailable(f"{command[0]} did not compile {source.name}: {said[:1000] or 'no output'}")
