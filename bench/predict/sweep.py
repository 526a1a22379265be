"""Predict how fast the kernels that the rule chooses are on an H100 or H200, from their machine
code. No GPU is needed; on one of these, the measured time stands beside the prediction.

Everything is a model but what a row calls measured. The result file holds what it takes for
granted, what it leaves out, and what it says of kernels whose speed is known.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
import triton
from tqdm import tqdm

from akm_triton.launch.device import H200
from akm_triton.launch.rule import rule
from akm_triton.tuning.workload import Workload
from bench import timing
from bench.predict import launches
from bench.predict.calibration import calibration, stated
from bench.predict.cases import FEW, ONE, WHOLE, Case, Grid
from bench.predict.estimate import Estimate, estimate
from bench.predict.machine import LEFT_OUT, MACHINES, VARIED, Machine
from bench.predict.sass import disassemble
from bench.predict.work import Work
from bench.sweep import QUICK, TINY, Row, Setting, Sweep, grid, maps, note, rounded


def measure(
    setting: Setting, wanted: Grid | None = None, machine: Machine | None = None
) -> Iterator[list[Row]]:
    """A row for each case: the seconds that are predicted, what fraction of a copy's speed that is,
    and the same with each guess of the model changed."""
    if triton.knobs.runtime.interpret:
        sys.exit("predict compiles: run it without TRITON_INTERPRET")
    if wanted is None:
        wanted = {TINY.name: ONE, QUICK.name: FEW}.get(setting.budget.name, WHOLE)
        wanted = replace(wanted, dtypes=setting.dtypes or wanted.dtypes)
    machine = machine or machine_of(setting.device)
    here = setting.cuda and machine.name == torch.cuda.get_device_name(setting.device)
    cases, many = wanted.cases(), 4 * (os.cpu_count() or 1)
    with tqdm(total=len(cases), desc="predict", unit="case") as progress:
        for start in range(0, len(cases), many):
            some = cases[start : start + many]
            with ThreadPoolExecutor(os.cpu_count()) as pool:  # done before anything is timed
                rows = []
                for row in pool.map(functools.partial(_row, machine=machine), some):
                    rows.append(row)
                    progress.update()
            for case, row in zip(some, rows, strict=True):
                if here and row["status"] == "predicted":
                    row |= _timed(case, row["least"], setting)
                yield [row]


def machine_of(device: torch.device) -> Machine:
    """Of this GPU, or an H100 where there is none that the model knows."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((x for x in MACHINES.values() if x.name == name), MACHINES["H100"])


def _row(case: Case, machine: Machine) -> Row:
    problem = case.problem
    row: Row = {
        "machine": machine.name, "op": problem.op,
        **maps((problem.n, problem.c, problem.h, problem.w), case.dtype, problem.channels_last),
        "radius": problem.radius, "bytes": problem.bytes,
    }  # fmt: skip
    return prediction(row, lambda: launches.works(rule(problem, H200), *case, H200), machine)


def prediction(row: Row, works: Callable[[], list[Work]], machine: Machine) -> Row:
    """The row of these launches, or of what kept them from being made. It has the bytes that they
    have to move."""
    least = row["bytes"] / machine.dram
    try:
        made = works()
        found = predicted(made, machine)
    except Exception as error:  # compilers raise all kinds
        return row | {"status": "failed", "note": note(error)}
    seconds = {name: sum(x.seconds for x in each) for name, each in found.items()}
    bound = sum(max(x.limits.values()) for x in found[""])
    of_copy = {name: least / x for name, x in seconds.items()}
    return row | {
        "status": "predicted", "moved": round(sum(work.bytes for work in made)),
        **rounded(
            least=least, predicted=seconds[""], of_copy=of_copy[""], bound=least / bound,
            low=min(of_copy.values()), high=max(of_copy.values()),
        ),
        "sensitivity": rounded(**{name: x for name, x in of_copy.items() if name}),
        "launches": [_facts(x) for x in found[""]],
    }  # fmt: skip


def _facts(x: Estimate) -> dict[str, Any]:
    """What a launch is held up by, for a row."""
    return {
        "kernel": x.kernel, "registers": x.registers, "stack": x.stack,
        "shared_bytes": x.shared_bytes, "programs": x.programs, "resident": x.resident,
        "in_flight": round(x.in_flight),
        "microseconds": rounded(total=1e6 * x.seconds, **{k: 1e6 * s for k, s in x.limits.items()}),
        "waits": {name: round(share, 2) for name, share in x.waits.items()},
    }  # fmt: skip


def predicted(works: list[Work], machine: Machine) -> dict[str, list[Estimate]]:
    """These launches: by the machine as it is, under "", and by each of ``VARIED``."""
    kernels = [disassemble(work.cubin) for work in works]
    machines = {"": machine}
    for name, changes in VARIED.items():
        if "sectors" not in changes or any(work.scattered for work in works):
            machines[name] = replace(machine, **changes)
    return {
        name: [estimate(work, kernel, x) for work, kernel in zip(works, kernels, strict=True)]
        for name, x in machines.items()
    }


def _timed(case: Case, least: float, setting: Setting) -> Row:
    """``p50`` and its like, and the fraction of the model's copy that this is."""
    try:
        work = Workload(case.problem, setting.device, dtype=case.dtype)
        call = functools.partial(work.run, rule(case.problem, H200))
        call()
        q = timing.interleaved({"": call}, setting.device, setting.budget.seconds / 5)[""]
        return {"status": "ok", **rounded(**vars(q), measured_of_copy=least / q.p50)}
    except Exception as error:  # compilers and drivers raise all kinds
        return {"status": "failed", "note": note(error)}


def facts(machine: Machine = MACHINES["H100"]) -> dict[str, Any]:
    """What belongs beside every prediction."""
    return {
        "model": "everything but what a row calls measured",
        "calibration": {"stated": stated(calibration()), "kernels": calibration()},
        "assumptions": machine.assumptions(), "left_out": list(LEFT_OUT),
    }  # fmt: skip


def table(rows: list[Row]) -> str:
    """A line for each op, dtype, layout and radius: what is predicted, how far the guesses of the
    model move it, and what was measured if anything was."""
    sizes = sorted({row["shape"][2] for row in rows})
    lines: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        key = row["op"], row["dtype"], row["layout"], str(row["radius"])
        line = lines.setdefault(key, [*key, *("–" for _ in sizes)])
        line[4 + sizes.index(row["shape"][2])] = _cell(row)
    header = ["op", "dtype", "layout", "R", *(f"{size}²" for size in sizes)]
    title = f"{rows[0]['machine']}, a model: fraction of a copy's speed (low to high) [measured]"
    return f"{title}\n{grid(header, list(lines.values()))}\n{stated(calibration())}"


def _cell(row: Row) -> str:
    if "of_copy" not in row:
        return "failed"
    text = f"{row['of_copy']:.2f} ({row['low']:.2f}–{row['high']:.2f})"
    return f"{text} [{row['measured_of_copy']:.2f}]" if "measured_of_copy" in row else text


SWEEP = Sweep("predict", measure, table, __doc__ or "", facts)
