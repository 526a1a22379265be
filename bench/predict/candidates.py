"""Whether the tuner tries the right candidates first: their order, next to the time predicted from
their machine code. No GPU is needed. Of each problem a few candidates are taken, evenly spaced."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import torch
import triton
from tqdm import tqdm

from akm_triton.launch.axis import Axis
from akm_triton.launch.device import H200
from akm_triton.launch.plan import Launch, Plan
from akm_triton.launch.sliding import Sliding
from akm_triton.tuning import space
from bench.predict import launches
from bench.predict.cases import Case, Grid
from bench.predict.estimate import estimate
from bench.predict.machine import MACHINES
from bench.predict.sass import disassemble
from bench.sweep import TINY, Row, Setting, Sweep, grid, maps, note, rounded, title

COUNT = 12
HALF, FLOAT = (torch.float16,), (torch.float32,)
GRIDS = (
    Grid(HALF, (False,), (14,), (15,), ("blur",)),
    Grid(HALF, (False,), (28, 56), (7,)),
    Grid(HALF, (False,), (112,), (7,), ("blur",)),
    Grid(HALF, (True,), (14,), (7,), ("blur_backward",)),
    Grid(HALF, (True,), (28,), (3,), ("blur",)),
    Grid(HALF, (True,), (56,), (7,), ("blur",)),
    Grid(FLOAT, (False,), (14, 28), (7,), ("blur",)),
    Grid(FLOAT, (False,), (28,), (7,), ("blur_backward",)),
    Grid(FLOAT, (False,), (56,), (3,), ("blur",)),
    Grid(FLOAT, (True,), (28,), (7,), ("blur",)),
    Grid(HALF, (True,), (112,), (15,), ("blur",)),
    Grid(FLOAT, (False,), (56,), (15,), ("blur_backward",)),
)


def measure(setting: Setting) -> Iterator[list[Row]]:
    """A row for each candidate: its place among all, its effort by the tuner's own order, and the
    seconds that are predicted on an H100."""
    if triton.knobs.runtime.interpret:
        sys.exit("candidates compiles: run it without TRITON_INTERPRET")
    grids = GRIDS[:1] if setting.budget is TINY else GRIDS
    jobs = [job for each in grids for case in each.cases() for job in _spaced(case, setting)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for row in tqdm(pool.map(lambda job: _row(*job), jobs), "candidates", len(jobs)):
            yield [row]


def _spaced(case: Case, setting: Setting) -> Iterator[tuple[Case, Plan, int, int]]:
    """(case, plan, place, number of all): from the first candidate to the last."""
    found, _ = space.candidates(case.problem, H200)
    last, count = len(found) - 1, 2 if setting.budget is TINY else COUNT
    places = sorted({round(i * last / (count - 1)) for i in range(count)})
    return ((case, found[place], place, len(found)) for place in places)


def _row(case: Case, plan: Plan, place: int, number: int) -> Row:
    problem = case.problem
    row: Row = {
        "machine": MACHINES["H100"].name, "op": problem.op,
        **maps((problem.n, problem.c, problem.h, problem.w), case.dtype, problem.channels_last),
        "radius": problem.radius, "place": place, "of": number, "tiles": [_tile(x) for x in plan],
        **rounded(effort=space.effort(plan, problem)), "status": "predicted",
    }  # fmt: skip
    try:
        found = [
            estimate(work, disassemble(work.cubin), MACHINES["H100"])
            for work in launches.works(plan, *case, H200)
        ]
    except Exception as error:  # compilers raise all kinds
        return row | {"status": "failed", "note": note(error)}
    return row | rounded(predicted=sum(x.seconds for x in found))


def _tile(launch: Launch) -> list[int]:
    """[planes, rows, columns read, columns computed, warps]; of the sliding form [planes, groups of
    columns, rows, warps], of one axis [planes, groups, columns of one, rows, of these together,
    warps]"""
    cfg = launch.config
    if isinstance(cfg, Axis):
        return [cfg.planes, cfg.groups, cfg.columns, cfg.rows, cfg.together, cfg.num_warps]
    if isinstance(cfg, Sliding):
        return [cfg.planes, cfg.groups, cfg.rows, cfg.num_warps]
    return [cfg.planes, cfg.block_h, cfg.block_w, cfg.out_w, cfg.num_warps]


def table(rows: list[Row]) -> str:
    """The rank correlation (Spearman's ρ) of effort and prediction, for each problem."""
    lines, all_ = [], []
    for key, group in groupby(rows, lambda row: tuple(row[x] for x in PROBLEM)):
        some = [row for row in group if row["status"] == "predicted"]
        rho = spearman([row["effort"] for row in some], [row["predicted"] for row in some])
        all_.append(rho)
        op, shape, dtype, layout, radius = key
        lines.append([op, title(shape), dtype, layout, str(radius), str(len(some)), f"{rho:.2f}"])
    header = ["op", "map", "dtype", "layout", "R", "candidates", "ρ"]
    return f"{grid(header, lines)}\nmean {statistics.mean(all_):.2f}"


PROBLEM = ("op", "shape", "dtype", "layout", "radius")


def spearman(one: list[float], other: list[float]) -> float:
    """The rank correlation; equal numbers share their rank."""
    ranks = [[statistics.mean(_places(x, xs)) for x in xs] for xs in (one, other)]
    return statistics.correlation(*ranks)


def _places(x: float, xs: list[float]) -> list[int]:
    return [place for place, y in enumerate(sorted(xs)) if y == x]


SWEEP = Sweep("candidates", measure, table, __doc__ or "")
main = SWEEP.main
