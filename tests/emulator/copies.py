"""cp.async: copies in flight, in groups of each lane."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tests.emulator.memory import Array, Fault
from tests.emulator.shared import Shared


class Copy(NamedTuple):
    lanes: Array
    group: Array
    """Of each lane: how many groups it had committed before."""
    where: Array
    """(lanes, words): their places in shared memory."""
    words: Array

    def part(self, which: Array) -> Copy:
        return Copy(*(x[which] for x in self))


class Copies:
    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.committed = np.zeros(len(shared.warp), np.int64)
        self.under_way: list[Copy] = []

    def clear(self) -> None:
        self.committed[:], self.under_way = 0, []

    def start(self, lanes: Array, address: Array, words: Array) -> None:
        """The bytes may arrive at any time from now on, but are there only after the wait."""
        count = words.shape[1]
        offset = self.shared.locate(lanes, address, 4 * count)
        cells = self.shared.cells(offset, 4 * count)
        self.shared.will_write(lanes, cells)
        if len(np.unique(cells)) < cells.size:
            raise Fault("two copies to the same bytes")
        self.shared.copying[cells] = True
        where = offset[:, None] // 4 + np.arange(count)
        self.under_way.append(Copy(lanes, self.committed[lanes], where, words))

    def wait(self, lanes: Array, most: int) -> None:
        """Until at most so many groups of these lanes are under way."""
        done = np.zeros(len(self.committed), np.int64)
        done[lanes] = self.committed[lanes] - most
        left = []
        for copy in self.under_way:
            arrived = copy.group < done[copy.lanes]
            self._arrive(copy.part(arrived))
            if not arrived.all():
                left.append(copy.part(~arrived))
        self.under_way = left

    def _arrive(self, copy: Copy) -> None:
        self.shared.views[4][copy.where] = copy.words
        cells = self.shared.cells(4 * copy.where[:, 0], 4 * copy.where.shape[1])
        self.shared.copying[cells] = False
        self.shared.written(copy.lanes, cells)
