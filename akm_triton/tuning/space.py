"""The plans worth measuring for a problem, and why the others are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from akm_triton.launch import axis
from akm_triton.launch.axis import Axis
from akm_triton.launch.counts import power_of_two
from akm_triton.launch.device import Device
from akm_triton.launch.plan import Config, Launch, Plan, check, tile
from akm_triton.launch.problem import Problem
from akm_triton.launch.rule import rule
from akm_triton.launch.sliding import COLUMNS, Sliding, refusal

PLANES = (1, 2, 4, 8, 16)
BLOCKS = (16, 32, 64, 128)
NUM_WARPS = (1, 2, 4, 8, 16)
NUM_STAGES = (1, 2, 3, 4)
REGISTERS = (0, 96, 128, 168)
PROGRAMS_PER_SM = (1, 2, 4, 8, 12)

REGISTER_BYTES = 65536 * 4  # of a multiprocessor, so of a program at most
_Make = Callable[..., Plan]
FEWEST_LANES, MOST_LANES = 2, 64  # elements of a tile for each thread


@dataclass(frozen=True)
class Pruned:
    tiles: str
    reason: str


def candidates(problem: Problem, device: Device) -> tuple[list[Plan], list[Pruned]]:
    """Plans of every structure and every tile, those of the least effort first, and what was
    left out.

    Only the tiles vary here; the rest does in ``variations`` of the best of them.
    """
    kept: dict[Plan, float] = {}
    pruned: list[Pruned] = []
    for name, make in _structures(problem, device):
        for planes, block_h, block_w, out_w, num_warps in product(
            PLANES, BLOCKS, BLOCKS, (None, 16, 32, 64), NUM_WARPS
        ):
            tiles = f"{name} {planes}x{block_h}x{block_w} out {out_w} warps {num_warps}"
            if out_w is not None and out_w >= block_w:
                continue  # the same as without
            try:
                plan = make(planes, block_h, block_w, out_w, num_warps)
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
                kept[plan] = effort(plan, problem)
    for plan in (*_sliding(problem), *_by_axes(problem)):
        kept[plan] = effort(plan, problem)
    return sorted(kept, key=kept.__getitem__), pruned


def effort(plan: Plan, problem: Problem) -> float:
    """What its warps have to do, in no unit: a plain order, which is mostly that of predictions.

    A warp does its share of each tile, and beside it as much as 32 elements a thread would be,
    whatever the tile; and the more warps share a tile, the longer they wait for each other and the
    more often they read the same operands. A warp that goes down the rows has work of its own in
    each, more for a longer window.
    """
    total = 0.0
    for launch in plan:
        cfg = launch.config
        maps = 3 if launch.da or launch.db else 1
        if isinstance(cfg, Sliding):
            steps = cfg.programs(problem) / problem.n * (cfg.rows + 2 * problem.radius)
            total += maps * steps * cfg.num_warps * (4 + problem.radius)
            continue
        if isinstance(cfg, Axis):
            halo = 2 * problem.radius if cfg.down(problem) else 0
            steps = cfg.programs(problem) / problem.n * (cfg.rows + halo)
            maps = 2 if launch.da or launch.db else 1
            total += (
                maps * steps * cfg.num_warps * cfg.columns * cfg.repeats * (4 + problem.radius) / 4
            )
            continue
        tiles = cfg.programs(problem.c) * -(-problem.h // cfg.block_h)
        lanes = cfg.planes * cfg.block_h * cfg.block_w / (32 * cfg.num_warps)
        total += maps * tiles * cfg.num_warps * (32 + lanes) * (1 + cfg.num_warps / 10)
    return total


def variations(plan: Plan, problem: Problem) -> Iterator[Plan]:
    """The plan with other stages, registers and programs_per_sm of its tiles, one of them at a
    time.

    Not with bf16x6 in the place of tf32x3: it takes as many operations and registers, and some of
    its kernels crash the compiler (Triton 3.7).
    """
    for name, values in (
        ("num_stages", NUM_STAGES),
        ("registers", REGISTERS),
        ("programs_per_sm", PROGRAMS_PER_SM),
    ):
        for value in values:
            change: dict[str, Any] = {name: value}
            other = tuple(
                replace(launch, config=replace(launch.config, **change))
                if isinstance(launch.config, Config)
                else launch
                for launch in plan
            )
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
    need_dz = "dz" in problem.outputs

    def launch(
        planes: int, block_h: int, block_w: int, out_w: int | None, num_warps: int, **outputs: bool
    ) -> Launch:
        shape = planes, block_h, block_w
        return Launch(tile(problem, shape, num_warps=num_warps, out_w=out_w), **outputs)

    def blur(*tiles: Any) -> Plan:
        return (launch(*tiles, dz=True),)

    def all_in_one(*tiles: Any) -> Plan:
        return (launch(*tiles, dz=need_dz, da=True, db=True),)

    def da_apart(*tiles: Any) -> Plan:
        return launch(*tiles, dz=need_dz, db=True), launch(*tiles, da=True)

    def dz_apart(*tiles: Any) -> Plan:
        dz = rule(problem._replace(op="blur_adjoint"), device)
        return *dz, launch(*tiles, da=True, db=True)

    if problem.outputs == ("dz",):
        yield "blur", blur
        return
    yield "all in one", all_in_one
    yield "a, and the rest", da_apart
    if need_dz:
        yield "dz, and the rest", dz_apart


def _sliding(problem: Problem) -> Iterator[Plan]:
    """Plans whose launches all slide, with the same lanes."""
    if refusal(problem):
        return
    ways: list[list[tuple[str, ...]]] = [[problem.outputs]]
    if "db" in problem.outputs:
        ways.append([problem.outputs[:-1], ("db",)])
    most_planes, most_groups = 2 * max(1, problem.c), 2 * -(-problem.w // COLUMNS)
    for lanes, groups, segments in product((64, 128, 256), (2, 4, 8, 16, 32, 64), (1, 2, 4)):
        planes, rows = min(lanes // groups, 64), -(-problem.h // segments)
        if planes >= most_planes or groups >= most_groups:
            continue
        config = Sliding(planes, groups, rows, lanes // 32)
        for way in ways:
            yield tuple(Launch(config, **dict.fromkeys(outputs, True)) for outputs in way)


def _by_axes(problem: Problem) -> Iterator[Plan]:
    """Plans with launches of one axis each, all with as many lanes."""
    if problem.only_for_tiles:
        return
    for lanes, channels, segments in product((64, 128, 256), (8, 16, 32, 64), (1, 2, 4)):
        if problem.channels_last and channels >= 2 * max(1, problem.c):
            continue
        for columns, together in ((8, 2), (8, 1), (4, 1)):
            plan = []
            for step in axis.steps(problem):
                cfg = Axis(step.axis, 1, 1, 1, 1, 8, num_warps=lanes // 32)
                rows, w = cfg.size(problem)
                if cfg.down(problem):
                    groups = lanes // channels if problem.channels_last else lanes
                else:
                    cfg = replace(cfg, columns=columns, together=together)
                    groups = lanes
                groups = max(1, min(groups, power_of_two(-(-w // cfg.columns))))
                planes = min(lanes // groups, power_of_two(problem.c))
                cfg = replace(cfg, planes=planes, groups=groups, rows=-(-rows // segments))
                plan.append(Launch(cfg, **dict.fromkeys(step.outputs, True)))
            if not _invalid(tuple(plan), problem):
                yield tuple(plan)


def _reason(plan: Plan, problem: Problem, device: Device) -> str | None:
    """Why a plan cannot be fast, or None."""
    for launch in plan:
        cfg = launch.config
        if not isinstance(cfg, Config):
            continue
        lanes = cfg.planes * cfg.block_h * cfg.out_w / (32 * cfg.num_warps)
        if lanes < FEWEST_LANES:
            return f"fewer than {FEWEST_LANES} elements a thread"
        if lanes > MOST_LANES:
            return f"more than {MOST_LANES} elements a thread"
        if cfg.planes > max(1, problem.c):
            return "more planes than channels"
        held = operand_bytes(launch, cfg, problem)
        if held > device.shared_bytes + REGISTER_BYTES:
            return f"operands of {held} bytes, with {device.shared_bytes} shared and the registers"
    return None


def operand_bytes(launch: Launch, cfg: Config, problem: Problem) -> int:
    """Of the banded operands and the accumulators that a program keeps between its tiles."""
    down, across = cfg.block_h * (cfg.block_h + 2 * cfg.halo_h), cfg.block_w * cfg.out_w
    pair = 2 if problem.pair else 1
    held = pair * (down + across) * problem.itemsize
    held += 4 * (across * launch.db + down * launch.da)
    return cfg.planes * held
