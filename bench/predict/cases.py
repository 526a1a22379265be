"""What is predicted: ops on square maps of the usual networks, with a symmetric border."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch

from akm_triton.launch.problem import Problem

OPS = ("blur", "blur_backward")
CHANNELS = {7: 512, 14: 512, 28: 256, 56: 128}
"""Of maps of this side in the usual networks; larger ones have 64."""


class Case(NamedTuple):
    problem: Problem
    dtype: torch.dtype


@dataclass(frozen=True)
class Grid:
    dtypes: tuple[torch.dtype, ...] = (torch.float16, torch.float32)
    channels_last: tuple[bool, ...] = (False, True)
    sizes: tuple[int, ...] = (14, 28, 56, 112, 224)
    radii: tuple[int, ...] = (3, 7, 15)
    ops: tuple[str, ...] = OPS
    batch: int = 256

    def cases(self) -> list[Case]:
        return [
            Case(
                Problem(
                    op, self.batch, CHANNELS.get(size, 64), size, size, radius, "symmetric",
                    dtype.itemsize, last,
                ),
                dtype,
            )
            for dtype, last, size, op, radius in product(
                self.dtypes, self.channels_last, self.sizes, self.ops, self.radii
            )
        ]  # fmt: skip


WHOLE = Grid()
FEW = Grid(sizes=(28, 112), radii=(7,))
ONE = Grid((torch.float16,), (False,), (14,), (3,), ("blur",), 32)
