"""wgmma: products of warp groups on their way, whose registers and memory nothing may touch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tests.emulator.memory import Array, Fault
from tests.emulator.shared import MANY, Shared

GROUP = 128
"""Lanes of a warp group."""
UNDER_WAY = np.uint32(0x7FC0AAAA)
"""A NaN: what accumulators hold before their product is waited for."""


@dataclass(eq=False)
class Product:
    """Of a warp group, on its way. The registers are of its lanes."""

    group: int
    batch: int
    """How many batches the group had committed before."""
    accumulator: str
    results: list[Array]
    values: Array
    """What the results will be."""
    given: list[Array]
    """The registers of operand A."""
    held: list[Array]
    """What was in them."""
    cells: Array
    """Of shared memory that it reads."""


class Products:
    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.committed = np.zeros(len(shared.warp) // GROUP, np.int64)
        self.fenced = np.zeros(len(self.committed), np.bool_)
        self.under_way: list[Product] = []

    def clear(self) -> None:
        self.committed[:], self.fenced[:], self.under_way = 0, False, []

    def last(self, group: int, accumulator: str) -> Product | None:
        """The one that writes there last."""
        wanted = group, accumulator
        later = reversed(self.under_way)
        return next((x for x in later if (x.group, x.accumulator) == wanted), None)

    def start(self, product: Product) -> None:
        self.under_way.append(product)
        self.shared.multiplied[product.cells] += 1
        for register in product.results:
            register[:] = UNDER_WAY

    def commit(self, groups: Array) -> None:
        self.committed[groups] += 1
        self.fenced[groups] = False

    def wait(self, groups: Array, most: int) -> None:
        """Until at most so many batches of these groups are under way."""
        done = [
            x for x in self.under_way
            if x.group in groups and x.batch < self.committed[x.group] - most
        ]  # fmt: skip
        for product in done:
            self._finish(product)
        self.under_way = [x for x in self.under_way if x not in done]

    def _finish(self, product: Product) -> None:
        if self.last(product.group, product.accumulator) is product:
            for register, value in zip(product.results, product.values, strict=True):
                if (register != UNDER_WAY).any():
                    raise Fault("the accumulator of a wgmma under way was written")
                register[:] = value.view(np.uint32)
        for register, before in zip(product.given, product.held, strict=True):
            if (register != before).any():
                raise Fault("an operand of a wgmma under way was written")
        self.shared.multiplied[product.cells] -= 1
        self.shared.read_epoch[product.cells] = self.shared.epoch[product.group * GROUP]
        self.shared.reader[product.cells] = MANY
