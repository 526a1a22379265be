"""What each resource of a multiprocessor needs for a round of the loop: no kernel is faster."""

from __future__ import annotations

from collections import defaultdict

from bench.predict.loops import Path
from bench.predict.machine import Machine
from bench.predict.needs import need
from bench.predict.sass import Instruction
from bench.predict.work import Work


def bounds(code: list[Instruction], path: Path, work: Work, machine: Machine) -> dict[str, float]:
    """Resource → clocks for a round of one program."""
    taken: dict[str, float] = defaultdict(float)
    for index in path.body:
        each = need(code[index], machine, work.scattered)
        taken["issue"] += 1
        taken[each.pipe] += each.cycles
        taken["lsu"] += each.shared
    scheduler = work.num_warps / 4
    requested = (work.requests + work.writes) / path.rounds
    moved = (work.reads + work.writes) / path.rounds
    return {
        "dram": moved / machine.per_clock(machine.dram),
        "l2": requested / machine.per_clock(machine.l2),
        "lsu": taken["lsu"] * work.num_warps,
        "tensor": taken["tensor"] * scheduler,
        "issue": taken["issue"] * scheduler,
        "alu": taken["alu"] * scheduler,
        "fma": taken["fma"] * scheduler,
        "xu": taken["xu"] * scheduler,
    }
