"""Plans on disk: the user's cache, which outlives any crash, and the plans that are shipped.

A file belongs to one environment: device, capability, Triton, this package and its kernels, because
a plan was measured with these. Writers hold a lock, read the file, add to it and rename the new one
into place, so that nothing committed is lost when a process is killed.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from akm_triton._version import __version__
from akm_triton.files import replace_text, slug
from akm_triton.launch.device import Device

try:
    import fcntl
except ImportError:  # no such lock there, and no Triton
    fcntl = None  # type: ignore[assignment]

FORMAT = 2
SHIPPED = Path(__file__).parent / "shipped"
KERNELS = Path(__file__).parent.parent / "backend"

Entries = dict[str, dict[str, Any]]
"""Problem.key → {"plan", "seconds", "rule_seconds", "clock"}."""


def folder() -> Path:
    """Where the cache is: ``AKM_CACHE_DIR``, else ``akm_triton`` in the user's cache folder."""
    named = os.environ.get("AKM_CACHE_DIR")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "akm_triton"


@functools.cache
def kernel_hash(folder: Path = KERNELS) -> str:
    """Of the syntax of every file that holds a Triton kernel: comments, docstrings and layout do
    not count, for they change no machine code."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        if any(isinstance(node, ast.FunctionDef) and _is_kernel(node) for node in tree.body):
            digest.update(_syntax(tree).encode())
    return digest.hexdigest()[:12]


def _is_kernel(function: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator) == "triton.jit" for decorator in function.decorator_list)


def _syntax(node: Any) -> str:
    """The tree in brackets. Not ``ast.dump``, whose text differs between versions of Python."""
    if isinstance(node, list):
        return "".join(_syntax(child) for child in node if not _is_text(child))
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
    return f"({type(node).__name__} {' '.join(f'{name}={_syntax(v)}' for name, v in fields)})"


def _is_text(node: Any) -> bool:
    """Whether it is a docstring, or another string that stands alone."""
    return isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)


@functools.cache
def environment(device: Device) -> dict[str, Any]:
    import triton

    return {
        "device": device.name,
        "capability": device.capability,
        "triton": triton.__version__,
        "akm_triton": __version__,
        "kernels": kernel_hash(),
    }


def path_of(device: Device) -> Path:
    env = environment(device)
    digest = hashlib.sha256(json.dumps(env, sort_keys=True).encode()).hexdigest()[:12]
    return folder() / f"{slug(device.name)}-{digest}.json"


def read(device: Device) -> Entries:
    """What the cache holds for this environment; a file that is no such thing is set aside."""
    path = path_of(device)
    try:
        text = path.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        return _set_aside(path, error)
    try:
        return _entries(json.loads(text), environment(device))
    except ValueError as error:
        return _set_aside(path, error)


def _entries(record: Any, env: dict[str, Any]) -> Entries:
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"not a tuning cache of format {FORMAT}")
    if record.get("environment") != env:
        raise ValueError(f"of another environment: {record.get('environment')}")
    entries = record.get("entries")
    if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
        raise ValueError("no entries")
    return entries


def _set_aside(path: Path, error: Exception) -> Entries:
    aside = path.with_name(f"{path.name}.unreadable-{time.time_ns()}")
    outcome = f"set aside as {aside.name}"
    try:
        os.replace(path, aside)
    except OSError:
        outcome = "left where it is"
    warnings.warn(
        f"the tuning cache {path} cannot be read ({error}); {outcome}. The rule "
        "plans launches until they are tuned again",
        stacklevel=2,
    )
    return {}


def add(device: Device, entries: Entries) -> bool:
    """Commit entries to the cache; False, with a warning, where it cannot be written."""
    path = path_of(device)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path):
            write(path, environment(device), {**read(device), **entries})
    except OSError as error:
        warnings.warn(
            f"the tuning cache {path} cannot be written ({error}); only this process will use "
            "what was tuned. Set AKM_CACHE_DIR to a folder that can be written",
            stacklevel=2,
        )
        return False
    return True


def write(path: Path, env: dict[str, Any], entries: Entries, **more: Any) -> None:
    """The whole file or nothing of it, an entry a line."""
    lines = ",\n".join(
        f"  {json.dumps(key)}: {json.dumps(entries[key])}" for key in sorted(entries)
    )
    head = {"format": FORMAT, "environment": env, **more}
    pairs = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    replace_text(path, "{\n" + ",\n".join([*pairs, ' "entries": {\n' + lines + "\n }"]) + "\n}\n")


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One writer at a time. The system releases the lock of a process that dies."""
    with open(path.with_suffix(".lock"), "a") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def clear() -> int:
    """Remove every file of plans from the cache; returns how many there were."""
    cache = folder()
    count = 0
    for path in sorted(cache.glob("*.json*")) + sorted(cache.glob(".*.json.*")):
        path.unlink(missing_ok=True)
        count += path.suffix == ".json"
    return count


def shipped(device: Device, root: Path = SHIPPED) -> Entries:
    """The entries shipped for this device, empty where there are none for these kernels."""
    path = root / f"{slug(device.name)}.json"
    try:
        record = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    env = record["environment"]
    if (env["device"], env["kernels"]) != (device.name, kernel_hash()):
        return {}
    entries: Entries = record["entries"]
    return entries
