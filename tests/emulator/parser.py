"""PTX, as the compiler prints it, cut into basic blocks."""

from __future__ import annotations

import re
from typing import NamedTuple

CONTROL = ("bra", "ret", "exit", "bar.sync", "barrier.sync")
"""What ends a basic block."""


class Unknown(Exception):
    """The emulator does not know an instruction."""


class Instruction(NamedTuple):
    guard: str
    """"%p1" or "!%p1", or "" without one."""
    name: str
    """"mul.wide.s32"."""
    operands: list[str]
    text: str
    source: str
    """The line of the kernel it comes from: "tiles.py:65:24"."""

    def __str__(self) -> str:
        return f"{self.text} ({self.source})"

    @property
    def modifiers(self) -> list[str]:
        return self.name.split(".")[1:]

    @property
    def type(self) -> str:
        return self.modifiers[-1]

    def is_(self, *names: str) -> bool:
        """Whether it begins with one of these, by whole words."""
        return any(f"{self.name}.".startswith(f"{name}.") for name in names)


class Parameter(NamedTuple):
    type: str
    pointer: bool
    name: str


class Kernel(NamedTuple):
    name: str
    threads: int
    """Of a block."""
    parameters: list[Parameter]
    registers: dict[str, tuple[str, int]]
    """The type and number of each kind: {"rd": ("b64", 32)}."""
    blocks: list[list[Instruction]]
    """Control passes from each to the next, unless its last instruction says otherwise."""
    labels: dict[str, int]


def parse(ptx: str) -> Kernel:
    """The one kernel of a module."""
    head, _, body = ptx[ptx.index(".entry") :].partition("{")
    (name,) = re.findall(r"\.entry\s+([\w$]+)", head)
    (threads,) = re.findall(r"\.reqntid (\d+)", head)
    parameters = re.findall(r"\.param \.(\w+)\s(.*?)([\w$]+),?\n", head)
    registers = re.findall(r"\.reg \.(\w+)\s+%(\w+?)<(\d+)>", body)
    kernel = Kernel(
        name, int(threads),
        [Parameter(kind, ".ptr" in more, name) for kind, more, name in parameters],
        {name: (kind, int(count)) for kind, name, count in registers},
        [[]], {},
    )  # fmt: skip
    source = unfinished = ""
    for line in body.splitlines():
        code, _, comment = line.partition("//")
        if ".loc" in code:
            source = comment.split()[0]
        code, unfinished = f"{unfinished} {code.strip()}".strip(), ""
        if code == "}":
            break
        if code.endswith(":"):
            _next_block(kernel)
            kernel.labels[code[:-1]] = len(kernel.blocks) - 1
        elif code and code[0] not in ".{":
            *statements, unfinished = code.split(";")
            for statement in statements:
                _add(kernel, statement.strip(), source)
    return kernel


def _add(kernel: Kernel, text: str, source: str) -> None:
    ((guard, name, rest),) = re.findall(r"^(?:@(!?%\w+)\s+)?(\S+)\s*(.*)", text, re.S)
    instruction = Instruction(guard, name, operands(rest), text, source)
    kernel.blocks[-1].append(instruction)
    if instruction.is_(*CONTROL):
        _next_block(kernel)


def _next_block(kernel: Kernel) -> None:
    if kernel.blocks[-1]:
        kernel.blocks.append([])


def operands(text: str) -> list[str]:
    """Those of a list, in which [address] and {vector} are one each; or those of {vector}."""
    if re.fullmatch(r"\{[^}]*\}", text):
        text = text.strip("{}")
    return [x.strip() for x in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s{\[][^,]*", text)]
