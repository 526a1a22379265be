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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import cycle, product
from pathlib import Path
from typing import Any

import torch

from akm_triton.borders import BORDERS
from bench import results
from bench.sweep import QUICK, TINY, Setting, Sweep


@dataclass(frozen=True)
class Run:
    device: torch.device
    root: Path
    rehearse: bool
    seconds: float
    """That the step may take, about."""

    def save(self, name: str, rows: list[dict[str, Any]], **more: Any) -> Path:
        return results.save(name, self.device, rows, self.root, **more)


# correctness

OPS = ("blur", "blur_backward", "blur_pair", "blur_adjoint", "tap_grads", "blur_pair_adjoint")
SHAPES = ((9, 16, 7, 7), (5, 16, 28, 20), (3, 8, 56, 56), (2, 8, 33, 130), (2, 4, 300, 70))
SMALL = ((3, 2, 7, 5), (1, 2, 20, 36))
BOUNDS = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
"""Of the largest value, against float64."""


def correctness(run: Run) -> None:
    """Every op, dtype, layout and shape, with borders and radii in turn, against float64."""
    from akm_triton.backend import triton as fused
    from akm_triton.tuning.problem import Problem
    from akm_triton.tuning.rule import rule
    from akm_triton.tuning.workload import Workload

    borders, radii = cycle(BORDERS), cycle((3, 15, 31, 7))
    dtypes = tuple(BOUNDS)[: 2 if run.rehearse else 3]  # bfloat16 is not interpreted as it is
    rows, stop = [], time.monotonic() + run.seconds
    shapes = SMALL if run.rehearse else SHAPES
    for op, dtype, shape, last in product(OPS, dtypes, shapes, (False, True)):
        if time.monotonic() > stop:
            break
        kind = getattr(torch, dtype)
        n, c, h, w = shape
        problem = Problem(op, n, c, h, w, next(radii), next(borders), kind.itemsize, last)
        row: dict[str, Any] = {"problem": problem.key, "dtype": dtype}
        try:
            work = Workload(problem, run.device, dtype=kind)
            found = work.error(work.run(rule(problem, fused.describe(run.device))))
            row |= {"error": min(found, 1e30), "right": found < BOUNDS[dtype]}
        except Exception as error:  # compilers and drivers raise all kinds
            row |= {"right": False, "note": f"{type(error).__name__}: {error}"[:300]}
        rows.append(row)
        run.save("correctness", rows)
    wrong = [row for row in rows if not row["right"]]
    print(f"{len(rows)} cases, {len(wrong)} wrong", *(f"\n  {row}" for row in wrong))


# sweeps that stand on their own


def swept(module: str) -> Callable[[Run], None]:
    """The sweep of that module of ``bench``: quick, and no longer than it may take."""

    def step(run: Run) -> None:
        sweep: Sweep = import_module(f"bench.{module}").SWEEP
        setting = Setting(run.device, TINY if run.rehearse else QUICK)
        rows, _ = sweep.run(setting, run.root, run.seconds)
        print(sweep.table(rows))

    return step


def tune_device(run: Run) -> None:
    from bench import tune_device as tune

    maps: Any = ((2, 2, 9, 8),) if run.rehearse else tune.MAPS
    radii: Any = (3,) if run.rehearse else (15, 3, 7)
    tune.tune_device(
        run.device, maps, radii, (torch.float16, torch.float32),
        (torch.contiguous_format, torch.channels_last), ("blur", "blur_backward"),
        0.2 if run.rehearse else 4.0, run.root / "tables", run.root,
    )  # fmt: skip


STEPS: dict[str, tuple[Callable[[Run], None], float]] = {
    "correctness": (correctness, 0.15),
    "roofline": (swept("roofline"), 0.13),
    "kernel-size": (swept("kernel_size"), 0.2),
    "small-maps": (swept("small_maps"), 0.1),
    "shapes": (swept("shapes"), 0.12),
    "train-step": (swept("train_step"), 0.1),
    "launch": (swept("launch"), 0.02),
    "model": (swept("model"), 0.03),
    "tune-device": (tune_device, 0.15),
}
"""In the order of worth, with each one's share of the time."""


def campaign(root: Path, minutes: float, rehearse: bool) -> bool:
    """Run what is not done; returns whether all of it is."""
    log = root / "campaign.json"
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
        status = _process(name, root, seconds, rehearse, limit)
        done[name] = {"status": status, "seconds": round(time.monotonic() - began, 1)}
        root.mkdir(parents=True, exist_ok=True)
        results.write_json(log, done)
    print("\n".join(f"{name:12} {done.get(name, {'status': 'not run'})}" for name in STEPS))
    return all(done.get(name, {}).get("status") == "done" for name in STEPS)


def _left(done: dict[str, Any], seconds: float) -> Iterator[tuple[str, float]]:
    left = [name for name in STEPS if done.get(name, {}).get("status") != "done"]
    shares = sum(STEPS[name][1] for name in left)
    for name in left:
        yield name, seconds * STEPS[name][1] / shares


def _process(name: str, root: Path, seconds: float, rehearse: bool, limit: float) -> str:
    command = [sys.executable, "-m", "bench", "campaign", "--step", name, "--out", str(root)]
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
        device = torch.device("cpu" if options.rehearse else "cuda")
        STEPS[options.step][0](Run(device, options.out, options.rehearse, options.seconds))
    elif not campaign(options.out, options.minutes, options.rehearse):
        sys.exit(1)
