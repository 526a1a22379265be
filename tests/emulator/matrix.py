"""Matrices of a warp: ldmatrix, stmatrix and mma.

Lane t of a warp is in row g = t // 4 and in place p = t % 4 of it. A matrix of 8 × 8 of 16 bits has
in lane t, in one register, the elements (g, 2p) and (g, 2p+1).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.emulator.convert import from_bits
from tests.emulator.machine import LANE, Machine, Mask, Step, handles, put
from tests.emulator.memory import Array
from tests.emulator.parser import Instruction, Unknown, operands

ROW, PLACE = LANE // 4, LANE % 4


def _addresses(machine: Machine, x: Instruction, operand: str) -> Callable[[Array, int], Array]:
    """For warps and the number of a matrix, where the two halves of each lane's register are:
    (2, lanes). The lanes 8m to 8m+7 have the addresses of the rows of matrix m."""
    if x.type != "b16" or set(x.modifiers[3:-1]) - {"x1", "x2", "x4", "trans", "shared"}:
        raise Unknown("form")
    address = machine.address(operand)
    halves = [(ROW, 2 * PLACE + half) for half in (0, 1)]
    if "trans" in x.modifiers:
        halves = [(column, row) for row, column in halves]

    def found(warps: Array, m: int) -> Array:
        rows = address().reshape(-1, 32)[warps, 8 * m : 8 * m + 8]
        given = (32 * warps[:, None] + np.arange(8 * m, 8 * m + 8)).ravel()
        machine.shared.locate(given, rows.ravel(), 16)
        return np.stack([(rows[:, row] + 2 * column).ravel() for row, column in halves])

    return found


def _lanes(warps: Array) -> Array:
    return (32 * warps[:, None] + LANE).ravel()


@handles("ldmatrix.sync.aligned.m8n8")
def _load(machine: Machine, x: Instruction) -> Step:
    registers = [machine.register(name) for name in operands(x.operands[0])]
    addresses = _addresses(machine, x, x.operands[1])

    def step(mask: Mask) -> None:
        warps = machine.whole(mask)
        lanes = _lanes(warps)
        for m, register in enumerate(registers):
            halves = [machine.shared.read(lanes, where, 2) for where in addresses(warps, m)]
            register[lanes] = np.concatenate(halves, 1).view(np.uint32)[:, 0]

    return step


@handles("stmatrix.sync.aligned.m8n8")
def _store(machine: Machine, x: Instruction) -> Step:
    registers = [machine.register(name) for name in operands(x.operands[1])]
    addresses = _addresses(machine, x, x.operands[0])

    def step(mask: Mask) -> None:
        warps = machine.whole(mask)
        lanes = _lanes(warps)
        for m, register in enumerate(registers):
            halves = register[lanes].view(np.uint16).reshape(-1, 2)
            for half, where in enumerate(addresses(warps, m)):
                machine.shared.write(lanes, where, halves[:, half : half + 1])

    return step


def fragment(registers: list[Array], kind: str) -> Array:
    """(warps, 16, k) of operand A of a product: its registers are of the rows g, g+8, g and g+8, in
    the left half, twice, and in the right; k is 8 of tf32, else 16."""
    upper, lower = (
        np.concatenate([_eight_rows(x, kind) for x in registers[i::2]], 2) for i in (0, 1)
    )
    return np.concatenate([upper, lower], 1)


def _eight_rows(register: Array, kind: str) -> Array:
    """(warps, 8, 4) of tf32, or (warps, 8, 8): what one register has of an operand."""
    words = register.reshape(-1, 8, 4)
    return from_bits(words if kind == "tf32" else words.view(np.uint16), kind)


@handles("mma.sync.aligned")
def _product(machine: Machine, x: Instruction) -> Step:
    """D = A B + C, summed in float64 and rounded once: a GPU rounds more often."""
    kind = x.modifiers[-2]
    shape = "m16n8k8" if kind == "tf32" else "m16n8k16"
    if x.modifiers[2:] != [shape, "row", "col", "f32", kind, kind, "f32"]:
        raise Unknown("form")
    d, a, b = ([machine.register(name) for name in operands(text)] for text in x.operands[:3])
    c = [machine.read(name, "f32") for name in operands(x.operands[3])]

    def step(mask: Mask) -> None:
        machine.whole(mask)
        right = np.concatenate([_eight_rows(register, kind) for register in b], 2)  # (warps, 8, k)
        left = fragment(a, kind).astype(np.float64)
        product = left @ right.astype(np.float64).swapaxes(1, 2)
        for i, (register, term) in enumerate(zip(d, c, strict=True)):
            part = product[:, ROW + 8 * (i // 2), 2 * PLACE + i % 2].ravel()
            put(register, (part + term).astype(np.float32), mask)

    return step
