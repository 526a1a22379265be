"""Result files: ``bench/results/<device>/<sweep>.json``, written whole or not at all."""

from __future__ import annotations

import functools
import json
import platform
import re
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from akm_triton.files import replace_text, slug

ROOT = Path(__file__).parent / "results"
SCHEMA = ("sweep", "device", "torch", "triton", "numpy", "commit", "date", "threads", "rows")


def save(
    sweep: str, device: torch.device, rows: list[dict[str, Any]], out: Path = ROOT, **more: Any
) -> Path:
    """Write the rows of a sweep with what they were measured on; returns the file.

    Args:
        out: a ``.json`` file, or a folder that has one for each device and sweep.
        more: further keys beside those of ``SCHEMA``.
    """
    name = device_name(device)
    record: dict[str, Any] = {
        "sweep": sweep,
        "device": name,
        "torch": torch.__version__,
        "triton": _triton_version(),
        "numpy": np.__version__,
        "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        record["driver"] = driver()
    path = out if out.suffix == ".json" else out / slug(name) / f"{sweep}.json"
    write_json(path, {**record, **more, "rows": rows})
    return path


def latest(sweep: str, root: Path = ROOT) -> dict[str, Any]:
    """The newest result of a sweep, of whatever device.

    Raises:
        FileNotFoundError: there is none.
    """
    record = newest(sweep, root)
    if record is None:
        raise FileNotFoundError(f"no result of {sweep!r} in {root}; run python -m bench {sweep}")
    return record


def newest(sweep: str, root: Path = ROOT) -> dict[str, Any] | None:
    """As ``latest``, and None where there is none."""
    found = [json.loads(path.read_text("utf-8")) for path in root.glob(f"*/{sweep}.json")]
    return max(found, key=lambda record: str(record["date"]), default=None)


def every(pattern: str, root: Path = ROOT) -> list[dict[str, Any]]:
    """The results whose file matches ``<device>/<pattern>.json``, of the device of the newest."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(root.glob(f"*/{pattern}.json"))]
    newest = max(found, key=lambda record: record["date"], default=None)
    return [record for record in found if newest and record["device"] == newest["device"]]


def device_name(device: torch.device) -> str:
    """The name of the GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        if named:
            return named[1].strip()
    return platform.processor() or platform.machine()


def write_json(path: Path, content: dict[str, Any] | list[Any]) -> None:
    """Write atomically: on failure the old file stays. Lists have an item a line, so that a new
    measurement is a short diff."""

    def text(value: Any) -> str:
        if isinstance(value, list):
            return "[\n" + ",\n".join(f"  {json.dumps(x, allow_nan=False)}" for x in value) + "\n ]"
        return json.dumps(value, allow_nan=False)

    if isinstance(content, list):
        whole = text(content)
    else:
        pairs = (f' "{key}": {text(value)}' for key, value in content.items())
        whole = "{\n" + ",\n".join(pairs) + "\n}"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, whole + "\n")


@functools.cache
def commit() -> str:
    """The revision measured, "-dirty" where the code differs from it."""
    code = ["akm_triton", ":(glob)bench/**/*.py"]
    try:
        head = _output("git", "rev-parse", "--short=12", "HEAD")
        return head + ("-dirty" if _output("git", "status", "--porcelain", "--", *code) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@functools.cache
def driver() -> str:
    """Of the first NVIDIA GPU."""
    try:
        query = ("--query-gpu=driver_version", "--format=csv,noheader")
        return _output("nvidia-smi", *query).splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def _output(*command: str) -> str:
    where = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _triton_version() -> str | None:
    try:
        import triton
    except ImportError:
        return None
    version: str = triton.__version__
    return version
