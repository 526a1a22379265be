"""Instructions that compute a register from registers, in each lane alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.emulator.machine import DTYPES, HANDLERS, Machine, Mask, Step, handles, put
from tests.emulator.memory import Array
from tests.emulator.parser import Instruction, operands

AS_IT_IS = {"rn", "approx", "full", "lo", "ftz"}
"""Modifiers that change nothing here: approximations are exact, denormals stay."""
WIDER = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}


def _divide(a: Array, b: Array) -> Array:
    """Integers towards zero; of nothing by nothing, anything."""
    if a.dtype.kind == "f":
        return a / b
    b = np.where(b == 0, 1, b).astype(b.dtype)
    size = np.abs(a) // np.abs(b)
    return np.where((a < 0) != (b < 0), np.negative(size), size)


def _fma(a: Array, b: Array, c: Array) -> Array:
    return (np.multiply(a, b, dtype=np.float64) + c).astype(np.result_type(a, c))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": _divide, "fma": _fma,
    "rem": lambda a, b: a - _divide(a, b) * b, "mad": lambda a, b, c: a * b + c,
    "min": np.fmin, "max": np.fmax, "min.NaN": np.minimum, "max.NaN": np.maximum,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "not": np.invert, "neg": np.negative, "abs": np.abs,
    "ex2": np.exp2, "lg2": np.log2, "rcp": np.reciprocal, "sqrt": np.sqrt, "sin": np.sin,
    "cos": np.cos, "rsqrt": lambda x: 1 / np.sqrt(x),
}  # fmt: skip


def computed(
    machine: Machine, x: Instruction, function: Callable[..., Any], kinds: list[str]
) -> Step:
    """The first operand becomes ``function`` of the others, which are of these types."""
    register = machine.register(x.operands[0])
    values = [machine.read(*pair) for pair in zip(x.operands[1:], kinds, strict=True)]
    return lambda mask: put(register, function(*values), mask)


def _pure(machine: Machine, x: Instruction) -> Step:
    op, *modifiers = x.name.split(".")[:-1]
    function = FUNCTIONS[".".join([op, *(m for m in modifiers if m not in AS_IT_IS)])]
    kind, count = x.type, len(x.operands) - 1
    if not kind.endswith("x2"):
        return computed(machine, x, function, [kind] * count)

    def of_halves(*words: Array) -> Array:
        """Two numbers of 16 bits in a register, each for itself."""
        pairs = [
            np.broadcast_to(word, machine.lanes).copy().view(DTYPES[kind[:-2]]) for word in words
        ]
        return function(*pairs).view(np.uint32)

    return computed(machine, x, of_halves, ["b32"] * count)


HANDLERS.update(dict.fromkeys((name.partition(".")[0] for name in FUNCTIONS), _pure))


@handles("mul.wide", "mad.wide")
def _wide(machine: Machine, x: Instruction) -> Step:
    wide = WIDER[x.type]

    def function(a: Array, b: Array, *c: Array) -> Any:
        return sum(c, np.multiply(a, b, dtype=DTYPES[wide]))

    return computed(machine, x, function, [x.type, x.type, wide][: len(x.operands) - 1])


@handles("mul.hi")
def _high(machine: Machine, x: Instruction) -> Step:
    dtype, bits = DTYPES[x.type], int(x.type[1:])
    wide: Any = DTYPES.get(f"{x.type[0]}{2 * bits}", object)  # of 128 bits are Python's integers

    def function(a: Array, b: Array) -> Array:
        return (np.asarray(a).astype(wide) * np.asarray(b).astype(wide) >> bits).astype(dtype)

    return computed(machine, x, function, [x.type, x.type])


@handles("shl", "shr")
def _shift(machine: Machine, x: Instruction) -> Step:
    """By as many bits as there are and more, nothing is left but the sign."""
    dtype, bits = np.dtype(DTYPES[x.type]), int(x.type[1:])
    move = np.left_shift if x.is_("shl") else np.right_shift

    def function(a: Array, by: Array) -> Array:
        beyond = a >> dtype.type(bits - 1) if dtype.kind == "i" else dtype.type(0)
        return np.where(by < bits, move(a, np.minimum(by, bits - 1).astype(dtype)), beyond)

    return computed(machine, x, function, [x.type, "u32"])


@handles("bfe")
def _bit_field(machine: Machine, x: Instruction) -> Step:
    """So many bits from a place on, as a number."""
    dtype, bits = np.dtype(DTYPES[x.type]), int(x.type[1:])

    def function(a: Array, start: Array, length: Array) -> Array:
        up = np.maximum(np.int64(bits) - start - length, 0).astype(dtype)
        down = bits - np.minimum(length, bits - 1)  # all of it, or none, does not occur
        return a << up >> down.astype(dtype)

    return computed(machine, x, function, [x.type, "u32", "u32"])


@handles("prmt.b32")
def _permute(machine: Machine, x: Instruction) -> Step:
    """Four of the eight bytes, or their signs."""

    def function(*words: Array) -> Array:
        low, high, selector = (np.asarray(word).astype(np.uint64) for word in words)
        found = np.uint64(0)
        for i in range(4):
            pick = selector >> np.uint64(4 * i)
            byte = (low | high << np.uint64(32)) >> (pick & np.uint64(7)) * np.uint64(8)
            sign = np.uint64(255) * (byte >> np.uint64(7) & np.uint64(1))
            byte = np.where(pick & np.uint64(8), sign, byte & np.uint64(255))
            found = found | byte << np.uint64(8 * i)
        return found.astype(np.uint32)

    return computed(machine, x, function, ["b32"] * 3)


@handles("mov")
def _move(machine: Machine, x: Instruction) -> Step:
    """Also between a register and its halves, the lower first."""
    (to, of), bits = x.operands, 0 if x.type == "pred" else int(x.type[1:]) // 2
    half = np.uint64(bits)
    if of[0] == "{":
        register = machine.register(to)
        low, high = (machine.read(name, f"b{bits}") for name in operands(of))
        return lambda mask: put(
            register, low.astype(np.uint64) | high.astype(np.uint64) << half, mask
        )
    if to[0] == "{":
        lower, higher = (machine.register(name) for name in operands(to))
        both = machine.read(of, x.type)

        def split(mask: Mask) -> None:
            value = both.astype(np.uint64)
            put(lower, value, mask)
            put(higher, value >> half, mask)

        return split
    return computed(machine, x, lambda value: value, [x.type])


@handles("selp")
def _select(machine: Machine, x: Instruction) -> Step:
    def function(a: Array, b: Array, first: Array) -> Array:
        return np.where(first, a, b)

    return computed(machine, x, function, [x.type, x.type, "pred"])


ORDERED: dict[str, Any] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater,
    "hs": np.greater_equal, "num": lambda a, b: a == a,
}  # fmt: skip
UNORDERED = {f"{how}u": ORDERED[how] for how in ("eq", "ne", "lt", "le", "gt", "ge")}
UNORDERED["nan"] = lambda a, b: a != a
COMBINED = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


@handles("setp")
def _compare(machine: Machine, x: Instruction) -> Step:
    register = machine.register(x.operands[0])
    a, b = (machine.read(name, x.type) for name in x.operands[1:3])
    how, *more = (m for m in x.modifiers[:-1] if m != "ftz")
    compare = (ORDERED | UNORDERED)[how]

    def compared() -> Array:
        return np.where((a == a) & (b == b), compare(a, b), how in UNORDERED)

    if not more:
        return lambda mask: put(register, compared(), mask)
    combine, other = COMBINED[more[0]], machine.condition(x.operands[3])
    return lambda mask: put(register, combine(compared(), other()), mask)
