"""Compare every op, dtype, layout and kind of map with float64; borders and radii take turns."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, product

import torch
from tqdm import tqdm

from akm_triton.backend import triton as triton_backend
from akm_triton.borders import BORDERS
from akm_triton.launch.device import describe
from akm_triton.launch.plan import Plan
from akm_triton.launch.problem import OPS, Problem
from akm_triton.launch.rule import rule
from akm_triton.tuning.compiler import KernelCall, compile_call
from akm_triton.tuning.workload import Workload
from bench.sweep import DTYPES, TINY, Row, Setting, Sweep, grid, name_of, note

SHAPES = ((9, 16, 7, 7), (5, 16, 28, 20), (3, 8, 56, 56), (2, 8, 33, 130), (2, 4, 300, 70))
RADII = (3, 15, 31, 7, 1, 11, 23)  # as many as meet every op and border, by and by
SMALL = ((3, 2, 7, 5), (1, 2, 20, 36))
BATCH = 24  # cases whose kernels are compiled together
BOUNDS = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
"""Of the largest value, against float64."""


def measure(setting: Setting) -> Iterator[list[Row]]:
    if not (setting.cuda or triton_backend.INTERPRET):
        sys.exit("correctness tries the Triton kernels: on a GPU, or with TRITON_INTERPRET=1")
    shapes = SMALL if setting.budget is TINY else SHAPES
    kinds = setting.dtypes or tuple(DTYPES[name] for name in BOUNDS)
    if triton_backend.INTERPRET:  # where bfloat16 is not what it is on a GPU
        kinds = tuple(kind for kind in kinds if name_of(kind) != "bfloat16")
    borders, radii = cycle(BORDERS), cycle(RADII)
    # the op in the innermost place: whoever stops early has tried them all
    cases = list(product(shapes, kinds, (False, True), reversed(OPS)))
    device = describe(setting.device)
    bar = tqdm(total=len(cases), desc="correctness", unit="case")
    for start in range(0, len(cases), BATCH):
        found = []
        for (n, c, h, w), kind, last, op in cases[start : start + BATCH]:
            problem = Problem(op, n, c, h, w, next(radii), next(borders), kind.itemsize, last)
            found.append((problem, kind, rule(problem, device)))
        if not triton_backend.INTERPRET:
            _compile(found, setting.device, device.capability)
        for problem, kind, plan in found:
            yield [_case(problem, kind, plan, setting.device)]
            bar.update()
    bar.close()


def _compile(cases: list[tuple[Problem, torch.dtype, Plan]], where: torch.device, cc: int) -> None:
    """Fill Triton's cache on all cores; the launcher would compile one after the other."""

    def compiled(launch: KernelCall) -> None:
        with contextlib.suppress(Exception):  # the launch will raise it again, and be reported
            compile_call(launch, cc)

    with contextlib.suppress(Exception), ThreadPoolExecutor() as pool:
        for problem, kind, plan in cases:
            work = Workload(problem, where, dtype=kind)
            for launch in work.launches(plan):
                pool.submit(compiled, launch)


def _case(problem: Problem, kind: torch.dtype, plan: Plan, where: torch.device) -> Row:
    row: Row = {"problem": problem.key, "dtype": name_of(kind), "bound": BOUNDS[name_of(kind)]}
    try:
        work = Workload(problem, where, dtype=kind)
        found = work.error(work.run(plan))
        row |= {"error": min(found, 1e30), "right": found < row["bound"], "status": "ok"}
    except Exception as error:  # compilers and drivers raise all kinds
        row |= {"right": False, "status": "failed", "note": note(error)}
    return row


def table(rows: list[Row]) -> str:
    """The largest error of each op and dtype; below, what is wrong."""
    worst: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        key = row["problem"].split()[0], row["dtype"]
        worst.setdefault(key, []).append(row.get("error", float("inf")))
    lines = [
        [op, dtype, str(len(errors)), f"{max(errors):.1e}", f"{BOUNDS[dtype]:g}"]
        for (op, dtype), errors in worst.items()
    ]
    wrong = [row for row in rows if not row["right"]]
    text = grid(["op", "dtype", "cases", "largest error", "bound"], lines)
    return "\n".join([text, f"{len(rows)} cases, {len(wrong)} wrong", *map(str, wrong)])


SWEEP = Sweep("correctness", measure, table, __doc__)
main = SWEEP.main
