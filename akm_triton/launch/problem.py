"""What a plan is asked for: an op on maps of one shape."""

from __future__ import annotations

from typing import NamedTuple

from akm_triton.borders import SELF_ADJOINT

MAX_RADIUS = 31
"""The longest radius the kernels take: the rows beside a block are 16 or 32."""

OPS = (
    "blur", "blur_adjoint", "blur_pair", "blur_pair_adjoint", "blur_backward", "tap_grads",
)  # fmt: skip


class Problem(NamedTuple):
    """An op, its maps (n, c, h, w) and its taps. A tuple, because it is hashed at every launch."""

    op: str
    n: int
    c: int
    h: int
    w: int
    radius: int
    border: str
    itemsize: int
    """Bytes of an element."""
    channels_last: bool
    per_sample: bool = False
    """Whether each sample has its own taps."""
    stride: tuple[int, int] = (1, 1)
    """Of the rows and columns of a blur that are written."""

    @property
    def longest_side(self) -> int:
        return max(self.h, self.w)

    @property
    def is_16bit(self) -> bool:
        return self.itemsize == 2

    @property
    def long_radius(self) -> bool:
        """Whether a halo needs more than 16 rows."""
        return self.radius > 16

    @property
    def pair(self) -> bool:
        return self.op.startswith("blur_pair")

    @property
    def adjoint(self) -> bool:
        return self.op.endswith("adjoint")

    @property
    def asymmetric(self) -> bool:
        """Whether T(a)ᵀ is needed where it is no Toeplitz matrix, because the border folds
        otherwise than symmetrically: each block of rows then needs operands of its own."""
        return self.border not in SELF_ADJOINT and self.op not in ("blur", "blur_pair")

    @property
    def outputs(self) -> tuple[str, ...]:
        """What its launches write: the map ("dz") and the gradients of both taps."""
        taps = ("da", "db")
        return {"blur_backward": ("dz", *taps), "tap_grads": taps}.get(self.op, ("dz",))

    @property
    def written(self) -> int:
        """Pixels of a plane of the map that it writes."""
        down, across = self.stride
        return -(-self.h // down) * -(-self.w // across)

    @property
    def bytes(self) -> int:
        """Bytes of the maps that it reads, z and perhaps g, and of the one it may write."""
        read = (1 + ("da" in self.outputs)) * self.h * self.w
        pixels = read + ("dz" in self.outputs) * self.written
        return self.n * self.c * pixels * self.itemsize

    @property
    def only_for_tiles(self) -> str | None:
        """What kernels without tiles cannot do of it, or None."""
        if self.pair:
            return "a pair of taps"
        if self.stride != (1, 1):
            return "every row where some are kept"
        if self.asymmetric:
            return f"an adjoint that the border {self.border!r} makes another operator"
        return None

    @property
    def unaligned_rows(self) -> bool:
        """Whether rows begin where no wide access can, which takes more addresses."""
        return self.w % 8 > 0

    @property
    def key(self) -> str:
        """Problems of one key share a plan: both 16-bit types do, and batches up to the next power
        of two, because the best tiles hardly depend on the batch."""
        batch = 1 << max(self.n - 1, 0).bit_length()
        layout = "channels_last" if self.channels_last else "nchw"
        taps = " per-sample" if self.per_sample else ""
        stride = "" if self.stride == (1, 1) else " stride {}x{}".format(*self.stride)
        return (
            f"{self.op} {8 * self.itemsize}-bit {layout} {batch}x{self.c}x{self.h}x{self.w} "
            f"R={self.radius} {self.border}{taps}{stride}"
        )
