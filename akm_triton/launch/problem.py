"""What a plan is asked for: an op on maps of one shape, and the device it runs on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

MAX_RADIUS = 31
"""The widest window the kernels take: a halo must fit a block of rows."""

OPS = (
    "blur", "blur_adjoint", "blur_pair", "blur_pair_adjoint", "blur_backward", "tap_grads",
)  # fmt: skip


class Device(NamedTuple):
    """What the rule and the pruning know of a GPU; a tuple, which is hashed at every launch."""

    name: str
    multiprocessors: int
    capability: int
    """90 is Hopper."""
    shared_bytes: int
    """Shared memory that one program may have."""

    @property
    def warpgroup(self) -> bool:
        """Whether matrix products read operands from shared memory: elsewhere they stay in
        registers, and tiles must be smaller."""
        return self.capability // 10 in (9, 10)


H200 = Device("NVIDIA H200", 132, 90, 232_448)
"""Stands in where there is no GPU."""


@dataclass(frozen=True)
class Problem:
    op: str
    n: int
    c: int
    h: int
    w: int
    radius: int
    border: str
    itemsize: int
    channels_last: bool
    per_sample: bool = False
    """Whether each sample has its own tables."""

    @property
    def side(self) -> int:
        return max(self.h, self.w)

    @property
    def half(self) -> bool:
        return self.itemsize == 2

    @property
    def wide(self) -> bool:
        """Whether a halo needs more than 16 rows."""
        return self.radius > 16

    @property
    def pair(self) -> bool:
        return self.op.startswith("blur_pair")

    @property
    def adjoint(self) -> bool:
        return self.op.endswith("adjoint")

    @property
    def by_position(self) -> bool:
        """Whether rows need operands of their own, block by block: T(a)ᵀ is no Toeplitz matrix
        where a border folds otherwise than symmetrically."""
        return self.border in ("reflect", "replicate") and self.op not in ("blur", "blur_pair")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Of the gradient's launches; a blur writes a map alone."""
        taps = ("da", "db")
        return {"blur_backward": ("dz", *taps), "tap_grads": taps}.get(self.op, ("dz",))

    @property
    def bytes(self) -> int:
        """Of the maps that it reads and of one that it writes."""
        maps = 2 + ("da" in self.outputs)
        return maps * self.n * self.c * self.h * self.w * self.itemsize

    @property
    def ragged(self) -> bool:
        """Whether rows begin where no wide access can, which takes more addresses."""
        return self.w % 8 > 0

    @property
    def transposed(self) -> Problem:
        return replace(self, h=self.w, w=self.h)

    @property
    def key(self) -> str:
        """Names what shares one measurement: half precisions do, and batches up to the next power
        of two, for a batch only decides how often a program's tiles go round."""
        batch = 1 << max(self.n - 1, 0).bit_length()
        layout = "channels_last" if self.channels_last else "nchw"
        tables = " per-sample" if self.per_sample else ""
        return (
            f"{self.op} {8 * self.itemsize}-bit {layout} {batch}x{self.c}x{self.h}x{self.w} "
            f"R={self.radius} {self.border}{tables}"
        )
