"""Result files, ``<folder>/<device>/<sweep>.json``, written atomically.

Full measurements go to ``bench/results``, which is committed. Quick ones go to ``bench/local``,
which git ignores.
"""

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
LOCAL = Path(__file__).parent / "local"
SCHEMA = ("sweep", "device", "torch", "triton", "numpy", "commit", "date", "threads", "rows")


def save(
    sweep: str, device: torch.device, rows: list[dict[str, Any]], out: Path = ROOT, **more: Any
) -> Path:
    """Write the rows of a sweep, with the device and the versions they were measured on.

    Args:
        out: a ``.json`` file, or a folder, which then holds one file per device and sweep.
        more: keys to write besides those of ``SCHEMA``.

    Returns:
        The file written.
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


def newest(sweep: str, root: Path = ROOT) -> dict[str, Any] | None:
    """The newest result of a sweep, on any device; None if there is none.

    Raises:
        ValueError: a file of that name holds something else.
    """
    return _newest(_read(sweep, root))


def every(pattern: str, root: Path = ROOT) -> list[dict[str, Any]]:
    """All results whose file matches ``<device>/<pattern>.json``, from one device: the one that the
    newest of them was measured on.

    Raises:
        ValueError: a file of such a name holds something else.
    """
    records = _read(pattern, root)
    last = _newest(records)
    return [record for record in records if last and record["device"] == last["device"]]


def _read(pattern: str, root: Path) -> list[dict[str, Any]]:
    return [_record(path) for path in sorted(root.glob(f"*/{pattern}.json"))]


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    missing = [key for key in SCHEMA if not isinstance(record, dict) or key not in record]
    if missing or not isinstance(record["rows"], list):
        raise ValueError(
            f"{path} is no result of a sweep: it has no {', '.join(missing or ['rows'])}"
        )
    return dict(record)


def _newest(records: list[dict[str, Any]]) -> dict[str, Any] | None:
    return max(records, key=lambda record: str(record["date"]), default=None)


def device_name(device: torch.device) -> str:
    """The name of the GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        if model:
            return model[1].strip()
    return platform.processor() or platform.machine()


def write_json(path: Path, content: dict[str, Any] | list[Any]) -> None:
    """Write atomically: if that fails, the old file stays as it was.

    Each item of a list has a line of its own, so that a new measurement is a short diff.
    """

    def text(value: Any) -> str:
        if isinstance(value, list):
            return "[\n" + ",\n".join(f"  {json.dumps(x, allow_nan=False)}" for x in value) + "\n ]"
        return json.dumps(value, allow_nan=False)

    if isinstance(content, list):
        document = text(content)
    else:
        pairs = (f' "{key}": {text(value)}' for key, value in content.items())
        document = "{\n" + ",\n".join(pairs) + "\n}"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, document + "\n")


@functools.cache
def commit() -> str:
    """The commit that is measured, with "-dirty" added if the code differs from it."""
    code = ["akm_triton", ":(glob)bench/**/*.py"]
    try:
        head = _output("git", "rev-parse", "--short=12", "HEAD")
        return head + ("-dirty" if _output("git", "status", "--porcelain", "--", *code) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@functools.cache
def driver() -> str:
    """The driver's version, as the first NVIDIA GPU reports it."""
    try:
        query = ("--query-gpu=driver_version", "--format=csv,noheader")
        return _output("nvidia-smi", *query).splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def _output(*command: str) -> str:
    folder = Path(__file__).parent.parent
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return finished.stdout.strip()


def _triton_version() -> str | None:
    try:
        import triton
    except ImportError:
        return None
    version: str = triton.__version__
    return version
