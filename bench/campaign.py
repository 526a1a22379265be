"""All that is to be measured when a GPU is at hand for minutes only, in the order of its worth.

Each step is a process of its own, so that none can spoil the others. It saves what it has as it
goes, and a campaign that is started again does what is left. ``--rehearse`` runs every step, tiny,
on the CPU and in Triton's interpreter, so that no minute of a GPU is lost to a typo.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from bench import results
from bench.sweep import QUICK, TINY, Setting, Sweep

STEPS = {
    "correctness": 0.15,
    "roofline": 0.13,
    "kernel-size": 0.2,
    "small-maps": 0.1,
    "shapes": 0.12,
    "train-step": 0.1,
    "launch": 0.02,
    "model": 0.03,
    "tune-device": 0.15,
}
"""In the order of worth, with each one's share of the time; all but the last are sweeps."""


OVERRUN = 2.0
"""Shares of its time that a step may take before it is ended; what it has saved stays."""


def run_step(name: str, out: Path, rehearse: bool, seconds: float) -> None:
    """One step, quick and no longer than it may take."""
    device = torch.device("cpu" if rehearse else "cuda")
    if name == "tune-device":
        tune_device(device, out, rehearse)
        return
    sweep: Sweep = import_module(f"bench.{name.replace('-', '_')}").SWEEP
    rows, _ = sweep.run(Setting(device, TINY if rehearse else QUICK), out, seconds)
    print(sweep.table(rows))


def tune_device(device: torch.device, out: Path, rehearse: bool) -> None:
    from bench import tune_device as tune

    maps: Any = ((2, 2, 9, 8),) if rehearse else tune.MAPS
    radii: Any = (3,) if rehearse else (15, 3, 7)
    tune.tune_device(
        device, maps, radii, (torch.float16, torch.float32),
        (torch.contiguous_format, torch.channels_last), ("blur", "blur_backward"),
        0.2 if rehearse else 4.0, out / "tables", out,
    )  # fmt: skip


def campaign(out: Path, minutes: float, rehearse: bool) -> bool:
    """Run what is not done; returns whether all of it is."""
    log = out / "campaign.json"
    done: dict[str, Any] = json.loads(log.read_text()) if log.exists() else {}
    start = time.monotonic()
    for name, seconds in _left(done, 60 * minutes):
        spent = time.monotonic() - start
        if spent + 20 > 60 * minutes and not rehearse:
            print(f"== {name}: no time left")
            continue
        print(f"== {name}, about {seconds:.0f} s", flush=True)
        began = time.monotonic()
        limit = 60 * minutes - spent
        if not rehearse:
            limit = min(limit, OVERRUN * seconds + 30)
        _set_aside(name, out)
        status = _process(name, out, seconds, rehearse, limit)
        done[name] = {"status": status, "seconds": round(time.monotonic() - began, 1)}
        out.mkdir(parents=True, exist_ok=True)
        results.write_json(log, done)
    print("\n".join(f"{name:12} {done.get(name, {'status': 'not run'})}" for name in STEPS))
    return all(done.get(name, {}).get("status") == "done" for name in STEPS)


def _left(done: dict[str, Any], seconds: float) -> Iterator[tuple[str, float]]:
    left = [name for name in STEPS if done.get(name, {}).get("status") != "done"]
    shares = sum(STEPS[name] for name in left)
    for name in left:
        yield name, seconds * STEPS[name] / shares


def _set_aside(name: str, out: Path) -> None:
    """What an earlier attempt at a step has measured stays, under another name."""
    for path in list(out.glob(f"*/{name}.json")):
        number = sum(1 for _ in out.glob(f"{path.parent.name}/{name}.*.json")) + 1
        path.rename(path.with_suffix(f".{number}.json"))


def _process(name: str, out: Path, seconds: float, rehearse: bool, limit: float) -> str:
    command = [sys.executable, "-m", "bench", "campaign", "--step", name, "--out", str(out)]
    command += ["--seconds", str(seconds), *(["--rehearse"] if rehearse else [])]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if rehearse:
        environment["TRITON_INTERPRET"] = "1"
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent.parent, env=environment, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return "stopped, out of time"
    return "done" if done.returncode == 0 else f"failed, exit status {done.returncode}"


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench campaign", description=__doc__)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--out", type=Path, required=True, help="folder of results")
    parser.add_argument("--rehearse", action="store_true", help="tiny, on the CPU, interpreted")
    parser.add_argument("--step", choices=STEPS, help="this alone, in this process")
    parser.add_argument("--seconds", type=float, default=60.0, help="of --step")
    options = parser.parse_args(argv)
    if not (torch.cuda.is_available() or options.rehearse):
        sys.exit("a campaign needs a GPU; --rehearse goes without")
    if options.step:
        run_step(options.step, options.out, options.rehearse, options.seconds)
    elif not campaign(options.out, options.minutes, options.rehearse):
        sys.exit(1)
