"""The banded Toeplitz matrix T of some taps, as matrix products take it, and ∂F/∂taps of ∂F/∂T.

Rounding. In half precision the rounding error of the side taps is added to the centre tap, so that
a row of T keeps its sum, and a constant map is reproduced exactly. Where T is the band alone the
error is the same in every row (``taps_rounding``); with a border folded in it differs, and is
summed row by row (``rounded_rows``). float16 has a narrow range too. There T is divided by a power
of two, so that the absolute values of a row sum to 1 at most: the map between two products is then
no larger than the map it is made from, whatever the taps, which may be cotangents of any size.
"""

import triton
import triton.language as tl

from akm_triton.backend.tiles import columns_of, fold_index, rows_of, transpose

BAND: tl.constexpr = tl.constexpr("band")
"""In the place of a border: T is the band of its taps, and borders are folded in elsewhere."""


@triton.jit
def tap(taps_ptr, n, RADIUS: tl.constexpr):
    """The tap at distance n, zero beyond the window."""
    n = tl.abs(n)
    return tl.load(taps_ptr + n, mask=n <= RADIUS, other=0.0)


@triton.jit
def toeplitz(taps_ptr, i, j, SIZE: tl.constexpr, RADIUS: tl.constexpr, BORDER: tl.constexpr):
    """T[i, j]: the sum of the taps at which output i reads input j, directly or past a border."""
    t = tap(taps_ptr, i - j, RADIUS)
    if BORDER == "replicate":
        for n in range(1, RADIUS + 1):
            beyond = ((j == 0) & (n > i)).to(tl.float32) + (
                (j == SIZE - 1) & (n > SIZE - 1 - i)
            ).to(tl.float32)
            t += tl.load(taps_ptr + n) * beyond
    elif BORDER == "circular" or (BORDER == "reflect" and SIZE == 1):
        for m in range(1, (RADIUS + SIZE - 1) // SIZE + 1):
            t += tap(taps_ptr, i - j - m * SIZE, RADIUS) + tap(taps_ptr, i - j + m * SIZE, RADIUS)
    elif BORDER == "symmetric":
        for m in range(1, (RADIUS + SIZE - 1) // (2 * SIZE) + 1):
            t += tap(taps_ptr, i - j - 2 * m * SIZE, RADIUS)
            t += tap(taps_ptr, i - j + 2 * m * SIZE, RADIUS)
        for m in range(0, (RADIUS - 1) // (2 * SIZE) + 1):
            t += tap(taps_ptr, i + j + 1 + 2 * m * SIZE, RADIUS)
            t += tap(taps_ptr, i + j + 1 - 2 * (m + 1) * SIZE, RADIUS)
    elif BORDER == "reflect":
        inner = (j > 0) & (j < SIZE - 1)  # the two end samples are not mirrored
        for m in range(1, (RADIUS + SIZE - 1) // (2 * SIZE - 2) + 1):
            t += tap(taps_ptr, i - j - m * (2 * SIZE - 2), RADIUS)
            t += tap(taps_ptr, i - j + m * (2 * SIZE - 2), RADIUS)
        for m in range(0, RADIUS // (2 * SIZE - 2) + 1):
            t += tl.where(inner, tap(taps_ptr, i + j + m * (2 * SIZE - 2), RADIUS), 0.0)
            t += tl.where(inner, tap(taps_ptr, i + j - (m + 1) * (2 * SIZE - 2), RADIUS), 0.0)
    inside = (i >= 0) & (i < SIZE) & (j >= 0) & (j < SIZE)
    if BORDER == BAND:
        return t
    else:
        return tl.where(inside, t, 0.0)


@triton.jit
def column_growth(BORDER: tl.constexpr, RADIUS: tl.constexpr):
    """How often, at most, a column of T holds the sum of a row: a border that is not its own
    adjoint folds several taps into one input."""
    if BORDER == "replicate":
        return triton.next_power_of_2(RADIUS // 2 + 1)  # Σ (n + 1) |a_n| into the outermost
    elif BORDER == "reflect":
        return 2
    else:
        return 1


@triton.jit
def power_of_two(x):
    """The least power of two ≥ x, but for the last digits of x ≥ 0."""
    bits = (x * (1.0 - 2**-20)).to(tl.int32, bitcast=True) & 0x7F800000
    power = 2.0 * bits.to(tl.float32, bitcast=True)
    return tl.minimum(tl.maximum(power, 2.0**-126), 2.0**126)  # so that 1 / it is one too


@triton.jit
def tap_numbers(RADIUS: tl.constexpr, PLANES: tl.constexpr):
    """0 to RADIUS and beyond; 16 of them at least: with fewer, several planes are laid out so that
    registers spill."""
    return columns_of(tl.arange(0, 16 if RADIUS < 16 else 32), PLANES)


@triton.jit
def sum_of_taps(x, PLANES: tl.constexpr):
    """The sum for each plane: of one plane a scalar, which takes the fewest registers."""
    return tl.sum(x) if PLANES == 1 else tl.sum(x, 2, keep_dims=True)


@triton.jit
def taps_rounding(
    taps_ptr, TRANSPOSED: tl.constexpr, MAP: tl.constexpr, PLANES: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """(scale, centre): the power of two by which T, or with TRANSPOSED Tᵀ, is divided, and the
    error of the side taps where they are scaled and rounded to DTYPE."""
    BORDER: tl.constexpr = MAP.BORDER  # Triton 3.6 passes no string of a tuple on
    n = tap_numbers(MAP.RADIUS, PLANES)
    taps = tl.load(taps_ptr + n, mask=n <= MAP.RADIUS, other=0.0)
    scale = 1.0
    if DTYPE == tl.float16:
        row = sum_of_taps(tl.where(n > 0, 2.0, 1.0) * tl.abs(taps), PLANES)
        if TRANSPOSED:
            row *= column_growth(BORDER, MAP.RADIUS)
        scale = power_of_two(row)
    taps *= 1.0 / scale
    lost = taps - taps.to(DTYPE).to(tl.float32)
    centre = 2.0 * sum_of_taps(tl.where(n > 0, lost, 0.0), PLANES)
    return scale, centre


@triton.jit
def rounded(t, on_diagonal, scale, centre, DTYPE: tl.constexpr):
    """A block of the band, scaled and rounded to DTYPE; exact for float32."""
    if DTYPE == tl.float32:
        return t
    else:
        return (t * (1.0 / scale) + tl.where(on_diagonal, centre, 0.0)).to(DTYPE)


@triton.jit
def rounded_rows(t, on_diagonal, scale, AXIS: tl.constexpr, DTYPE: tl.constexpr):
    """The whole of T, scaled and rounded to DTYPE; exact for float32. The product sums over AXIS,
    -1 or -2."""
    if DTYPE == tl.float32:
        return t
    else:
        t *= 1.0 / scale
        lost = tl.where(on_diagonal, 0.0, t - t.to(DTYPE).to(tl.float32))
        lost = tl.sum(lost, len(t.shape) + AXIS, keep_dims=True)
        return (t + tl.where(on_diagonal, lost, 0.0)).to(DTYPE)


@triton.jit
def diagonal_sums(d, index, valid):
    """sum over rows i of d[i, index[i, n]] where valid: (..., 1, taps)."""
    AXIS: tl.constexpr = len(d.shape) - 1
    index = tl.minimum(tl.maximum(index, 0), d.shape[AXIS] - 1)
    if AXIS == 2:
        index = tl.broadcast_to(index, d.shape[0], d.shape[1], index.shape[2])
    return tl.sum(tl.where(valid, tl.gather(d, index, AXIS), 0.0), AXIS - 1, keep_dims=True)


@triton.jit
def tap_sums(d, i, n, origin, start, end, SIZE: tl.constexpr, BORDER: tl.constexpr):
    """∂F/∂taps from d = ∂F/∂T, whose rows are outputs i and whose columns are inputs from
    ``origin`` on: the sum of d where tap n stands, for inputs in [start, end)."""
    if BORDER == BAND:
        after, before, mask_after, mask_before = i + n, i - n, n >= 0, n > 0
    else:
        after, before = fold_index(i + n, SIZE, BORDER), fold_index(i - n, SIZE, BORDER)
        mask_after = (i >= 0) & (i < SIZE)
        mask_before = mask_after & (n > 0)
        if BORDER == "zeros":
            mask_after &= i + n < SIZE
            mask_before &= i - n >= 0
    sums = diagonal_sums(d, after - origin, mask_after & (after >= start) & (after < end))
    return sums + diagonal_sums(
        d, before - origin, mask_before & (before >= start) & (before < end)
    )


@triton.jit
def folded_operand(
    taps_ptr, i, j, scale, SIZE: tl.constexpr, RADIUS: tl.constexpr, BORDER: tl.constexpr,
    ADJOINT: tl.constexpr, AXIS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The whole T between outputs i and inputs j, or with ADJOINT its transpose."""
    if ADJOINT:
        t = toeplitz(taps_ptr, j, i, SIZE, RADIUS, BORDER)
    else:
        t = toeplitz(taps_ptr, i, j, SIZE, RADIUS, BORDER)
    return rounded_rows(t, i == j, scale, AXIS, DTYPE)


@triton.jit
def row_operand(
    b_ptr, read, out, scale,
    ADJOINT: tl.constexpr, MAP: tl.constexpr, TILE: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """T(b)ᵀ from the columns read to those computed, or with ADJOINT T(b)."""
    k, l = columns_of(out, TILE.PLANES), rows_of(read, TILE.PLANES)
    BORDER: tl.constexpr = BAND if TILE.WRAP else MAP.BORDER
    return folded_operand(b_ptr, k, l, scale, MAP.W, MAP.RADIUS, BORDER, ADJOINT, -2, DTYPE)


@triton.jit
def column_operands(
    a_ptr, row, scale, centre,
    ADJOINT: tl.constexpr, MAP: tl.constexpr, TILE: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """What the tile whose rows begin at ``row`` takes from each of ``load_tiles`` by T(a), or with
    ADJOINT by T(a)ᵀ. Without ADJOINT it is the same for all tiles of a map: the border is folded in
    where rows are loaded, if they are not all in one tile."""
    BORDER: tl.constexpr = MAP.BORDER
    i = rows_of(tl.arange(0, TILE.BLOCK_H), TILE.PLANES)
    j = columns_of(tl.arange(0, TILE.BLOCK_H), TILE.PLANES)
    if TILE.HALO_H == 0:
        return (folded_operand(a_ptr, i, j, scale, MAP.H, MAP.RADIUS, BORDER, ADJOINT, -1, DTYPE),)
    else:
        h = columns_of(tl.arange(0, TILE.HALO_H), TILE.PLANES)
        if ADJOINT:
            i += row
            j += row
            h += row
            at = toeplitz(a_ptr, j, i, MAP.H, MAP.RADIUS, BORDER)
            above = toeplitz(a_ptr, h - TILE.HALO_H, i, MAP.H, MAP.RADIUS, BORDER)
            below = toeplitz(a_ptr, h + TILE.BLOCK_H, i, MAP.H, MAP.RADIUS, BORDER)
        else:
            at = toeplitz(a_ptr, i, j, MAP.H, MAP.RADIUS, BAND)
            above = toeplitz(a_ptr, i, h - TILE.HALO_H, MAP.H, MAP.RADIUS, BAND)
            below = toeplitz(a_ptr, i, h + TILE.BLOCK_H, MAP.H, MAP.RADIUS, BAND)
        return (
            rounded(at, i == j, scale, centre, DTYPE),
            rounded(above, False, scale, centre, DTYPE),
            rounded(below, False, scale, centre, DTYPE),
        )


@triton.jit
def column_product(ta, z, PRECISION: tl.constexpr):
    """T(a) z, of the operands and the tiles that belong to each other."""
    w = tl.dot(ta[0], z[0], input_precision=PRECISION)
    if len(ta) > 1:
        w = tl.dot(ta[1], z[1], w, input_precision=PRECISION)
        w = tl.dot(ta[2], z[2], w, input_precision=PRECISION)
    return w


@triton.jit
def row_product(v, z, da, PRECISION: tl.constexpr):
    """da + v zᵀ; for several planes its transpose, z vᵀ, because a load that is transposed then
    would not run ahead."""
    if len(v.shape) == 2:
        return tl.dot(v, tl.trans(z), da, input_precision=PRECISION)
    else:
        return tl.dot(z, transpose(v), da, input_precision=PRECISION)


@triton.jit
def upright(da):
    """What ``row_product`` summed, not transposed."""
    return da if len(da.shape) == 2 else transpose(da)


@triton.jit
def column_products(v, z, da, PRECISION: tl.constexpr):
    """``row_product`` of each of the tiles."""
    at = row_product(v, z[0], da[0], PRECISION)
    if len(z) == 1:
        return (at,)
    else:
        return (
            at,
            row_product(v, z[1], da[1], PRECISION),
            row_product(v, z[2], da[2], PRECISION),
        )


@triton.jit
def column_sums(da, i, n, MAP: tl.constexpr, TILE: tl.constexpr):
    """∂F/∂a from ∂F/∂T_a by each of ``load_tiles``."""
    BORDER: tl.constexpr = MAP.BORDER
    at = upright(da[0])
    if len(da) == 1:
        return tap_sums(at, i, n, 0, 0, MAP.H, MAP.H, BORDER)
    else:
        above, below = upright(da[1]), upright(da[2])
        sums = diagonal_sums(at, i + n, i + n < TILE.BLOCK_H)
        sums += diagonal_sums(below, i + n - TILE.BLOCK_H, i + n >= TILE.BLOCK_H)
        sums += diagonal_sums(at, i - n, (n > 0) & (i - n >= 0))
        return sums + diagonal_sums(above, i - n + TILE.HALO_H, (n > 0) & (i - n < 0))


@triton.jit
def row_sums(db, k, n, origin, start, end, MAP: tl.constexpr, TILE: tl.constexpr):
    """∂F/∂b from ∂F/∂T_b of one strip."""
    BORDER: tl.constexpr = BAND if TILE.WRAP else MAP.BORDER
    return tap_sums(db, k, n, origin, start, end, MAP.W, BORDER)


@triton.jit
def rescaled(y, scale, DTYPE: tl.constexpr):
    """A product of operands whose scales multiply to ``scale``; only those of float16 have any."""
    if DTYPE == tl.float16:
        return y * scale
    else:
        return y
