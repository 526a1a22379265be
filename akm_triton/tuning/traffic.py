"""The bytes of maps that a plan moves: exact, for dense maps, and tested against the interpreter's
counts."""

from __future__ import annotations

from typing import NamedTuple

from akm_triton.borders import SELF_ADJOINT
from akm_triton.launch.plan import Config, Launch, Plan
from akm_triton.launch.problem import Problem


class Traffic(NamedTuple):
    dram_bytes: int
    """Each element of each map once a launch."""
    requested_bytes: int
    """With the halos, which the caches serve."""


def traffic(plan: Plan, problem: Problem) -> Traffic:
    """Of all launches of the plan."""
    each = [_traffic(launch, launch.problem(problem)) for launch in plan]
    return Traffic(sum(x.dram_bytes for x in each), sum(x.requested_bytes for x in each))


def _traffic(launch: Launch, problem: Problem) -> Traffic:
    plane = problem.h * problem.w
    maps = 1 + (launch.da or launch.db) + launch.dz
    requested = sum(_reads(launch, problem)) + launch.dz * plane
    each = problem.n * problem.c * problem.itemsize
    return Traffic(each * maps * plane, each * requested)


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
            left, right = start - cfg.halo, start - cfg.halo + cfg.block_w
            wraps = problem.border == "circular"
            seen += cfg.block_w if wraps else min(right, w) - max(left, 0)
            computed += min(start + cfg.out_w, w) - start
    return seen, computed


def _rows(cfg: Config, problem: Problem, folded: bool) -> int:
    """Rows read by all segments: their blocks, the one before and the one after."""
    if not cfg.streams(problem):
        return problem.h
    outside = problem.radius if folded else 0
    blocks, total = -(-problem.h // cfg.block_h), 0
    for segment in range(cfg.segments):
        first = segment * blocks // cfg.segments - 1
        last = (segment + 1) * blocks // cfg.segments + 1
        top = max(first * cfg.block_h, -outside)
        total += min(last * cfg.block_h, problem.h + outside) - top
    return total


def _reads(launch: Launch, problem: Problem) -> tuple[int, int]:
    """Elements of a plane of g and of z that are asked for; a blur has z alone."""
    cfg = launch.config
    asymmetric = problem.border not in SELF_ADJOINT
    seen, computed = _columns(cfg, problem)
    if not (launch.da or launch.db):
        adjoint = problem.adjoint or "da" in problem.outputs
        folded = problem.border != "zeros" and not (adjoint and asymmetric)
        return 0, _rows(cfg, problem, folded) * seen
    folded = problem.border != "zeros"
    g = _rows(cfg, problem, folded and not asymmetric) * seen
    halo = launch.da and not launch.transposed
    z = (_rows(cfg, problem, folded) if halo else problem.h) * computed
    return g, z
