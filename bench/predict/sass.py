"""Hopper's machine code as a list of instructions, with what ptxas tells the hardware of each."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass

from akm_triton.tuning.compiler import tool


@dataclass
class Instruction:
    op: str
    """With its modifiers: LDG.E.128"""
    args: str
    predicate: str
    stall: int = 1
    """Clocks until the next instruction of the warp may issue."""
    sets: int | None = None
    """The scoreboard, of six, that is released when the result is there."""
    reads: int | None = None
    """The scoreboard that is released when the operands have been read."""
    waits: int = 0
    """A bit for each scoreboard that must have been released."""
    target: int | None = None
    """Of a branch: an index into the code."""

    @property
    def base(self) -> str:
        return self.op.partition(".")[0]

    @property
    def modifiers(self) -> list[str]:
        return self.op.split(".")[1:]

    @property
    def never(self) -> bool:
        return self.predicate == "@!PT"

    @property
    def width(self) -> int:
        """Bytes of a memory access, for each thread."""
        widths = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
        return next((widths[name] for name in self.modifiers if name in widths), 4)


@dataclass(frozen=True)
class Kernel:
    code: list[Instruction]
    registers: int
    """Of a thread."""
    stack: int
    """Bytes of local memory of a thread: registers that were spilled."""


def disassemble(cubin: bytes) -> Kernel:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = tool("nvdisasm", "-c", "-hex", file.name)
        usage = tool("cuobjdump", "--dump-resource-usage", file.name)
    registers, stack = (re.search(rf"{name}:(\d+)", usage) for name in ("REG", "STACK"))
    assert registers and stack, usage
    return Kernel(parse(text), int(registers[1]), int(stack[1]))


_LABEL = re.compile(r"(\.L_x_\d+|\$[\w$]+):")
_FIRST = re.compile(
    r"\s*/\*[0-9a-f]+\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?);\s*/\* 0x[0-9a-f]+ \*/"
)
_SECOND = re.compile(r"\s*/\* 0x([0-9a-f]+) \*/")


def parse(text: str) -> list[Instruction]:
    """What ``nvdisasm -c -hex`` prints, up to the last EXIT, or to the end of a loop that it
    leaves: subroutines behind are left out.

    An instruction has 128 bits, in two lines of hexadecimals. Control bits begin at the 105th.
    """
    code: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(code)
        elif first := _FIRST.match(line):
            code.append(Instruction(op=first[2], args=first[3], predicate=first[1] or ""))
        elif (second := _SECOND.match(line)) and code:
            _control(code[-1], int(second[1], 16) >> 41)
    for instruction in code:
        if branch := re.search(r"`\((\.L_x_\d+)\)", instruction.args):
            instruction.target = labels.get(branch[1])
    exits = [n for n, instruction in enumerate(code) if instruction.base == "EXIT"]
    if not exits:
        return code
    end = exits[-1]
    for n in range(end + 1, len(code)):
        target = code[n].target
        if target is not None and target <= end:  # of a loop that the EXIT leaves
            end = n
    return code[: end + 1]


def _control(instruction: Instruction, bits: int) -> None:
    sets, reads = (bits >> 5) & 7, (bits >> 8) & 7
    instruction.stall = bits & 15
    instruction.sets = sets if sets < 6 else None
    instruction.reads = reads if reads < 6 else None
    instruction.waits = (bits >> 11) & 63
