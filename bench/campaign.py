"""Run the measurements worth most on a GPU within a few minutes, the most valuable first.

Each step is a process of its own, so that a crash in one does not stop the others. A step saves
its rows as it goes, and a campaign that is started again runs only the steps that are not done.
``--rehearse`` runs every step on tiny maps on the CPU, in Triton's interpreter, so that mistakes
show before any GPU time is spent.
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
from pathlib import Path
from typing import Any

import torch

from bench import (
    correctness,
    kernel_size,
    launch,
    results,
    roofline,
    shapes,
    small_maps,
    train_step,
    tune_device,
)
from bench.predict import sweep as predict
from bench.sweep import QUICK, TINY, Setting, Sweep

OVERRUN = 2.0
"""A step is stopped after this many times the seconds planned for it; what it saved stays."""


@dataclass(frozen=True)
class Options:
    """What a step is told."""

    out: Path  # folder of results
    rehearse: bool  # tiny maps on the CPU
    seconds: float  # planned for this step

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.rehearse else "cuda")


@dataclass(frozen=True)
class Step:
    share: float  # of the campaign's time
    run: Callable[[Options], None]
    compiles: bool = False  # so that no interpreter may stand in for the kernels


def runner(sweep: Sweep) -> Callable[[Options], None]:
    """A function that runs the sweep, quickly, and prints its table."""

    def run(options: Options) -> None:
        setting = Setting(options.device, TINY if options.rehearse else QUICK)
        rows, _ = sweep.run(setting, options.out, options.seconds)
        print(sweep.table(rows))

    return run


def tune(options: Options) -> None:
    """Tune the launches of the usual maps and write a device table into the folder of results."""
    tune_device.tune_device(
        options.device,
        maps=((2, 2, 9, 8),) if options.rehearse else tune_device.MAPS,
        radii=(3,) if options.rehearse else (15, 3, 7),
        dtypes=(torch.float16, torch.float32),
        formats=(torch.contiguous_format, torch.channels_last),
        ops=("blur", "blur_backward"),
        seconds=0.2 if options.rehearse else 4.0,
        tables=options.out / "tables",
        out=options.out,
    )


STEPS = {
    "correctness": Step(0.15, runner(correctness.SWEEP)),
    "roofline": Step(0.13, runner(roofline.SWEEP)),
    "kernel-size": Step(0.18, runner(kernel_size.SWEEP)),
    "small-maps": Step(0.1, runner(small_maps.SWEEP)),
    "shapes": Step(0.12, runner(shapes.SWEEP)),
    "train-step": Step(0.1, runner(train_step.SWEEP)),
    "launch": Step(0.02, runner(launch.SWEEP)),
    "predict": Step(0.05, runner(predict.SWEEP), compiles=True),
    "tune-device": Step(0.15, tune),
}
"""The most valuable first."""


def campaign(out: Path, minutes: float, rehearse: bool) -> bool:
    """Run the steps that are not done; True if all of them are done now."""
    log = out / "campaign.json"
    outcomes = _outcomes(log)
    start = time.monotonic()
    for name, seconds in _remaining(outcomes, 60 * minutes):
        spent = time.monotonic() - start
        if spent + 20 > 60 * minutes and not rehearse:
            print(f"== {name}: no time left")
            continue
        print(f"== {name}, about {seconds:.0f} s", flush=True)
        began = time.monotonic()
        limit = 60 * minutes - spent
        if not rehearse:
            limit = min(limit, OVERRUN * seconds + 30)
        _rename_earlier_results(name, out)
        status = _process(name, out, seconds, rehearse, limit)
        outcomes[name] = {"status": status, "seconds": round(time.monotonic() - began, 1)}
        out.mkdir(parents=True, exist_ok=True)
        results.write_json(log, outcomes)
    print("\n".join(f"{name:12} {outcomes.get(name, {'status': 'not run'})}" for name in STEPS))
    return all(_is_done(outcomes, name) for name in STEPS)


def _outcomes(log: Path) -> dict[str, Any]:
    """Of the steps that were run, by an earlier campaign into this folder too."""
    try:
        outcomes = json.loads(log.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        sys.exit(f"{log} cannot be read: {error}")
    if not isinstance(outcomes, dict) or not all(isinstance(x, dict) for x in outcomes.values()):
        sys.exit(f"{log} is no log of a campaign")
    return outcomes


def _remaining(outcomes: dict[str, Any], seconds: float) -> Iterator[tuple[str, float]]:
    """The steps that are not done, with the seconds planned for each."""
    names = [name for name in STEPS if not _is_done(outcomes, name)]
    shares = sum(STEPS[name].share for name in names)
    for name in names:
        yield name, seconds * STEPS[name].share / shares


def _is_done(outcomes: dict[str, Any], name: str) -> bool:
    return bool(outcomes.get(name, {}).get("status") == "done")


def _rename_earlier_results(name: str, out: Path) -> None:
    """Keep what an earlier attempt at this step measured, as ``<name>.1.json`` and so on."""
    for path in list(out.glob(f"*/{name}.json")):
        number = sum(1 for _ in out.glob(f"{path.parent.name}/{name}.*.json")) + 1
        path.rename(path.with_suffix(f".{number}.json"))


def _process(name: str, out: Path, seconds: float, rehearse: bool, limit: float) -> str:
    """Run one step in a process of its own; returns its status."""
    command = [sys.executable, "-m", "bench", "campaign", "--step", name, "--out", str(out)]
    command += ["--seconds", str(seconds), *(["--rehearse"] if rehearse else [])]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if rehearse:
        environment["TRITON_INTERPRET"] = "0" if STEPS[name].compiles else "1"
    try:
        process = subprocess.run(
            command, cwd=Path(__file__).parent.parent, env=environment, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return "stopped, out of time"
    return "done" if process.returncode == 0 else f"failed, exit status {process.returncode}"


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench campaign", description=__doc__)
    parser.add_argument("--minutes", type=float, default=9.0, help="for the whole campaign (9)")
    parser.add_argument("--out", type=Path, required=True, help="folder of results")
    parser.add_argument(
        "--rehearse", action="store_true", help="tiny maps on the CPU, in Triton's interpreter"
    )
    parser.add_argument("--step", choices=STEPS, help="run only this step, in this process")
    parser.add_argument("--seconds", type=float, default=60.0, help="planned for --step (60)")
    options = parser.parse_args(argv)
    if not (torch.cuda.is_available() or options.rehearse):
        sys.exit("a campaign needs a GPU; --rehearse runs without one")
    if options.step:
        STEPS[options.step].run(Options(options.out, options.rehearse, options.seconds))
    elif not campaign(options.out, options.minutes, options.rehearse):
        sys.exit(1)
