"""How a launch of the sliding form shares the maps among programs, see backend/sliding.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from akm_triton.launch.counts import check_count, check_power_of_two
from akm_triton.launch.problem import Problem

COLUMNS = 4
"""Of a thread: more share the columns beside them, fewer leave registers to other programs."""
LONGEST = 15
"""The longest radius: of a longer window the unfinished rows leave no registers."""


class Lanes(NamedTuple):
    """What a kernel is told of its lanes."""

    PLANES: int
    GROUPS: int
    ROWS: int
    STRIPS: int
    VECTOR: int
    """Columns that are loaded at once: 1 or COLUMNS."""


@dataclass(frozen=True)
class Sliding:
    """A program has ``planes`` channels, ``groups`` groups of COLUMNS neighbouring columns, and
    ``rows`` rows of one image: a lane has a group of a channel, and goes down the rows."""

    planes: int
    groups: int
    rows: int
    num_warps: int = 4

    def lanes(self, problem: Problem) -> Lanes:
        vector = 1 if problem.channels_last or not loads_whole_groups(problem) else COLUMNS
        return Lanes(self.planes, self.groups, self.rows, self.strips(problem.w), vector)

    def strips(self, w: int) -> int:
        return -(-w // (self.groups * COLUMNS))

    def splits(self, problem: Problem) -> int:
        """Segments of rows, of all images."""
        return problem.n * -(-problem.h // self.rows)

    def programs(self, problem: Problem) -> int:
        return self.splits(problem) * self.strips(problem.w) * -(-problem.c // self.planes)

    def check(self, problem: Problem) -> None:
        """Refuse what the kernels cannot run.

        Raises:
            ValueError: says what is wrong.
        """
        for name, most in (("planes", 64), ("groups", 64), ("num_warps", 8)):
            check_power_of_two(name, getattr(self, name), most)
        check_count("rows", self.rows, 1, problem.h)
        reason = refusal(problem)
        if reason:
            raise ValueError(f"no window slides over {reason}")


def loads_whole_groups(problem: Problem) -> bool:
    """Whether the columns beside the map are whole groups of those in it, in order or reversed."""
    beside = -(-problem.radius // COLUMNS) * COLUMNS
    return problem.w % COLUMNS == 0 and beside <= problem.w and problem.border != "reflect"


def refusal(problem: Problem) -> str | None:
    """What the sliding form cannot do of this problem, or None."""
    if problem.only_for_tiles:
        return problem.only_for_tiles
    if not 1 <= problem.radius <= LONGEST:
        return f"a radius of {problem.radius}, of 1 to {LONGEST}"
    if problem.radius >= min(problem.h, problem.w):
        return f"{problem.h}×{problem.w} maps with a radius of {problem.radius}"
    return None
