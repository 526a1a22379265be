"""Predict how fast signals and volumes should be on an H100, as ``predict`` does of maps: a model,
from machine code. No GPU is needed. A signal is one launch; a volume is what its slices are, and
one more along its depth.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import torch
import triton
from tqdm import tqdm

from akm_triton.launch.device import H200
from akm_triton.launch.problem import Problem
from akm_triton.launch.rule import rule
from bench.predict import launches
from bench.predict.calibration import calibration, stated
from bench.predict.cases import OPS
from bench.predict.machine import Machine
from bench.predict.sweep import facts, machine_of, prediction
from bench.predict.work import Work
from bench.sweep import DTYPES, TINY, Row, Setting, Sweep, grid, maps, title

SIGNAL, VOLUME = (64, 64, 16384), (8, 32, 64, 64, 64)
"""As many numbers in both."""
RADII = (7, 15)


@dataclass(frozen=True)
class Case:
    """An op on signals (N, C, L) or volumes (N, C, D, H, W), contiguous, one σ for all axes."""

    op: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    radius: int

    @property
    def bytes(self) -> int:
        """Each map of the op once."""
        maps = 3 if self.op == "blur_backward" else 2
        return maps * math.prod(self.shape) * self.dtype.itemsize

    def works(self) -> list[Work]:
        """The launches of the op: of maps that are views of its tensors, see ``passes.py``."""
        n, c, *size = self.shape
        if len(size) == 1:
            return self._along("columns", (n, c, 1, size[0]))
        slices = self._problem((n, c * size[0], size[1], size[2]))
        return [
            *launches.works(rule(slices, H200), slices, self.dtype, H200),
            *self._along("rows", (n, c, size[0], size[1] * size[2])),
        ]

    def _problem(self, shape: tuple[int, int, int, int]) -> Problem:
        return Problem(self.op, *shape, self.radius, "symmetric", self.dtype.itemsize, False)

    def _along(self, axis: str, shape: tuple[int, int, int, int]) -> list[Work]:
        return launches.works_of_axis(axis, self._problem(shape), self.dtype, H200)


def cases(setting: Setting) -> list[Case]:
    if setting.budget is TINY:
        return [Case("blur", (2, 2, 64), torch.float16, 3)]
    dtypes = setting.dtypes_or(("float16", "float32"), "float16", "float32")
    shapes = setting.choose((SIGNAL, VOLUME), (SIGNAL, VOLUME), ())
    return [
        Case(op, shape, dtype, radius)
        for shape, dtype, op, radius in product(shapes, dtypes, OPS, RADII)
    ]


def measure(setting: Setting, machine: Machine | None = None) -> Iterator[list[Row]]:
    """A row for each case, as those of ``predict``."""
    if triton.knobs.runtime.interpret:
        sys.exit("predict compiles: run it without TRITON_INTERPRET")
    machine, wanted = machine or machine_of(setting.device), cases(setting)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = pool.map(functools.partial(_row, machine=machine), wanted)
        for row in tqdm(rows, "predict", len(wanted), unit="case"):
            yield [row]


def _row(case: Case, machine: Machine) -> Row:
    row: Row = {
        "machine": machine.name, "op": case.op, **maps(case.shape, case.dtype, False),
        "radius": case.radius, "bytes": case.bytes,
    }  # fmt: skip
    return prediction(row, case.works, machine)


def table(rows: list[Row]) -> str:
    """A line for each case: how often its launches read or write a map, what is predicted, and how
    far the guesses of the model move it."""
    lines = []
    for row in rows:
        line = [title(row["shape"]), row["dtype"], row["op"], str(row["radius"])]
        if row["status"] == "failed":
            lines.append([*line, *["failed"] * 6])
            continue
        of_map = math.prod(row["shape"]) * DTYPES[row["dtype"]].itemsize
        each = " + ".join(f"{x['microseconds']['total']:.0f}" for x in row["launches"])
        spread = f"{row['low']:.2f}–{row['high']:.2f}"
        micro = (f"{1e6 * row[name]:.0f}" for name in ("least", "predicted"))
        passes = f"{row['moved'] / of_map:.0f}"
        lines.append([*line, passes, *micro, each, f"{row['of_copy']:.2f}", spread])
    header = [
        "tensor", "dtype", "op", "R", "maps moved", "least µs", "predicted µs", "launches",
        "of copy", "range",
    ]  # fmt: skip
    return f"{rows[0]['machine']}, a model\n{grid(header, lines)}\n{stated(calibration())}"


SWEEP = Sweep("predict-dimensions", measure, table, __doc__ or "", facts)
main = SWEEP.main
