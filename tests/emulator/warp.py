"""What the lanes of a warp tell each other."""

from __future__ import annotations

import numpy as np

from tests.emulator.machine import LANE, Machine, Mask, Step, handles, put
from tests.emulator.parser import Instruction


@handles("shfl.sync.bfly", "shfl.sync.idx", "shfl.sync.down", "shfl.sync.up")
def _shuffle(machine: Machine, x: Instruction) -> Step:
    to, _, whether = x.operands[0].partition("|")
    register, inside_register = machine.register(to), machine.register(whether or "_")
    value = machine.read(x.operands[1], "b32")
    by, bounds = (machine.read(operand, "s32") for operand in x.operands[2:4])
    lane = np.tile(LANE, machine.lanes // 32)
    start, how = np.arange(machine.lanes) - lane, x.modifiers[1]

    def step(mask: Mask) -> None:
        machine.whole(mask)
        b, segment, clamp = by & 31, bounds >> 8 & 31, bounds & 31
        first = lane & segment
        last = first | clamp & ~segment
        source = {"idx": first | b & ~segment, "bfly": lane ^ b, "down": lane + b, "up": lane - b}
        inside = source[how] >= last if how == "up" else source[how] <= last
        put(register, value[start + np.where(inside, source[how], lane)], mask)
        put(inside_register, inside, mask)

    return step


@handles("redux.sync.min", "redux.sync.max", "redux.sync.add")
def _reduce(machine: Machine, x: Instruction) -> Step:
    register, value = machine.register(x.operands[0]), machine.read(x.operands[1], x.type)
    reduce = {"min": np.minimum, "max": np.maximum, "add": np.add}[x.modifiers[1]].reduce

    def step(mask: Mask) -> None:
        machine.whole(mask)
        put(register, np.repeat(reduce(value.reshape(-1, 32), 1, value.dtype), 32), mask)

    return step


@handles("bar.warp.sync")
def _meet(machine: Machine, x: Instruction) -> Step:
    """The lanes of a warp run in step anyway."""
    return lambda mask: None
