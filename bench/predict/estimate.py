"""How long a launch should take: bounds and simulation of its machine code, put together."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.predict.bounds import bounds
from bench.predict.loops import Path, path
from bench.predict.machine import Machine
from bench.predict.sass import Kernel
from bench.predict.simulation import Played, play
from bench.predict.work import Work

EVENTS = 1_000_000
"""Instructions of a simulation at most; longer launches are cut to fewer rounds and programs."""


@dataclass(frozen=True)
class Estimate:
    kernel: str
    registers: int
    stack: int
    """Bytes of local memory of a thread, for registers that were spilled."""
    shared_bytes: int
    programs: int
    resident: int
    """Programs on a multiprocessor at a time."""
    seconds: float
    limits: dict[str, float]
    """Resource → seconds that the launch needs of it: no kernel is faster."""
    waits: dict[str, float]
    """Share of its time that a warp waits, by what for."""
    in_flight: float
    """Bytes that a multiprocessor has asked for and not got, on the average."""


def estimate(work: Work, kernel: Kernel, machine: Machine) -> Estimate:
    way = path(kernel.code, work.images, work.blocks)
    resident = machine.resident(kernel.registers, work.num_warps, work.shared)
    if resident < 1:
        raise ValueError(f"{work.name} fits no multiprocessor")
    each = bounds(kernel.code, way, work, machine)
    all_rounds = way.rounds * work.programs / machine.multiprocessors
    clocks, played = _clocks(kernel, way, work, machine, resident)
    return Estimate(
        work.name, kernel.registers, kernel.stack, work.shared, work.programs, resident,
        clocks / machine.clock,
        {name: x * all_rounds / machine.clock for name, x in each.items()},
        played.waits,
        played.in_flight,
    )  # fmt: skip


def _clocks(
    kernel: Kernel, way: Path, work: Work, machine: Machine, resident: int
) -> tuple[float, Played]:
    """Clocks of the busiest multiprocessor. What is too long to play is a straight line through two
    shorter launches: of fewer waves of programs or, if a few waves are too long, of fewer rounds.
    """
    programs = math.ceil(work.programs / machine.multiprocessors)
    resident = min(resident, programs)

    def playing(programs: int, rounds: float) -> Played:
        return play(
            kernel.code, way, work, machine,
            resident=min(resident, programs), programs=programs, rounds=rounds,
        )  # fmt: skip

    def events(programs: int, rounds: float) -> float:
        once = len(way.before) + rounds * len(way.body) + len(way.after)
        return programs * work.num_warps * once

    def wave(programs: int) -> tuple[float, Played]:
        few = int(EVENTS / 2 / events(resident, 1))
        few = max(2, min(int(way.rounds) // 2, few))
        short, long = playing(programs, few), playing(programs, 2 * few)
        return short.clocks + (long.clocks - short.clocks) * (way.rounds / few - 1), long

    if events(programs, way.rounds) <= EVENTS:
        played = playing(programs, way.rounds)
        return played.clocks, played
    waves, rest = divmod(programs, resident)
    if events(3 * resident, way.rounds) <= EVENTS:
        few = int(EVENTS / 2 / events(resident, way.rounds))
        short, long = (playing(x * resident + rest, way.rounds) for x in (few, 2 * few))
        return short.clocks + (long.clocks - short.clocks) * (waves / few - 1), long
    clocks, played = wave(resident)
    return waves * clocks + (wave(rest)[0] if rest else 0.0), played
