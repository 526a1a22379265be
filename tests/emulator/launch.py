"""A launch: PTX, a grid, and the arguments of the kernel."""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tests.emulator.machine import DTYPES
from tests.emulator.memory import Fault, Memory
from tests.emulator.parser import parse
from tests.emulator.scheduler import run


class Launch(NamedTuple):
    ptx: str
    grid: int
    shared: int
    """Bytes of shared memory."""
    arguments: list[Any]
    """Of each parameter a tensor, a number or, for a pointer, an address."""


_parse = functools.lru_cache(64)(parse)


def emulate(launch: Launch) -> None:
    """Run it.

    Raises:
        Fault: says what, and of which instruction.
        Unknown: names the instruction.
    """
    kernel, memory, parameters = _parse(launch.ptx), Memory(), {}
    storages: list[tuple[int, int]] = []
    for parameter, value in zip(kernel.parameters, launch.arguments, strict=True):
        if isinstance(value, Tensor):
            value = memory.add(value.data_ptr(), extent(value))
        elif parameter.pointer and value:
            storages = storages or [*_storages()]
            at, size = next((x for x in storages if 0 <= value - x[0] < x[1]), (0, 0))
            if not at:
                raise Fault(f"argument {value:#x} points into no tensor")
            value = memory.add(at, size) + value - at
        parameters[parameter.name] = np.array(value).astype(DTYPES[parameter.type])
    run(kernel, launch.grid, parameters, launch.shared, memory)


def extent(x: Tensor) -> int:
    """Bytes from its first element to its last."""
    steps = zip(x.shape, x.stride(), strict=True)
    return x.element_size() * (1 + sum((size - 1) * stride for size, stride in steps))


def _storages() -> Iterator[tuple[int, int]]:
    """(address, bytes) of the memory of each living tensor."""
    for x in gc.get_objects():
        if type(x) in (Tensor, torch.nn.Parameter) and x.is_cpu:
            with contextlib.suppress(NotImplementedError):  # a tensor around another
                storage = x.untyped_storage()
                yield storage.data_ptr(), storage.nbytes()
