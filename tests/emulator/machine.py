"""The lanes of some blocks: their registers, and what an operand of an instruction means to them.

All lanes go through an instruction together. It is bound once, to the arrays of its registers, and
becomes a step: a function of the mask of the lanes that take part, None for all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from tests.emulator.copies import Copies
from tests.emulator.memory import Array, Fault, Memory
from tests.emulator.parser import Instruction, Kernel, Unknown
from tests.emulator.products import Products
from tests.emulator.shared import BASE, Shared

Mask = Array | None
Step = Callable[[Mask], None]
Handler = Callable[["Machine", Instruction], Step]

DTYPES: dict[str, DTypeLike] = {
    "pred": np.bool_, "b8": np.uint8, "u8": np.uint8, "s8": np.int8,
    "b16": np.uint16, "u16": np.uint16, "s16": np.int16, "f16": np.float16,
    "b32": np.uint32, "u32": np.uint32, "s32": np.int32, "f32": np.float32,
    "b64": np.uint64, "u64": np.uint64, "s64": np.int64, "f64": np.float64,
}  # fmt: skip
LANE = np.arange(32)

HANDLERS: dict[str, Handler] = {}
"""By the first words of an instruction's name; the longest that is there counts."""


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Teaches the emulator the instructions of these names."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register


class Machine:
    def __init__(
        self, kernel: Kernel, blocks: int, grid: int, shared: int, memory: Memory,
        parameters: dict[str, Any],
    ) -> None:  # fmt: skip
        self.kernel, self.lanes = kernel, blocks * kernel.threads
        self.memory, self.parameters = memory, parameters
        bytewise = any(x.is_("ld.shared", "st.shared") and x.type.endswith("8")
                       for block in kernel.blocks for x in block)  # fmt: skip
        self.shared = Shared(blocks, shared, kernel.threads, 1 if bytewise else 2)
        self.copies, self.products = Copies(self.shared), Products(self.shared)
        self.registers = {
            name: np.zeros((count, self.lanes), _bits(kind))
            for name, (kind, count) in kernel.registers.items()
        }
        thread = np.tile(np.arange(kernel.threads, dtype=np.uint32), blocks)
        everywhere = np.ones(self.lanes, np.uint32)
        self.special = {
            "%tid.x": thread, "%laneid": thread % 32, "%ctaid.x": everywhere.copy(),
            "%ntid.x": everywhere * kernel.threads, "%nctaid.x": everywhere * grid,
        }  # fmt: skip

    def start(self, first: int) -> None:
        """Hold the blocks from ``first`` on."""
        self.special["%ctaid.x"][:] = first + np.arange(self.lanes) // self.kernel.threads
        for state in (self.shared, self.copies, self.products):
            state.clear()

    # Operands

    def register(self, name: str) -> Array:
        """To write to: whole, in bits."""
        if name == "_":
            return np.empty(self.lanes, np.uint64)
        ((kind, number),) = re.findall(r"^%([a-z]+)(\d+)$", name)
        return self.registers[kind][int(number)]

    def read(self, operand: str, kind: str) -> Any:
        """What the operand holds, as of this type: an array that changes with it, or a number."""
        dtype = np.dtype(DTYPES[kind])
        if operand in self.special:
            return self.special[operand].view(dtype)
        if operand.startswith("%"):
            register = self.register(operand)
            return register.view(dtype)[:: register.itemsize // dtype.itemsize]
        if operand.startswith(("0f", "0d")):
            return np.array(int(operand[2:], 16), _bits(kind)).view(dtype)[()]
        value = BASE if operand == "global_smem" else int(operand.rstrip("U"), 0)
        if kind == "pred":
            return np.bool_(value != 0)
        return np.array(value % 2 ** (8 * dtype.itemsize), _bits(kind)).view(dtype)[()]

    def condition(self, operand: str) -> Callable[[], Array]:
        """Of %p or !%p."""
        predicate = self.read(operand.lstrip("!"), "pred")
        return (lambda: ~predicate) if operand[0] == "!" else (lambda: predicate)

    def address(self, operand: str) -> Callable[[], Array]:
        """Of [register + offset] in each lane."""
        name, _, more = (part.strip() for part in operand.strip("[]").partition("+"))
        base: Any = BASE if name == "global_smem" else self.register(name)
        offset = int(more or "0", 0)
        return lambda: np.broadcast_to(base, self.lanes).astype(np.int64) + offset

    # Lanes

    def taking_part(self, mask: Mask) -> Array:
        """Their numbers."""
        return np.arange(self.lanes) if mask is None else np.flatnonzero(mask)

    def whole(self, mask: Mask, lanes: int = 32) -> Array:
        """The numbers of the warps, or of groups of so many lanes, that take part as a whole."""
        groups = np.ones((self.lanes // lanes, 1)) if mask is None else mask.reshape(-1, lanes)
        if (groups.any(1) & ~groups.all(1)).any():
            raise Fault("part of a warp at an instruction for all of it")
        return np.flatnonzero(groups.any(1))


def put(register: Array, value: Any, mask: Mask) -> None:
    """Write to the register, which holds bits: narrower integers are extended by their sign."""
    value = np.asarray(value)
    same = value.itemsize == register.itemsize
    value = value.view(register.dtype) if same else value.astype(register.dtype)
    np.copyto(register, value, where=True if mask is None else mask)


def _bits(kind: str) -> DTypeLike:
    return np.bool_ if kind == "pred" else np.dtype(f"u{np.dtype(DTYPES[kind]).itemsize}")


def bind(machine: Machine, x: Instruction) -> Step:
    """The instruction as a step.

    Raises:
        Unknown: names it.
    """
    words = x.name.split(".")
    names = (".".join(words[:n]) for n in range(len(words), 0, -1))
    try:
        handler = HANDLERS[next((name for name in names if name in HANDLERS), x.name)]
        step = handler(machine, x)
        if not x.guard:
            return step
        guard = machine.condition(x.guard)
    except (Unknown, KeyError, ValueError, IndexError) as error:
        raise Unknown(f"{x}: {error!r}") from error
    return lambda mask: step(guard().copy() if mask is None else mask & guard())
