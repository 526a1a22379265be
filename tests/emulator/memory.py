"""Global memory: a segment for each tensor, far from all others, with bounds."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
WIDTHS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
ALIGNED = 16  # the widest access
APART = 40  # bits: no arithmetic on 32 bits leads from one segment to another


class Fault(Exception):
    """What a GPU may not survive, or may not compute the same way twice."""


def views(memory: Array) -> dict[int, Array]:
    """The same bytes as words of each width."""
    return {size: memory.view(dtype) for size, dtype in WIDTHS.items()}


class Segment:
    """The bytes at ``pointer``, of real memory; where none is touched, none need exist."""

    def __init__(self, pointer: int, size: int, number: int) -> None:
        self.base = (2 * number + 3) << (APART - 1)  # amid its own
        self.start = pointer % ALIGNED
        self.end = self.start + size
        room = -(-self.end // ALIGNED) * ALIGNED
        raw = (ctypes.c_uint8 * room).from_address(pointer - self.start)
        self.views = views(np.ctypeslib.as_array(raw))


class Memory:
    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.stores: list[tuple[Array, Array]] = []

    def add(self, pointer: int, size: int) -> int:
        """The address under which kernels reach these bytes."""
        segment = Segment(pointer, size, len(self.segments))
        self.segments.append(segment)
        return segment.base + segment.start

    def read(self, lanes: Array, address: Array, size: int, count: int = 1) -> Array:
        """(lanes, count) words of ``size`` bytes."""
        found = np.empty((len(address), count), WIDTHS[size])
        for segment, which, offset in self._reach(lanes, address, size * count):
            found[which] = segment.views[size][offset[:, None] // size + np.arange(count)]
        return found

    def write(self, lanes: Array, address: Array, words: Array) -> None:
        """(lanes, count) words."""
        size, count = words.itemsize, words.shape[1]
        for segment, which, offset in self._reach(lanes, address, size * count):
            segment.views[size][offset[:, None] // size + np.arange(count)] = words[which]
        each = address[:, None] + np.arange(size * count)
        self.stores.append((each.ravel(), np.ascontiguousarray(words).view(np.uint8).ravel()))

    def check_stores(self) -> None:
        """No byte was given two values: which one stays would be chance."""
        if self.stores:
            address, value = (np.concatenate(x) for x in zip(*self.stores, strict=True))
            _, first, which = np.unique(address, return_index=True, return_inverse=True)
            if (value != value[first][which]).any():
                raise Fault("global bytes are written twice, with different values")

    def _reach(
        self, lanes: Array, address: Array, width: int
    ) -> Iterator[tuple[Segment, Array, Array]]:
        """Each segment, which of the lanes reach it, and their offsets in it."""
        if (address % width).any():
            raise Fault(f"misaligned global access of {width} bytes")
        number = (address >> APART) - 1
        for k in np.unique(number):
            which = np.flatnonzero(number == k)
            if not 0 <= k < len(self.segments):
                raise Fault(f"global access at {int(address[which[0]]):#x}, in no tensor")
            segment = self.segments[k]
            offset = address[which] - segment.base
            outside = (offset < segment.start) | (offset + width > segment.end)
            if outside.any():
                lane, byte = int(lanes[which][outside][0]), int(offset[outside][0]) - segment.start
                raise Fault(
                    f"global access out of bounds in lane {lane}: byte {byte} of"
                    f" {segment.end - segment.start} of tensor {k}"
                )
            yield segment, which, offset
