"""Border rule → how an index outside the map folds back into it."""

import threading
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from akm_triton.tracing import PLAIN_TYPES, outside_transforms

BORDERS = ("symmetric", "zeros", "replicate", "reflect", "circular")
SELF_ADJOINT = frozenset({"symmetric", "zeros", "circular"})
"""Where T(a) is a symmetric matrix, and so its own adjoint."""

Index = TypeVar("Index", Tensor, np.ndarray)


def fold_index(index: Index, size: int | Tensor, border: str) -> Index:
    """Fold integer positions, any distance outside, into ``[0, size)``; −1 outside for "zeros".

    A size that a graph holds as a symbol comes as a tensor, so this is arithmetic throughout.

    backend/tiles.py has the same for kernels, and backend/toeplitz.py sums the taps accordingly.

    ::

        symmetric  d c b a | a b c d | d c b a      (half-sample)
        reflect      d c b | a b c d | c b a        (whole-sample; a map of size 1 stays at 0)
        replicate  a a a a | a b c d | d d d d
        circular   a b c d | a b c d | a b c d
        zeros      0 0 0 0 | a b c d | 0 0 0 0
    """
    # reflect in the first border before the remainder: of negative numbers, Inductor (torch 2.13)
    # compiles it to indices that lie outside, without a word
    if border == "symmetric":
        index = abs(2 * index + 1) // 2  # −1 − i where negative
        return (2 * size - 1 - abs(2 * (index % (2 * size)) - (2 * size - 1))) // 2
    if border == "reflect":
        return size - 1 - abs(abs(index) % (2 * (size - 1) + (size == 1)) - (size - 1))
    if border == "replicate":  # first the larger of it and 0, then the smaller of that and the last
        index, last = (index + abs(index)) // 2, size - 1
        return (index + last - abs(index - last)) // 2
    if border == "circular":
        return index % size
    if border == "zeros":
        return (index + 1) * ((index >= 0) & (index < size)) - 1
    raise ValueError(f"border must be one of {BORDERS}, got {border!r}")


class RowBlock(NamedTuple):
    """Rows ``start:stop`` of T(a) and the columns ``first:last`` outside which they are zero.

    ``first < 0`` or ``last > size`` wraps around ("circular" only). ``before`` and ``after`` are
    the distances to the two borders, capped where they cease to matter, so that all blocks in the
    middle of a map, of any map, share one ``indicator``.
    """

    start: int
    stop: int
    first: int
    last: int
    before: int
    after: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.stop - self.start, self.last - self.first


def row_blocks(size: int, radius: int, border: str, rows: int) -> list[RowBlock]:
    """Split T(a) into equal blocks of about ``rows`` rows; one block if that saves no columns."""
    count = max(1, round(size / rows)) if rows + 2 * radius < size else 1
    step = max(1, -(-size // count))
    wraps = border == "circular" and count > 1
    blocks = []
    for start in range(0, size, step):
        stop = min(start + step, size)
        # radius + 1: folded back from a cut one beyond the radius, no tap reaches the block
        before = radius if wraps else min(start, radius + 1)
        after = radius if wraps else min(size - stop, radius + 1)
        first, last = start - min(before, radius), stop + min(after, radius)
        blocks.append(RowBlock(start, stop, first, last, before, after))
    return blocks


def indicator(
    block: RowBlock, radius: int, border: str, like: Tensor, transpose: bool = False
) -> Tensor:
    """M of shape (R+1, rows·columns), such that ``a @ M`` are the entries of T(a) in ``block``.

    With fold for ``fold_index``, M[n, i, j] = [fold(i + n) = j] + [fold(i − n) = j], counted once
    for n = 0; with ``transpose`` the entries are those of T(a)ᵀ. Conversely ∂F/∂a = ∂F/∂T · Mᵀ.

    Eager calls share a cache, filled from NumPy: no dispatch mode and no ``inference_mode`` can
    get hold of what it keeps. Under ``torch.compile``, or when ``like`` is a tensor subclass
    (fake, functional), M is computed in the traced program and nothing is kept.
    """
    rows, before, after = block.stop - block.start, block.before, block.after
    if torch.compiler.is_compiling() or type(like) not in PLAIN_TYPES:
        taps = torch.arange(radius + 1, device=like.device)
        cells = torch.arange(before + rows + after, device=like.device)
        counts = _count(taps, cells, radius, rows, before, after, border, transpose)
        return counts.to(like.dtype)
    key = radius, rows, before, after, border, transpose, like.dtype, like.device
    with _lock:
        if key in _kept:
            _kept[key] = matrix = _kept.pop(key)  # the last used is the last in order
            return matrix
    matrix = _indicator(*key)
    with _lock:
        _kept[key] = matrix
        while sum(x.nbytes for x in _kept.values()) > KEPT_BYTES:
            del _kept[next(iter(_kept))]
    return matrix


KEPT_BYTES = 2**26
"""Of all indicators together; one takes 0.3 MB or so at radius 15, and 30 MB at radius 127."""

_kept: dict[tuple[Any, ...], Tensor] = {}
_lock = threading.Lock()


def _indicator(
    radius: int,
    rows: int,
    before: int,
    after: int,
    border: str,
    transpose: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    cells, options = np.arange(before + rows + after), (rows, before, after, border, transpose)
    # few taps at a time: NumPy counts in 64 bits, several times over
    parts = np.array_split(np.arange(radius + 1), -(-(radius + 1) // 8))
    counts = [_count(taps, cells, radius, *options).astype(np.uint8) for taps in parts]
    with outside_transforms():
        return torch.from_numpy(np.concatenate(counts)).to(device, dtype)


def _count(
    taps: Index,  # some of 0 … R
    cells: Index,  # (before + rows + after,) = 0, 1, …
    radius: int,
    rows: int,
    before: int,
    after: int,
    border: str,
    transpose: bool,
) -> Index:
    size = len(cells)
    outputs = cells[before : before + rows][:, None]
    inputs = cells[before - min(before, radius) : before + rows + min(after, radius)]
    i, j = (inputs, outputs) if transpose else (outputs, inputs)
    n = taps[:, None, None]
    counts = (fold_index(i + n, size, border) == j) * 1 + (
        (fold_index(i - n, size, border) == j) & (n > 0)
    ) * 1
    flat: Index = counts.reshape(len(taps), -1)
    return flat
