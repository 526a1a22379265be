"""Every op, dtype, layout and kind of map, with borders and radii in turn, against float64."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import cycle, product

from tqdm import tqdm

from akm_triton.backend import triton as fused
from akm_triton.borders import BORDERS
from akm_triton.tuning.problem import OPS, Problem
from akm_triton.tuning.rule import rule
from akm_triton.tuning.workload import Workload
from bench.sweep import DTYPES, TINY, Row, Setting, Sweep, grid, name_of

SHAPES = ((9, 16, 7, 7), (5, 16, 28, 20), (3, 8, 56, 56), (2, 8, 33, 130), (2, 4, 300, 70))
SMALL = ((3, 2, 7, 5), (1, 2, 20, 36))
BOUNDS = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
"""Of the largest value, against float64."""


def measure(setting: Setting) -> Iterator[list[Row]]:
    if not (setting.cuda or fused.INTERPRET):
        sys.exit("correctness tries the Triton kernels: on a GPU, or with TRITON_INTERPRET=1")
    shapes = SMALL if setting.effort is TINY else SHAPES
    kinds = setting.dtypes or tuple(DTYPES[name] for name in BOUNDS)
    if fused.INTERPRET:  # where bfloat16 is not what it is on a GPU
        kinds = tuple(kind for kind in kinds if name_of(kind) != "bfloat16")
    borders, radii = cycle(BORDERS), cycle((3, 15, 31, 7))
    cases = list(product(OPS, kinds, shapes, (False, True)))
    for op, kind, (n, c, h, w), last in tqdm(cases, desc="correctness", unit="case"):
        problem = Problem(op, n, c, h, w, next(radii), next(borders), kind.itemsize, last)
        row: Row = {"problem": problem.key, "dtype": name_of(kind), "bound": BOUNDS[name_of(kind)]}
        try:
            work = Workload(problem, setting.device, dtype=kind)
            found = work.error(work.run(rule(problem, fused.describe(setting.device))))
            row |= {"error": min(found, 1e30), "right": found < row["bound"], "status": "ok"}
        except Exception as error:  # compilers and drivers raise all kinds
            note = f"{type(error).__name__}: {error}"[:300]
            row |= {"right": False, "status": "failed", "note": note}
        yield [row]


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
