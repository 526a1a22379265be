"""Plans on disk: the user's cache, which outlives any crash, and the plans that are shipped.

A file belongs to one environment: device, capability, Triton, this package and its kernels, because
a plan was measured with these. Writers hold a lock, read the file, add to it and rename the new one
into place, so that nothing committed is lost when a process is killed.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any

from akm_triton._version import __version__
from akm_triton.cache import alone, folder, warn_once
from akm_triton.files import SCRATCH_SUFFIX, replace_text, slug
from akm_triton.launch.device import Device

FORMAT = 2
SHIPPED = Path(__file__).parent / "shipped"
KERNELS = Path(__file__).parent.parent / "backend"

Entries = dict[str, dict[str, Any]]
"""Problem.key → {"plan", "seconds", "rule_seconds", "clock"}."""
Stamp = tuple[int, ...]


@functools.cache
def kernel_hash(folder: Path = KERNELS) -> str:
    """Of the syntax of every file that holds a Triton kernel: comments, docstrings and layout do
    not count, for they change no machine code."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix != ".py":
            continue
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


# The names of what is ours: plans; beside them a lock, files set aside, and scratch files that a
# killed writer left.
_PLANS = r"akm-triton-[a-z0-9-]*-[0-9a-f]{12}"
_OURS = re.compile(
    rf"{_PLANS}\.json|{_PLANS}\.lock|{_PLANS}\.json\.unreadable-\d+|\.{_PLANS}\.json{SCRATCH_SUFFIX}"
)


def path_of(device: Device) -> Path:
    env = environment(device)
    digest = hashlib.sha256(json.dumps(env, sort_keys=True).encode()).hexdigest()[:12]
    return folder() / f"akm-triton-{slug(device.name)[:48]}-{digest}.json"


def stamp(device: Device) -> Stamp:
    """Another number each time that the cache of this environment is written."""
    try:
        found = path_of(device).stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ino, found.st_size


def read(device: Device) -> Entries:
    """What the cache holds for this environment; a file that is no such thing is set aside. Nothing
    where it cannot be read, with a warning if there is something that was to be read."""
    path = _path_or_warning(device)
    if path is None:
        return {}
    env = environment(device)
    try:
        return _entries(path, env)
    except OSError as error:
        if _may_be_there(path):
            warn_once(f"the tuning cache {path} cannot be read ({error}); the rule plans launches")
        return {}
    except (ValueError, RecursionError) as error:
        try:
            with alone(path):  # another process may have written a good one meanwhile
                return _entries_or_set_aside(path, env)
        except OSError:
            warn_once(
                f"{path} is no tuning cache ({error}); left where it is. The rule plans launches"
            )
            return {}


def _may_be_there(path: Path) -> bool:
    """Whether there was something to be read: not where nothing is, or nothing can be seen. Asked
    without opening it, for a process may have no more files to open."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
    except OSError:
        pass
    return True


def _path_or_warning(device: Device) -> Path | None:
    try:
        return path_of(device)
    except OSError as error:
        warn_once(
            f"there is no tuning cache ({error}), the rule plans launches. AKM_CACHE_DIR may name "
            "a folder for one"
        )
        return None


def _entries_or_set_aside(path: Path, env: dict[str, Any]) -> Entries:
    """The file's entries; under the lock, a file that was read and has none is renamed."""
    try:
        return _entries(path, env)
    except (ValueError, RecursionError) as error:
        aside = path.with_name(f"{path.name}.unreadable-{time.time_ns()}")
        os.replace(path, aside)
        warn_once(
            f"{path} is no tuning cache ({error}); set aside as {aside.name}. The rule plans "
            "launches until they are tuned again"
        )
        return {}


def _entries(path: Path, env: dict[str, Any]) -> Entries:
    """What ``write`` wrote for this environment.

    Raises:
        OSError: it cannot be read.
        ValueError, RecursionError: it is something else.
    """
    record = _record(path)
    if record["environment"] != env:
        raise ValueError(f"of another environment: {record['environment']}")
    return _sound(path, record)


def _record(path: Path) -> dict[str, Any]:
    record = json.loads(path.read_text("utf-8"))
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"not a file of plans of format {FORMAT}")
    for name in ("environment", "entries"):
        if not isinstance(record.get(name), dict):
            raise ValueError(f"no {name}")
    return record


def _sound(path: Path, record: dict[str, Any]) -> Entries:
    """The entries that have the form of one. Whether their plans are any, ``from_json`` says."""
    found: Entries = record["entries"]
    sound = {k: entry for k, entry in found.items() if isinstance(entry, dict) and not _deep(entry)}
    if damaged := sorted(found.keys() - sound.keys()):
        warn_once(f"{len(damaged)} damaged entries of {path} are passed over: {damaged!r:.300}")
    return sound


def _deep(value: Any, levels: int = 4) -> bool:
    """Whether lists and dicts nest deeper than those of an entry: entry, plan, launch, outputs."""
    within = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(levels == 0 or _deep(x, levels - 1) for x in within)


def add(device: Device, entries: Entries) -> bool:
    """Commit entries to the cache; False, with a warning, where it cannot be read and written."""
    path = _path_or_warning(device)
    if path is None:
        return False
    env = environment(device)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(path):
            try:
                before = _entries_or_set_aside(path, env)
            except FileNotFoundError:
                before = {}
            write(path, env, {**before, **entries})
    except OSError as error:
        warn_once(
            f"the tuning cache {path} cannot be written ({error}); only this process will use "
            "what was tuned. Set AKM_CACHE_DIR to a folder that can be written"
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


def clear() -> int:
    """Remove what this package has written into the cache, and nothing else that lies there;
    returns how many files of plans there were."""
    cache, count = folder(), 0
    for path in sorted(cache.glob("*")):
        if _OURS.fullmatch(path.name) and (path.is_symlink() or path.is_file()):
            path.unlink(missing_ok=True)
            count += path.suffix == ".json"
    return count


def shipped(device: Device, root: Path = SHIPPED) -> Entries:
    """The entries shipped for this device, empty where there are none for these kernels."""
    path = root / f"{slug(device.name)}.json"
    try:
        record = _record(path)
        env = record["environment"]
        if (env.get("device"), env.get("kernels")) != (device.name, kernel_hash()):
            return {}
        return _sound(path, record)
    except (OSError, ValueError, RecursionError) as error:
        if _may_be_there(path):
            warn_once(f"the shipped plans in {path} are passed over: {error}")
        return {}
