"""T of a tap table as the matrix products take it, and ∂F/∂table of ∂F/∂T.

A tile is (PLANES, rows, columns); with PLANES = 1 the first axis is dropped, because the widest
tensor-core instructions take two axes only.
"""

import triton
import triton.language as tl

from akm_triton.backend.tiles import columns_of, fold, rows_of


@triton.jit
def tap(table_ptr, n, RADIUS: tl.constexpr):
    """The tap at distance n, zero beyond the window."""
    n = tl.abs(n)
    return tl.load(table_ptr + n, mask=n <= RADIUS, other=0.0)


@triton.jit
def toeplitz(table_ptr, i, j, SIZE: tl.constexpr, RADIUS: tl.constexpr, BORDER: tl.constexpr):
    """T[i, j]: the taps of every image of input j that output i sees. BORDER "band": no images."""
    t = tap(table_ptr, i - j, RADIUS)
    if BORDER == "replicate":
        for n in range(1, RADIUS + 1):
            beyond = ((j == 0) & (n > i)).to(tl.float32) + (
                (j == SIZE - 1) & (n > SIZE - 1 - i)
            ).to(tl.float32)
            t += tl.load(table_ptr + n) * beyond
    elif BORDER == "circular" or (BORDER == "reflect" and SIZE == 1):
        for m in range(1, (RADIUS + SIZE - 1) // SIZE + 1):
            t += tap(table_ptr, i - j - m * SIZE, RADIUS) + tap(table_ptr, i - j + m * SIZE, RADIUS)
    elif BORDER == "symmetric":
        for m in range(1, (RADIUS + SIZE - 1) // (2 * SIZE) + 1):
            t += tap(table_ptr, i - j - 2 * m * SIZE, RADIUS)
            t += tap(table_ptr, i - j + 2 * m * SIZE, RADIUS)
        for m in range(0, (RADIUS - 1) // (2 * SIZE) + 1):
            t += tap(table_ptr, i + j + 1 + 2 * m * SIZE, RADIUS)
            t += tap(table_ptr, i + j + 1 - 2 * (m + 1) * SIZE, RADIUS)
    elif BORDER == "reflect":
        inner = (j > 0) & (j < SIZE - 1)  # the two end samples are not mirrored
        for m in range(1, (RADIUS + SIZE - 1) // (2 * SIZE - 2) + 1):
            t += tap(table_ptr, i - j - m * (2 * SIZE - 2), RADIUS)
            t += tap(table_ptr, i - j + m * (2 * SIZE - 2), RADIUS)
        for m in range(0, RADIUS // (2 * SIZE - 2) + 1):
            t += tl.where(inner, tap(table_ptr, i + j + m * (2 * SIZE - 2), RADIUS), 0.0)
            t += tl.where(inner, tap(table_ptr, i + j - (m + 1) * (2 * SIZE - 2), RADIUS), 0.0)
    inside = (i >= 0) & (i < SIZE) & (j >= 0) & (j < SIZE)
    if BORDER == "band":
        return t
    else:
        return tl.where(inside, t, 0.0)


@triton.jit
def table_rounding(table_ptr, RADIUS: tl.constexpr, PLANES: tl.constexpr, DTYPE: tl.constexpr):
    """(scale, centre): what keeps a table true when its Toeplitz matrix is rounded to DTYPE.

    scale is the power of two that brings the largest tap near 1, so no cotangent over- or
    underflows; centre is what the side taps lose in rounding, given back to the centre tap, so the
    DC gain is that of the table to one rounding.
    """
    BLOCK_R: tl.constexpr = triton.next_power_of_2(RADIUS + 1)
    n = columns_of(tl.arange(0, BLOCK_R), PLANES)
    taps = tl.load(table_ptr + n, mask=n <= RADIUS, other=0.0)
    AXIS: tl.constexpr = len(taps.shape) - 1
    peak = tl.maximum(tl.max(tl.abs(taps), AXIS, keep_dims=True), 1e-30)
    scale = tl.exp2(tl.ceil(tl.log2(peak)))
    lost = taps / scale - (taps / scale).to(DTYPE).to(tl.float32)
    centre = 2.0 * tl.sum(tl.where(n > 0, lost, 0.0), AXIS, keep_dims=True)
    return scale, centre


@triton.jit
def operand(t, on_diagonal, scale, centre, DTYPE: tl.constexpr):
    """A block of T as the dots take it: scaled and rounded to DTYPE (exact for float32)."""
    if DTYPE == tl.float32:
        return t
    else:
        return (t / scale + tl.where(on_diagonal, centre, 0.0)).to(DTYPE)


@triton.jit
def whole_operand(t, on_diagonal, scale, AXIS: tl.constexpr, DTYPE: tl.constexpr):
    """As ``operand`` for the whole of T, where folded borders change what a row loses: AXIS -1 or
    -2 is the one that a product sums over."""
    if DTYPE == tl.float32:
        return t
    else:
        t = t / scale
        lost = tl.where(on_diagonal, 0.0, t - t.to(DTYPE).to(tl.float32))
        lost = tl.sum(lost, len(t.shape) + AXIS, keep_dims=True)
        return (t + tl.where(on_diagonal, lost, 0.0)).to(DTYPE)


@triton.jit
def vertical_operands(
    a_ptr, rows, scale, centre, BORDER: tl.constexpr, MAP: tl.constexpr, DTYPE: tl.constexpr
):
    """What a block of output rows takes from the block (above, at, below) it. BORDER "band" is
    T(a) over logical rows, anything else T(a)ᵀ by position."""
    H: tl.constexpr = MAP[0]
    RADIUS: tl.constexpr = MAP[2]
    PLANES: tl.constexpr = MAP[3]
    BLOCK_H: tl.constexpr = MAP[4]
    i = rows_of(rows, PLANES)
    j = columns_of(rows, PLANES)
    if BORDER == "band":
        above = toeplitz(a_ptr, i, j - BLOCK_H, H, RADIUS, BORDER)
        at = toeplitz(a_ptr, i, j, H, RADIUS, BORDER)
        below = toeplitz(a_ptr, i, j + BLOCK_H, H, RADIUS, BORDER)
    else:
        above = toeplitz(a_ptr, j - BLOCK_H, i, H, RADIUS, BORDER)
        at = toeplitz(a_ptr, j, i, H, RADIUS, BORDER)
        below = toeplitz(a_ptr, j + BLOCK_H, i, H, RADIUS, BORDER)
    return (
        operand(above, False, scale, centre, DTYPE),
        operand(at, i == j, scale, centre, DTYPE),
        operand(below, False, scale, centre, DTYPE),
    )


@triton.jit
def gathered(d, index, valid):
    """sum over rows i of d[i, index[i, n]] where valid: (..., 1, taps)."""
    AXIS: tl.constexpr = len(d.shape) - 1
    index = tl.minimum(tl.maximum(index, 0), d.shape[AXIS] - 1)
    if AXIS == 2:
        index = tl.broadcast_to(index, d.shape[0], d.shape[1], index.shape[2])
    return tl.sum(tl.where(valid, tl.gather(d, index, AXIS), 0.0), AXIS - 1, keep_dims=True)


@triton.jit
def tap_sums(d, i, n, start, first, last, SIZE: tl.constexpr, BORDER: tl.constexpr):
    """∂F/∂table from d = ∂F/∂T, whose rows are outputs i and whose columns are inputs from start
    on: sum d over the entries that tap n touches, of inputs in [first, last)."""
    real = (i >= 0) & (i < SIZE)
    if BORDER == "band":
        plus, minus, real_plus, real_minus = i + n, i - n, n >= 0, n > 0
    else:
        plus, minus = fold(i + n, SIZE, BORDER), fold(i - n, SIZE, BORDER)
        real_plus, real_minus = real, real & (n > 0)
        if BORDER == "zeros":
            real_plus &= i + n < SIZE
            real_minus &= i - n >= 0
    sums = gathered(d, plus - start, real_plus & (plus >= first) & (plus < last))
    return sums + gathered(d, minus - start, real_minus & (minus >= first) & (minus < last))


@triton.jit
def across(
    b_ptr, read, out, scale,
    W: tl.constexpr, RADIUS: tl.constexpr, BORDER: tl.constexpr, ADJOINT: tl.constexpr,
    PLANES: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """T(b)ᵀ from the columns read to those computed, or with ADJOINT T(b)."""
    l, k = rows_of(read, PLANES), columns_of(out, PLANES)
    if ADJOINT:
        t = toeplitz(b_ptr, l, k, W, RADIUS, BORDER)
    else:
        t = toeplitz(b_ptr, k, l, W, RADIUS, BORDER)
    return whole_operand(t, l == k, scale, -2, DTYPE)


@triton.jit
def down(
    a_ptr, rows, scale,
    H: tl.constexpr, RADIUS: tl.constexpr, BORDER: tl.constexpr, ADJOINT: tl.constexpr,
    PLANES: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """T(a) of a map whose rows are resident, or with ADJOINT T(a)ᵀ."""
    i, j = rows_of(rows, PLANES), columns_of(rows, PLANES)
    if ADJOINT:
        t = toeplitz(a_ptr, j, i, H, RADIUS, BORDER)
    else:
        t = toeplitz(a_ptr, i, j, H, RADIUS, BORDER)
    return whole_operand(t, i == j, scale, -1, DTYPE)


@triton.jit
def rescaled(y, scale, DTYPE: tl.constexpr):
    """A product of operands that carry ``scale``: exact operands carry none."""
    if DTYPE == tl.float32:
        return y
    else:
        return y * scale
