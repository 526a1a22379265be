"""The bytes of maps that a plan moves: exact, for dense maps, and tested against the interpreter's
counts."""

from __future__ import annotations

from typing import NamedTuple

from akm_triton.launch.axis import Axis
from akm_triton.launch.plan import Config, Launch, Plan
from akm_triton.launch.problem import Problem
from akm_triton.launch.sliding import COLUMNS, Sliding


class Traffic(NamedTuple):
    dram_bytes: int
    """Each element of each map once a launch."""
    requested_bytes: int
    """With the halos, which the L2 cache serves. What the lanes of a launch that slides, or of one
    axis, read twice of a row comes from L1 and counts once."""


def traffic(plan: Plan, problem: Problem) -> Traffic:
    """Of all launches of the plan."""
    each = [_traffic(launch, problem) for launch in plan]
    return Traffic(sum(x.dram_bytes for x in each), sum(x.requested_bytes for x in each))


def _traffic(launch: Launch, problem: Problem) -> Traffic:
    plane = problem.h * problem.w
    read = (1 + (launch.da or launch.db)) * plane
    written = launch.writes_map * problem.written
    each = problem.n * problem.c * problem.itemsize
    return Traffic(each * (read + written), each * (_reads(launch, problem) + written))


def _columns(cfg: Config, problem: Problem) -> tuple[int, int]:
    """Columns read through the windows of all strips, and columns computed that exist."""
    w = problem.w
    if cfg.strips == 1:
        return w, w
    seen = computed = 0
    for strip in range(cfg.strips):
        if cfg.out_w == cfg.block_w:
            start = strip * cfg.step_w
            seen += min(start + cfg.block_w, w) - start
            computed += min(start + cfg.block_w, w) - start
        else:
            start = strip * cfg.out_w
            left, right = start - cfg.halo_w, start - cfg.halo_w + cfg.block_w
            wraps = problem.border == "circular"
            seen += cfg.block_w if wraps else min(right, w) - max(left, 0)
            computed += min(start + cfg.out_w, w) - start
    return seen, computed


def _rows(cfg: Config, problem: Problem, border: str) -> int:
    """Rows read by all tiles of a strip of a plane, with those beside them."""
    h, block = problem.h, cfg.block_h
    if not cfg.halo_h:
        return h
    outside = 0 if border == "zeros" else problem.radius  # rows folded back inside

    def read(first: int, last: int, outside: int) -> int:
        return max(0, min(last, h + outside) - max(first, -outside))

    return sum(
        read(row, row + block, outside if h % block else 0)
        + read(row - cfg.halo_h, row, outside)
        + read(row + block, row + block + cfg.halo_h, outside)
        for row in range(0, h, block)
    )


def _wide(strip: int, halo: int, w: int, border: str) -> int:
    """Columns read by all strips of so many, with a halo on either side."""
    wide = 0
    for start in range(0, w, strip):
        end = min(start + strip, w)
        if border == "circular":
            wide += min(end - start + 2 * halo, w)
        else:
            wide += min(end + halo, w) - max(start - halo, 0)
    return wide


def _sliding_reads(launch: Launch, cfg: Sliding, problem: Problem) -> int:
    """``_reads`` of the sliding form."""
    h, w, radius = problem.h, problem.w, problem.radius
    lanes = cfg.lanes(problem)
    halo = -(-radius // lanes.VECTOR) * lanes.VECTOR
    wide = _wide(cfg.groups * COLUMNS, halo, w, problem.border)
    tall = 0
    for first in range(0, h, cfg.rows):
        end = min(first + cfg.rows, h)
        if problem.border == "zeros":
            tall += min(end + radius, h) - max(first - radius, 0)
        else:
            tall += end - first + 2 * radius
    return tall * wide + launch.da * tall * w + launch.db * h * wide


def _axis_reads(launch: Launch, cfg: Axis, problem: Problem) -> int:
    """``_reads`` of a launch of one axis."""
    h, w = cfg.size(problem)
    radius, border = problem.radius, problem.border
    own = (launch.da or launch.db) * h * w
    if not cfg.down(problem):
        vector = cfg.lanes(problem).VECTOR
        halo = -(-radius // vector) * vector
        return h * _wide(cfg.groups * cfg.columns, halo, w, border) + own
    tall = 0
    for first in range(0, h, cfg.rows):
        rows = min(cfg.rows, h - first)
        end = first + -(-rows // cfg.together) * cfg.together + radius
        if border == "zeros":
            tall += min(end, h) - max(first - radius, 0)
        else:
            tall += min(end, h + radius) - (first - radius)
    return tall * w + own


def _reads(launch: Launch, problem: Problem) -> int:
    """Elements of a plane of z, and of g for a gradient, that are asked for."""
    cfg, border = launch.config, problem.border
    if isinstance(cfg, Sliding):
        return _sliding_reads(launch, cfg, problem)
    if isinstance(cfg, Axis):
        return _axis_reads(launch, cfg, problem)
    seen, computed = _columns(cfg, problem)
    rows = _rows(cfg, problem, "zeros" if problem.asymmetric else border)
    if not (launch.da or launch.db):
        return rows * seen
    found = rows * seen + _rows(cfg, problem, border) * computed
    if problem.itemsize == 4 and launch.da and (launch.dz or launch.db):
        found += problem.h * (seen + computed)  # loaded again, to be split anew
    return found
