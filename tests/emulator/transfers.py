"""Loads, stores and asynchronous copies."""

from __future__ import annotations

import numpy as np

from tests.emulator.machine import DTYPES, Machine, Mask, Step, handles, put
from tests.emulator.memory import Fault
from tests.emulator.parser import Instruction, Unknown, operands


def _check_modifiers(x: Instruction, *known: str) -> None:
    """Hints to the caches change nothing."""
    for word in x.modifiers[1:-1]:
        if word not in (*known, "v2", "v4", "nc") and not word.startswith(("L1::", "L2::")):
            raise Unknown(f"modifier {word}")


@handles("ld.param")
def _load_parameter(machine: Machine, x: Instruction) -> Step:
    register = machine.register(x.operands[0])
    value = machine.parameters[x.operands[1].strip("[] ")].view(DTYPES[x.type])
    return lambda mask: put(register, value, mask)


@handles("ld.global", "ld.shared")
def _load(machine: Machine, x: Instruction) -> Step:
    _check_modifiers(x)
    registers = [machine.register(name) for name in operands(x.operands[0])]
    address, dtype = machine.address(x.operands[1]), np.dtype(DTYPES[x.type])
    space = machine.shared if x.is_("ld.shared") else machine.memory

    def step(mask: Mask) -> None:
        lanes = machine.taking_part(mask)
        words = space.read(lanes, address()[lanes], dtype.itemsize, len(registers))
        for i, register in enumerate(registers):
            value = np.empty(machine.lanes, dtype)
            value[lanes] = words[:, i].view(dtype)
            put(register, value, mask)

    return step


@handles("st.global", "st.shared")
def _store(machine: Machine, x: Instruction) -> Step:
    _check_modifiers(x)
    address, bits = machine.address(x.operands[0]), f"b{x.type[1:]}"
    values = [machine.read(name, bits) for name in operands(x.operands[1])]
    space = machine.shared if x.is_("st.shared") else machine.memory

    def step(mask: Mask) -> None:
        lanes = machine.taking_part(mask)
        words = np.stack([np.broadcast_to(value, machine.lanes)[lanes] for value in values], 1)
        space.write(lanes, address()[lanes], words)

    return step


@handles("cp.async.ca.shared", "cp.async.cg.shared")
def _copy(machine: Machine, x: Instruction) -> Step:
    """The bytes of a lane whose source size is 0 are zeros."""
    _check_modifiers(x, "ca", "cg", "shared", "shared::cta")
    to, of = (machine.address(operand) for operand in x.operands[:2])
    size = int(x.operands[2], 0)
    given = np.broadcast_to(machine.read(x.operands[-1], "u32"), machine.lanes)

    def step(mask: Mask) -> None:
        lanes = machine.taking_part(mask)
        full = given[lanes] == size
        if (~full & (given[lanes] > 0)).any():
            raise Fault("cp.async of a part of its bytes")
        source = of()[lanes][full]
        if (source % size).any():
            raise Fault(f"misaligned cp.async of {size} bytes")
        words = np.zeros((len(lanes), size // 4), np.uint32)
        words[full] = machine.memory.read(lanes[full], source, 4, size // 4)
        machine.copies.start(lanes, to()[lanes], words)

    return step


@handles("cp.async.commit_group")
def _commit(machine: Machine, x: Instruction) -> Step:
    def step(mask: Mask) -> None:
        machine.copies.committed[machine.taking_part(mask)] += 1

    return step


@handles("cp.async.wait_group", "cp.async.wait_all")
def _wait(machine: Machine, x: Instruction) -> Step:
    most = int(x.operands[0], 0) if x.operands else -1  # all: of the group not committed, too
    return lambda mask: machine.copies.wait(machine.taking_part(mask), most)
