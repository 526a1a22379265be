"""The plans worth measuring for a problem, and why the others are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from akm_triton.launch.plan import Config, Pass, Plan, check, segmented, tile
from akm_triton.launch.problem import Device, Problem
from akm_triton.launch.rule import rule
from akm_triton.tuning.cost import cost

PLANES = (1, 2, 4, 8, 16)
BLOCKS = (16, 32, 64, 128)
WARPS = (2, 4, 8, 16)
STAGES = (1, 2, 3)
WAVES = (2, 8, 16)

REGISTER_BYTES = 65536 * 4  # of a multiprocessor, so of a program at most
_Make = Callable[..., Plan]
FEWEST_LANES, MOST_LANES = 2, 64  # elements of a tile for each thread


@dataclass(frozen=True)
class Candidate:
    plan: Plan
    seconds: float
    """By the model of ``cost``."""


@dataclass(frozen=True)
class Pruned:
    tiles: str
    reason: str


def candidates(problem: Problem, device: Device) -> tuple[list[Candidate], list[Pruned]]:
    """Plans of every structure and every tile, the likely fastest first, and what was left out.

    Only the tiles vary here; the rest does in ``variations`` of the best of them.
    """
    kept: dict[Plan, Candidate] = {}
    pruned: list[Pruned] = []
    for name, make in _structures(problem, device):
        for planes, block_h, block_w, out_w, warps in product(
            PLANES, BLOCKS, BLOCKS, (None, 16, 32, 64), WARPS
        ):
            tiles = f"{name} {planes}x{block_h}x{block_w} out {out_w} warps {warps}"
            if out_w is not None and out_w >= block_w:
                continue  # the same as without
            try:
                plan = make(planes, block_h, block_w, out_w, warps)
                check(plan, problem)
            except ValueError as error:
                pruned.append(Pruned(tiles, str(error)))
                continue
            reason = _reason(plan, problem, device)
            if plan in kept:
                reason = "cut to the map, it is another candidate"
            if reason:
                pruned.append(Pruned(tiles, reason))
            else:
                kept[plan] = Candidate(plan, cost(plan, problem, device).seconds)
    return sorted(kept.values(), key=lambda x: x.seconds), pruned


def variations(plan: Plan, problem: Problem) -> Iterator[Plan]:
    """The plan with other stages, waves and segments, one of them at a time.

    Not with bf16x6 in the place of tf32x3: it takes as many operations and registers, and some of
    its kernels crash the compiler (Triton 3.7).
    """
    most = max(step.config.segments for step in plan)
    segments = {max(1, most // 2), 2 * most} if most > 1 else set()
    for name, values in (
        ("stages", STAGES),
        ("waves", WAVES),
        ("segments", tuple(sorted(segments))),
    ):
        for value in values:
            change: dict[str, Any] = {name: value}
            other = tuple(replace(step, config=replace(step.config, **change)) for step in plan)
            if other != plan and not _invalid(other, problem):
                yield other


def _invalid(plan: Plan, problem: Problem) -> bool:
    try:
        check(plan, problem)
    except ValueError:
        return True
    return False


def _structures(problem: Problem, device: Device) -> Iterator[tuple[str, _Make]]:
    """Ways to share the outputs among launches, each a function of one tile."""

    def cut(
        asked: Problem, planes: int, block_h: int, block_w: int, out_w: int | None, warps: int
    ) -> Config:
        return segmented(tile(asked, planes, block_h, block_w, warps, out_w), asked, device)

    if problem.outputs == ("dz",):
        yield "blur", lambda *tiles: (Pass(cut(problem, *tiles), dz=True),)
        return
    need_dz = "dz" in problem.outputs
    over = problem.transposed
    yield (
        "all in one",
        lambda *tiles: (Pass(cut(problem, *tiles), dz=need_dz, da=True, db=True),),
    )
    yield (
        "a, and the rest",
        lambda *tiles: (
            Pass(cut(problem, *tiles), dz=need_dz, db=True),
            Pass(cut(over, *tiles), da=True, transposed=True),
        ),
    )
    if need_dz:
        alone = rule(replace(problem, op="blur_adjoint"), device)
        yield (
            "each apart",
            lambda *tiles: (
                *alone,
                Pass(cut(problem, *tiles), db=True),
                Pass(cut(over, *tiles), da=True, transposed=True),
            ),
        )


def _reason(plan: Plan, problem: Problem, device: Device) -> str | None:
    """Why a plan cannot be fast, or None."""
    for step in plan:
        cfg = step.config
        lanes = cfg.planes * cfg.block_h * cfg.out_w / (32 * cfg.warps)
        if lanes < FEWEST_LANES:
            return f"fewer than {FEWEST_LANES} elements a thread"
        if lanes > MOST_LANES:
            return f"more than {MOST_LANES} elements a thread"
        if cfg.planes > max(1, problem.c):
            return "more planes than channels"
        if cfg.planes > 1 and not problem.channels_last and cfg.streams(step.problem(problem)):
            return "streams several planes that do not lie side by side"
        held = operand_bytes(step, problem)
        if held > device.shared_bytes + REGISTER_BYTES:
            return f"operands of {held} bytes, with {device.shared_bytes} shared and the registers"
    return None


def operand_bytes(step: Pass, problem: Problem) -> int:
    """Of the banded operands and the accumulators that a program keeps between its tiles."""
    cfg = step.config
    streams = cfg.streams(step.problem(problem))
    down, across = (3 if streams else 1) * cfg.block_h**2, cfg.block_w * cfg.out_w
    pair = 2 if problem.pair else 1
    held = pair * (down + across) * problem.itemsize
    held += 4 * (across if step.db or step.transposed else 0)
    held += 4 * (down if step.da and not step.transposed else 0)
    return cfg.planes * held
