"""Blur and its gradients as matrix products of tiles with the Toeplitz matrices of the taps.

A program owns one strip of columns of PLANES channels, builds the operands of its taps once, and
goes through its share of the tiles: down the rows of an image, then of the next. A tile needs
nothing of the one before it, so loads run ahead across rows and images alike. The vertical product
comes first: its result is then an operand of the horizontal one without leaving the registers.

Index names follow F(g, z) = g[i,k] T_a[i,j] z[j,l] T_b[k,l]: i, k count outputs of the blur, j, l
its inputs. ADJOINT says that T(a)ᵀ is needed where the border makes T(a) no symmetric matrix:
folding rows cannot give that, so rows outside the map are zeros, and each tile gets operands of its
own.
"""

import triton
import triton.language as tl

from akm_triton.backend.tiles import (
    VARYING,
    columns_of,
    fold_index,
    load_again,
    load_tiles,
    program,
    rows_of,
    store_rows,
    strip_columns,
    taps_of,
    transpose,
    zeros,
    zeros_by_tile,
)
from akm_triton.backend.toeplitz import (
    column_operands,
    column_product,
    column_products,
    column_sums,
    rescaled,
    row_operand,
    row_sums,
    tap_numbers,
    taps_rounding,
)


@triton.jit(do_not_specialize=VARYING)
def blur_kernel(
    z_ptr, z_stride_n, Z_STRIDES: tl.constexpr,
    y_ptr, y_stride_n, Y_STRIDES: tl.constexpr,
    a_ptr, a_stride_n, a_stride_c,
    b_ptr, b_stride_n, b_stride_c,
    c_ptr, d_ptr,
    C, share, extra,
    ADJOINT: tl.constexpr, PAIR: tl.constexpr, EVERY: tl.constexpr,
    MAP: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y = T(a) z T(b)ᵀ, or its adjoint T(a)ᵀ z T(b); with PAIR plus the same of c and d, which have
    the strides of a and b. Of its rows and columns those are written that EVERY says."""
    DTYPE: tl.constexpr = z_ptr.dtype.element_ty
    BLOCKS: tl.constexpr = triton.cdiv(MAP.H, TILE.BLOCK_H)
    ROW_BORDER: tl.constexpr = "zeros" if ADJOINT else MAP.BORDER
    PLANES: tl.constexpr = TILE.PLANES

    strip, c, _, first, count = program(C, share, extra, TILE)
    mask_c = c < C
    z_ptr += c.to(tl.int64) * Z_STRIDES[1]
    y_ptr += c.to(tl.int64) * Y_STRIDES[1]
    a_ptr = taps_of(a_ptr, first // BLOCKS, a_stride_n, c, a_stride_c, C)
    b_ptr = taps_of(b_ptr, first // BLOCKS, b_stride_n, c, b_stride_c, C)
    columns, out, start, end = strip_columns(strip, MAP.W, TILE)
    inside = fold_index(columns, MAP.W, "circular") if TILE.WRAP else columns
    mask_y = mask_c & columns_of((out >= start) & (out < end), PLANES)

    a_scale, a_centre = taps_rounding(a_ptr, ADJOINT, MAP, PLANES, DTYPE)
    b_scale, _ = taps_rounding(b_ptr, False, MAP, PLANES, DTYPE)
    tb = row_operand(b_ptr, columns, out, b_scale, ADJOINT, MAP, TILE, DTYPE)
    ta = column_operands(a_ptr, 0, a_scale, a_centre, ADJOINT, MAP, TILE, DTYPE)
    if PAIR:
        c_ptr = taps_of(c_ptr, first // BLOCKS, a_stride_n, c, a_stride_c, C)
        d_ptr = taps_of(d_ptr, first // BLOCKS, b_stride_n, c, b_stride_c, C)
        c_scale, c_centre = taps_rounding(c_ptr, ADJOINT, MAP, PLANES, DTYPE)
        d_scale, _ = taps_rounding(d_ptr, False, MAP, PLANES, DTYPE)
        td = row_operand(d_ptr, columns, out, d_scale, ADJOINT, MAP, TILE, DTYPE)
        tc = column_operands(c_ptr, 0, c_scale, c_centre, ADJOINT, MAP, TILE, DTYPE)

    for m in range(0, count):
        n = ((first + m) // BLOCKS).to(tl.int64)
        row = (first + m) % BLOCKS * TILE.BLOCK_H
        z_n = z_ptr + n * Z_STRIDES[0] * z_stride_n
        y_n = y_ptr + n * Y_STRIDES[0] * y_stride_n
        z = load_tiles(z_n, row, inside, Z_STRIDES, mask_c, ROW_BORDER, MAP, TILE)
        if ADJOINT and BLOCKS > 1:
            ta = column_operands(a_ptr, row, a_scale, a_centre, ADJOINT, MAP, TILE, DTYPE)
        w = column_product(ta, z, PRECISION).to(DTYPE)
        y = rescaled(tl.dot(w, tb, input_precision=PRECISION), a_scale * b_scale, DTYPE)
        if PAIR:
            if ADJOINT and BLOCKS > 1:
                tc = column_operands(c_ptr, row, c_scale, c_centre, ADJOINT, MAP, TILE, DTYPE)
            w = column_product(tc, z, PRECISION).to(DTYPE)
            y += rescaled(tl.dot(w, td, input_precision=PRECISION), c_scale * d_scale, DTYPE)
        store_rows(y_n, y, row, out, Y_STRIDES, mask_y, MAP, TILE, EVERY)


@triton.jit(do_not_specialize=VARYING)
def grad_kernel(
    g_ptr, g_stride_n, G_STRIDES: tl.constexpr,
    z_ptr, z_stride_n, Z_STRIDES: tl.constexpr,
    dz_ptr, dz_stride_n, DZ_STRIDES: tl.constexpr,
    a_ptr, a_stride_n, a_stride_c,
    b_ptr, b_stride_n, b_stride_c,
    da_ptr, db_ptr,
    C, share, extra,
    ADJOINT: tl.constexpr,
    NEED_DZ: tl.constexpr, NEED_DA: tl.constexpr, NEED_DB: tl.constexpr,
    MAP: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dz = T(a)ᵀ g T(b), ∂F/∂a and ∂F/∂b of F = <g, T(a) z T(b)ᵀ>, each of g and z read once.

    With w = T(a)ᵀ g and v = g T(b): dz = w T(b), ∂F/∂T_b = wᵀ z, ∂F/∂T_a = v zᵀ. The last two stay
    in the dots' accumulators over all tiles of the program, and their diagonals are summed once at
    the end into da and db, each (splits, strips, C, RADIUS + 1).
    """
    DTYPE: tl.constexpr = z_ptr.dtype.element_ty
    BLOCKS: tl.constexpr = triton.cdiv(MAP.H, TILE.BLOCK_H)
    RAGGED: tl.constexpr = BLOCKS > 1 and MAP.H % TILE.BLOCK_H > 0
    BORDER: tl.constexpr = MAP.BORDER
    ROW_BORDER: tl.constexpr = "zeros" if ADJOINT else BORDER
    PLANES: tl.constexpr = TILE.PLANES

    strip, c, split, first, count = program(C, share, extra, TILE)
    mask_c = c < C
    g_ptr += c.to(tl.int64) * G_STRIDES[1]
    z_ptr += c.to(tl.int64) * Z_STRIDES[1]
    dz_ptr += c.to(tl.int64) * DZ_STRIDES[1]
    a_ptr = taps_of(a_ptr, first // BLOCKS, a_stride_n, c, a_stride_c, C)
    b_ptr = taps_of(b_ptr, first // BLOCKS, b_stride_n, c, b_stride_c, C)
    rows = rows_of(tl.arange(0, TILE.BLOCK_H), PLANES)
    columns, out, start, end = strip_columns(strip, MAP.W, TILE)
    inside = fold_index(columns, MAP.W, "circular") if TILE.WRAP else columns
    own = mask_c & columns_of((out >= start) & (out < end), PLANES)

    a_scale, a_centre = taps_rounding(a_ptr, True, MAP, PLANES, DTYPE)
    b_scale, _ = taps_rounding(b_ptr, True, MAP, PLANES, DTYPE)
    tb = row_operand(b_ptr, columns, out, b_scale, True, MAP, TILE, DTYPE)
    tv = tb
    if TILE.STRIPS > 1 and TILE.OUT_W == TILE.BLOCK_W:  # each column in the sums of one strip
        tv = tl.where(own, tb, tl.zeros_like(tb))
    ta = column_operands(a_ptr, 0, a_scale, a_centre, ADJOINT, MAP, TILE, DTYPE)
    db = zeros(TILE.BLOCK_W, TILE.OUT_W, PLANES)
    da = zeros_by_tile(TILE)

    for m in range(0, count):
        n = ((first + m) // BLOCKS).to(tl.int64)
        row = (first + m) % BLOCKS * TILE.BLOCK_H
        g_n = g_ptr + n * G_STRIDES[0] * g_stride_n
        z_n = z_ptr + n * Z_STRIDES[0] * z_stride_n
        dz_n = dz_ptr + n * DZ_STRIDES[0] * dz_stride_n
        g = load_tiles(g_n, row, inside, G_STRIDES, mask_c, ROW_BORDER, MAP, TILE)
        z = load_tiles(z_n, row, out, Z_STRIDES, mask_c, BORDER, MAP, TILE)
        g_at, z_at = g[0], z[0]
        if DTYPE == tl.float32 and NEED_DA and (NEED_DZ or NEED_DB):
            g_at = load_again(g_n, row, inside, G_STRIDES, mask_c, MAP, TILE)
            z_at = load_again(z_n, row, out, Z_STRIDES, mask_c, MAP, TILE)
        if NEED_DA:
            v = tl.dot(g_at, tv, input_precision=PRECISION)
            if RAGGED:
                v = tl.where(row + rows < MAP.H, v, 0.0)
            da = column_products(v.to(DTYPE), z, da, PRECISION)
        if NEED_DZ or NEED_DB:
            if ADJOINT and BLOCKS > 1:
                ta = column_operands(a_ptr, row, a_scale, a_centre, ADJOINT, MAP, TILE, DTYPE)
            w = column_product(ta, g, PRECISION)
            if RAGGED:
                w = tl.where(row + rows < MAP.H, w, 0.0)
            w = w.to(DTYPE)
        if NEED_DB:
            db = tl.dot(transpose(w), z_at, db, input_precision=PRECISION)
        if NEED_DZ:
            dz = rescaled(tl.dot(w, tb, input_precision=PRECISION), a_scale * b_scale, DTYPE)
            store_rows(dz_n, dz, row, out, DZ_STRIDES, own, MAP, TILE, (1, 1))

    R: tl.constexpr = MAP.RADIUS
    n = tap_numbers(R, PLANES)
    taps = ((split * TILE.STRIPS + strip).to(tl.int64) * C + c) * (R + 1) + n
    mask_n = mask_c & (n <= R)
    if NEED_DA:
        da = column_sums(da, rows, n, MAP, TILE)
        tl.store(da_ptr + taps, rescaled(da, b_scale, DTYPE), mask=mask_n)
    if NEED_DB:
        db = row_sums(db, rows_of(columns, PLANES), n, tl.min(out, 0), start, end, MAP, TILE)
        tl.store(db_ptr + taps, rescaled(db, a_scale, DTYPE), mask=mask_n)
