"""How a launch that blurs along one axis shares the maps among programs, see backend/axis.py, and
how such launches make the ops of both axes.

With u = T(a) z and v = g T(b)ᵀ, two maps of scratch, T(a) z T(b)ᵀ = u T(b)ᵀ, ∂F/∂z = T(a) v, and
the gradients of F = <v, T(a) z> = <g, u T(b)ᵀ> by a and b are of one axis each. Every launch reads
and writes each map once: for long windows that is less than what tiles take, which compute far more
than the window has.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import NamedTuple

from akm_triton.launch.counts import check_count, check_power_of_two
from akm_triton.launch.problem import Problem
from akm_triton.launch.sliding import COLUMNS, loads_whole_groups

AXES = ("rows", "columns")
SCRATCH = ("u", "v")


class Step(NamedTuple):
    """A launch of an op: dz = T g along the axis, and with z the gradient of <g, T z> by its taps,
    by the names of the maps that stand there. Without "dz" among the outputs none is
    written."""

    axis: str
    outputs: tuple[str, ...]
    g: str
    z: str
    dz: str


_U = Step("rows", ("u",), "z", "", "u")
_V = Step("columns", ("v", "db"), "g", "u", "v")
_STEPS = {
    "blur": (_U, Step("columns", ("dz",), "u", "", "dz")),
    "blur_backward": (_U, _V, Step("rows", ("dz", "da"), "v", "z", "dz")),
    "tap_grads": (_U, _V, Step("rows", ("da",), "v", "z", "dz")),
}


def steps(problem: Problem) -> tuple[Step, ...]:
    """The launches of an op, in order."""
    return _STEPS[problem.op.removesuffix("_adjoint")]


class AxisLanes(NamedTuple):
    """What a kernel is told of its lanes."""

    PLANES: int
    GROUPS: int
    ROWS: int
    STRIPS: int
    COLUMNS: int
    VECTOR: int
    """Columns that are loaded at once: 1 or 4."""
    REPEATS: int
    TOGETHER: int
    """Rows that are loaded together, before anything is computed."""
    WHOLE: bool
    """Whether every lane has a column and a channel of the map."""


@dataclass(frozen=True)
class Axis:
    """A program has ``planes`` channels, ``groups`` groups of ``columns`` neighbouring columns, and
    ``rows`` rows of one image, ``together`` of which are loaded at a time: a lane has a group of a
    channel, and goes down the rows, and if ``repeats`` says so, then down those of another group.
    For columns of maps in channels_last, rows and columns change places."""

    axis: str
    planes: int
    groups: int
    rows: int
    columns: int
    together: int
    repeats: int = 1
    num_warps: int = 4
    registers: int = 0
    """A thread may use, or 0 for as many as it likes."""

    def turns(self, problem: Problem) -> bool:
        """Whether rows and columns change places."""
        return self.axis == "columns" and problem.channels_last

    def size(self, problem: Problem) -> tuple[int, int]:
        """Rows and columns, as the kernel has them."""
        h, w = problem.h, problem.w
        return (w, h) if self.turns(problem) else (h, w)

    def down(self, problem: Problem) -> bool:
        """Whether the axis is the rows, as the kernel has them."""
        return self.axis == "rows" or self.turns(problem)

    def strips(self, problem: Problem) -> int:
        return -(-self.size(problem)[1] // self.width)

    @property
    def width(self) -> int:
        """Columns of a program."""
        return self.groups * self.columns * self.repeats

    def splits(self, problem: Problem) -> int:
        """Segments of rows, of all images."""
        return problem.n * -(-self.size(problem)[0] // self.rows)

    def programs(self, problem: Problem) -> int:
        return self.splits(problem) * self.strips(problem) * -(-problem.c // self.planes)

    def lanes(self, problem: Problem) -> AxisLanes:
        w = self.size(problem)[1]
        whole = w % self.width == 0 and problem.c % self.planes == 0
        wide = not self.down(problem) and loads_whole_groups(problem)
        return AxisLanes(
            self.planes, self.groups, self.rows, self.strips(problem), self.columns,
            COLUMNS if wide else 1, self.repeats, self.together, whole,
        )  # fmt: skip

    def check(self, problem: Problem) -> None:
        """Refuse what the kernels cannot run.

        Raises:
            ValueError: says what is wrong.
        """
        if self.axis not in AXES:
            raise ValueError(f"axis must be one of {AXES}, got {reprlib.repr(self.axis)}")
        most = dict(planes=128, groups=256, columns=8, together=16, num_warps=8, repeats=16)
        for name, limit in most.items():
            check_power_of_two(name, getattr(self, name), limit)
        check_count("registers", self.registers, 0, 255)
        check_count("rows", self.rows, 1, self.size(problem)[0])
        down = self.down(problem)
        if self.repeats > 1 and not down:
            raise ValueError(f"repeats must be 1 across the axis, got {self.repeats}")
        if self.columns not in ((1,) if down else (4, 8)):
            wanted = "1 where a lane goes down the axis" if down else "4 or 8 across the axis"
            raise ValueError(f"columns must be {wanted}, got {self.columns}")
        if problem.only_for_tiles:
            raise ValueError(f"no axis is blurred apart with {problem.only_for_tiles}")
