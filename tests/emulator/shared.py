"""Shared memory, with what each cell of it has been through since the last barrier."""

from __future__ import annotations

import numpy as np

from tests.emulator.memory import Array, Fault, views

BASE = 1024  # where it begins: an access at 0 is a fault
MANY = -2  # warps


class Shared:
    """The shared memory of some blocks, of ``size`` bytes each, in cells of ``granule`` bytes.

    A barrier begins a new epoch for the lanes of a block. Within one, bytes that a warp has written
    are for that warp alone, and bytes that a warp has read may be written by that warp alone.
    """

    def __init__(self, blocks: int, size: int, threads: int, granule: int) -> None:
        lanes = blocks * threads
        self.size, self.granule = -(-size // 16) * 16, granule
        self.block, self.warp = np.arange(lanes) // threads, np.arange(lanes) // 32
        self.views = views(np.zeros(blocks * self.size, np.uint8))
        self.epoch = np.zeros(lanes, np.int32)
        cells = blocks * self.size // granule
        self.write_epoch, self.writer, self.read_epoch, self.reader = np.zeros((4, cells), np.int32)
        self.multiplied = np.zeros(cells, np.int32)
        """How many wgmma may still be reading."""
        self.copying, self.unfenced = np.zeros((2, cells), np.bool_)
        """Whether cp.async is on its way there; whether it was written, but not for wgmma to see.
        """

    def clear(self) -> None:
        """For other blocks."""
        for state in (self.write_epoch, self.writer, self.read_epoch, self.reader):
            state[:] = -1
        self.epoch[:] = self.multiplied[:] = 0
        self.copying[:] = self.unfenced[:] = False

    def locate(self, lanes: Array, address: Array, width: int) -> Array:
        """Offsets in the views."""
        offset = address - BASE
        outside = (offset < 0) | (offset + width > self.size)
        if outside.any():
            lane, byte = int(lanes[outside][0]), int(offset[outside][0])
            raise Fault(f"shared access out of bounds in lane {lane}: byte {byte} of {self.size}")
        if (offset % width).any():
            raise Fault(f"misaligned shared access of {width} bytes")
        return offset + self.block[lanes] * self.size

    def cells(self, offset: Array, width: int) -> Array:
        """(lanes, width in cells)."""
        return offset[:, None] // self.granule + np.arange(max(1, width // self.granule))

    def read(self, lanes: Array, address: Array, size: int, count: int = 1) -> Array:
        """(lanes, count) words of ``size`` bytes."""
        offset = self.locate(lanes, address, size * count)
        epoch, warp = self.epoch[lanes][:, None], self.warp[lanes][:, None]
        self.will_read(self.cells(offset, size * count), epoch, warp)
        return self.views[size][offset[:, None] // size + np.arange(count)]

    def will_read(self, cells: Array, epoch: Array, warp: Array) -> None:
        """Note the read, if it may be."""
        if self.copying[cells].any():
            raise Fault("read of shared memory that cp.async may not have filled yet")
        if (self.write_epoch[cells] < 0).any():
            raise Fault("read of shared memory that was not written")
        if ((self.write_epoch[cells] == epoch) & (self.writer[cells] != warp)).any():
            raise Fault("race: read of what another warp wrote since the last barrier")
        several = (self.read_epoch[cells] == epoch) & (self.reader[cells] != warp)
        self.read_epoch[cells], self.reader[cells] = epoch, warp
        several |= self.reader[cells] != warp
        self.reader[cells[several]] = MANY

    def write(self, lanes: Array, address: Array, words: Array) -> None:
        """(lanes, count) words."""
        size, count = words.itemsize, words.shape[1]
        offset = self.locate(lanes, address, size * count)
        cells, warp = self.cells(offset, size * count), self.warp[lanes][:, None]
        self.will_write(lanes, cells)
        epoch = self.epoch[lanes][:, None]
        others = ((self.write_epoch[cells] == epoch) & (self.writer[cells] != warp)).any(1)
        where, view = offset[:, None] // size + np.arange(count), self.views[size]
        if (view[where] != words)[others].any():
            raise Fault("race: another warp has written other values since the last barrier")
        view[where] = words
        if (view[where] != words).any():
            raise Fault("race: different values written to the same bytes")
        self.written(lanes, cells)

    def will_write(self, lanes: Array, cells: Array) -> None:
        """Whether it may be written."""
        if self.copying[cells].any():
            raise Fault("write where cp.async may still write")
        if self.multiplied[cells].any():
            raise Fault("race: write over what a wgmma may still read")
        epoch, warp = self.epoch[lanes][:, None], self.warp[lanes][:, None]
        if ((self.read_epoch[cells] == epoch) & (self.reader[cells] != warp)).any():
            raise Fault("race: write over what another warp read since the last barrier")

    def written(self, lanes: Array, cells: Array) -> None:
        """Note the write."""
        self.write_epoch[cells] = self.epoch[lanes][:, None]
        self.writer[cells] = self.warp[lanes][:, None]
        self.unfenced[cells] = True
