"""Blur and its gradients where blocks of rows stream by (``H > BLOCK_H``).

As in resident.py, but T(a) is block tridiagonal: a block of output rows takes from the block above
it, its own and the one below, which are kept on chip. The border is folded in where rows are
loaded. With ASYMMETRIC, T(a)ᵀ is needed where T(a) is no symmetric matrix: folding rows cannot give
that, so rows outside the map are zeros, and each block gets operands of its own.
"""

import triton
import triton.language as tl

from akm_triton.backend.tiles import (
    VARYING,
    columns_of,
    load_rows,
    program,
    rows_of,
    store_rows,
    strip_columns,
    taps_of,
    transpose,
    zeros,
)
from akm_triton.backend.toeplitz import (
    BAND,
    block_operands,
    diagonal_sums,
    rescaled,
    row_operand,
    tap_sums,
    taps_rounding,
)


@triton.jit
def product3(near, u_above, u_at, u_below, PRECISION: tl.constexpr):
    """A block of rows of T(a) u: block tridiagonal."""
    y = tl.dot(near[0], u_above, input_precision=PRECISION)
    y = tl.dot(near[1], u_at, y, input_precision=PRECISION)
    return tl.dot(near[2], u_below, y, input_precision=PRECISION)


@triton.jit(do_not_specialize=VARYING)
def blur_kernel(
    z_ptr, z_stride_n, Z_STRIDES: tl.constexpr,
    y_ptr, y_stride_n, Y_STRIDES: tl.constexpr,
    a_ptr, a_stride_n, a_stride_c,
    b_ptr, b_stride_n, b_stride_c,
    c_ptr, d_ptr,
    N, C, splits,
    H: tl.constexpr, W: tl.constexpr, RADIUS: tl.constexpr, BORDER: tl.constexpr,
    ASYMMETRIC: tl.constexpr, ADJOINT: tl.constexpr, PAIR: tl.constexpr,
    PLANES: tl.constexpr, BLOCK_H: tl.constexpr, SEGMENTS: tl.constexpr,
    BLOCK_W: tl.constexpr, OUT_W: tl.constexpr, STEP_W: tl.constexpr, HALO: tl.constexpr,
    STRIPS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """y = T(a) z T(b)ᵀ, or its adjoint T(a)ᵀ z T(b); with PAIR plus the same of c and d, which have
    the strides of a and b."""
    DTYPE: tl.constexpr = z_ptr.dtype.element_ty
    MAP: tl.constexpr = (H, W, RADIUS, PLANES, BLOCK_H)
    BLOCKS: tl.constexpr = triton.cdiv(H, BLOCK_H)
    WRAP: tl.constexpr = STRIPS > 1 and BORDER == "circular"
    COLUMN_BORDER: tl.constexpr = BAND if WRAP else BORDER
    ROW_BORDER: tl.constexpr = "zeros" if ASYMMETRIC else BORDER
    T_BORDER: tl.constexpr = BORDER if ASYMMETRIC else BAND

    strip, segment, c, split = program(C, PLANES, STRIPS, SEGMENTS)
    mask_c = c < C
    z_ptr += c.to(tl.int64) * Z_STRIDES[1]
    y_ptr += c.to(tl.int64) * Y_STRIDES[1]
    a_ptr = taps_of(a_ptr, split, a_stride_n, c, a_stride_c, C)
    b_ptr = taps_of(b_ptr, split, b_stride_n, c, b_stride_c, C)
    if PAIR:
        c_ptr = taps_of(c_ptr, split, a_stride_n, c, a_stride_c, C)
        d_ptr = taps_of(d_ptr, split, b_stride_n, c, b_stride_c, C)

    rows = tl.arange(0, BLOCK_H)
    columns, out, start, end = strip_columns(strip, W, BLOCK_W, OUT_W, STEP_W, HALO, STRIPS)
    mask_y = mask_c & columns_of((out >= start) & (out < end), PLANES)

    a_scale, a_centre = taps_rounding(a_ptr, False, BORDER, RADIUS, PLANES, DTYPE)
    b_scale, _ = taps_rounding(b_ptr, ADJOINT, BORDER, RADIUS, PLANES, DTYPE)
    tb = row_operand(b_ptr, columns, out, b_scale, COLUMN_BORDER, ADJOINT, MAP, DTYPE)
    if PAIR:
        c_scale, c_centre = taps_rounding(c_ptr, False, BORDER, RADIUS, PLANES, DTYPE)
        d_scale, _ = taps_rounding(d_ptr, ADJOINT, BORDER, RADIUS, PLANES, DTYPE)
        td = row_operand(d_ptr, columns, out, d_scale, COLUMN_BORDER, ADJOINT, MAP, DTYPE)
    if not ASYMMETRIC:
        ta = block_operands(a_ptr, rows, a_scale, a_centre, T_BORDER, MAP, DTYPE)
        if PAIR:
            tc = block_operands(c_ptr, rows, c_scale, c_centre, T_BORDER, MAP, DTYPE)

    first_block = segment * BLOCKS // SEGMENTS
    end_block = (segment + 1) * BLOCKS // SEGMENTS
    for m in range(0, tl.cdiv(N - split, splits)):
        n = split + m * splits
        z_n = z_ptr + n * Z_STRIDES[0] * z_stride_n
        y_n = y_ptr + n * Y_STRIDES[0] * y_stride_n
        row = (first_block - 1) * BLOCK_H
        z = load_rows(z_n, row, columns, Z_STRIDES, mask_c, ROW_BORDER, WRAP, MAP)
        u_above = tl.dot(z, tb, input_precision=PRECISION).to(DTYPE)
        if PAIR:
            v_above = tl.dot(z, td, input_precision=PRECISION).to(DTYPE)
        z = load_rows(z_n, row + BLOCK_H, columns, Z_STRIDES, mask_c, ROW_BORDER, WRAP, MAP)
        u_at = tl.dot(z, tb, input_precision=PRECISION).to(DTYPE)
        if PAIR:
            v_at = tl.dot(z, td, input_precision=PRECISION).to(DTYPE)
        for block in range(first_block, end_block):
            row = block * BLOCK_H
            z = load_rows(z_n, row + BLOCK_H, columns, Z_STRIDES, mask_c, ROW_BORDER, WRAP, MAP)
            u_below = tl.dot(z, tb, input_precision=PRECISION).to(DTYPE)
            if ASYMMETRIC:
                ta = block_operands(a_ptr, row + rows, a_scale, a_centre, T_BORDER, MAP, DTYPE)
            y = product3(ta, u_above, u_at, u_below, PRECISION)
            y = rescaled(y, a_scale * b_scale, DTYPE)
            u_above = u_at
            u_at = u_below
            if PAIR:
                v_below = tl.dot(z, td, input_precision=PRECISION).to(DTYPE)
                if ASYMMETRIC:
                    tc = block_operands(c_ptr, row + rows, c_scale, c_centre, T_BORDER, MAP, DTYPE)
                other = product3(tc, v_above, v_at, v_below, PRECISION)
                y += rescaled(other, c_scale * d_scale, DTYPE)
                v_above = v_at
                v_at = v_below
            store_rows(y_n, y, row, out, Y_STRIDES, mask_y, MAP)


@triton.jit(do_not_specialize=VARYING)
def grad_kernel(
    g_ptr, g_stride_n, G_STRIDES: tl.constexpr,
    z_ptr, z_stride_n, Z_STRIDES: tl.constexpr,
    dz_ptr, dz_stride_n, DZ_STRIDES: tl.constexpr,
    a_ptr, a_stride_n, a_stride_c,
    b_ptr, b_stride_n, b_stride_c,
    da_ptr, db_ptr,
    N, C, splits,
    H: tl.constexpr, W: tl.constexpr, RADIUS: tl.constexpr, BORDER: tl.constexpr,
    ASYMMETRIC: tl.constexpr,
    NEED_DZ: tl.constexpr, NEED_DA: tl.constexpr, NEED_DB: tl.constexpr,
    PLANES: tl.constexpr, BLOCK_H: tl.constexpr, SEGMENTS: tl.constexpr,
    BLOCK_W: tl.constexpr, OUT_W: tl.constexpr, STEP_W: tl.constexpr, HALO: tl.constexpr,
    STRIPS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """As grad_kernel of resident.py; da and db are (splits, segments · strips, C, RADIUS + 1)."""
    DTYPE: tl.constexpr = z_ptr.dtype.element_ty
    MAP: tl.constexpr = (H, W, RADIUS, PLANES, BLOCK_H)
    BLOCKS: tl.constexpr = triton.cdiv(H, BLOCK_H)
    WRAP: tl.constexpr = STRIPS > 1 and BORDER == "circular"
    COLUMN_BORDER: tl.constexpr = BAND if WRAP else BORDER
    G_BORDER: tl.constexpr = "zeros" if ASYMMETRIC else BORDER
    T_BORDER: tl.constexpr = BORDER if ASYMMETRIC else BAND
    BLOCK_R: tl.constexpr = triton.next_power_of_2(RADIUS + 1)
    NEED_W: tl.constexpr = NEED_DZ or NEED_DB

    strip, segment, c, split = program(C, PLANES, STRIPS, SEGMENTS)
    mask_c = c < C
    g_ptr += c.to(tl.int64) * G_STRIDES[1]
    z_ptr += c.to(tl.int64) * Z_STRIDES[1]
    dz_ptr += c.to(tl.int64) * DZ_STRIDES[1]
    tile = (split * SEGMENTS + segment) * STRIPS + strip
    da_ptr += (tile * C + c) * (RADIUS + 1)
    db_ptr += (tile * C + c) * (RADIUS + 1)
    a_ptr = taps_of(a_ptr, split, a_stride_n, c, a_stride_c, C)
    b_ptr = taps_of(b_ptr, split, b_stride_n, c, b_stride_c, C)

    rows = tl.arange(0, BLOCK_H)
    columns, out, start, end = strip_columns(strip, W, BLOCK_W, OUT_W, STEP_W, HALO, STRIPS)
    mask_own = columns_of((out >= start) & (out < end), PLANES)
    mask_dz = mask_c & mask_own

    a_scale, a_centre = taps_rounding(a_ptr, True, BORDER, RADIUS, PLANES, DTYPE)
    b_scale, _ = taps_rounding(b_ptr, False, BORDER, RADIUS, PLANES, DTYPE)
    tb = row_operand(b_ptr, columns, out, b_scale, COLUMN_BORDER, True, MAP, DTYPE)
    if not ASYMMETRIC:
        ta = block_operands(a_ptr, rows, a_scale, a_centre, T_BORDER, MAP, DTYPE)
    db = zeros(PLANES, BLOCK_W, OUT_W)
    da_at = zeros(PLANES, BLOCK_H, BLOCK_H)
    da_above = tl.zeros_like(da_at)
    da_below = tl.zeros_like(da_at)

    first_block = segment * BLOCKS // SEGMENTS
    end_block = (segment + 1) * BLOCKS // SEGMENTS
    for m in range(0, tl.cdiv(N - split, splits)):
        n = split + m * splits
        g_n = g_ptr + n * G_STRIDES[0] * g_stride_n
        z_n = z_ptr + n * Z_STRIDES[0] * z_stride_n
        dz_n = dz_ptr + n * DZ_STRIDES[0] * dz_stride_n
        row = (first_block - 1) * BLOCK_H
        if NEED_W:
            g_above = load_rows(g_n, row, columns, G_STRIDES, mask_c, G_BORDER, WRAP, MAP)
        g = load_rows(g_n, row + BLOCK_H, columns, G_STRIDES, mask_c, G_BORDER, WRAP, MAP)
        if NEED_DA:
            z = load_rows(z_n, row, out, Z_STRIDES, mask_c, BORDER, False, MAP)
            u_above = tl.dot(z, transpose(tb), input_precision=PRECISION).to(DTYPE)
            z = load_rows(z_n, row + BLOCK_H, out, Z_STRIDES, mask_c, BORDER, False, MAP)
            u = tl.dot(z, transpose(tb), input_precision=PRECISION).to(DTYPE)
        for block in range(first_block, end_block):
            row = block * BLOCK_H
            mask_h = rows_of(row + rows, PLANES) < H
            g_below = load_rows(g_n, row + BLOCK_H, columns, G_STRIDES, mask_c, G_BORDER, WRAP, MAP)
            if NEED_DA:
                z_below = load_rows(z_n, row + BLOCK_H, out, Z_STRIDES, mask_c, BORDER, False, MAP)
            else:
                z = load_rows(z_n, row, out, Z_STRIDES, mask_c, "zeros", False, MAP)
            if NEED_W:
                if ASYMMETRIC:
                    ta = block_operands(a_ptr, row + rows, a_scale, a_centre, T_BORDER, MAP, DTYPE)
                w = product3(ta, g_above, g, g_below, PRECISION)
                w = tl.where(mask_h, w, 0.0).to(DTYPE)
                g_above = g
            if NEED_DZ:
                dz = rescaled(tl.dot(w, tb, input_precision=PRECISION), a_scale * b_scale, DTYPE)
                store_rows(dz_n, dz, row, out, DZ_STRIDES, mask_dz, MAP)
            if NEED_DB:
                db = tl.dot(transpose(w), z, db, input_precision=PRECISION)
            if NEED_DA:
                u_below = tl.dot(z_below, transpose(tb), input_precision=PRECISION).to(DTYPE)
                g_masked = tl.where(mask_h & mask_own, g, 0.0)
                da_above = tl.dot(g_masked, transpose(u_above), da_above, input_precision=PRECISION)
                da_at = tl.dot(g_masked, transpose(u), da_at, input_precision=PRECISION)
                da_below = tl.dot(g_masked, transpose(u_below), da_below, input_precision=PRECISION)
                u_above = u
                u = u_below
                z = z_below
            g = g_below

    n = columns_of(tl.arange(0, BLOCK_R), PLANES)
    mask_n = mask_c & (n <= RADIUS)
    i = rows_of(rows, PLANES)
    if NEED_DA:
        da = diagonal_sums(da_at, i + n, i + n < BLOCK_H)
        da += diagonal_sums(da_below, i + n - BLOCK_H, i + n >= BLOCK_H)
        da += diagonal_sums(da_at, i - n, (n > 0) & (i - n >= 0))
        da += diagonal_sums(da_above, i - n + BLOCK_H, (n > 0) & (i - n < 0))
        tl.store(da_ptr + n, rescaled(da, b_scale, DTYPE), mask=mask_n)
    if NEED_DB:
        k = rows_of(columns, PLANES)
        db = tap_sums(db, k, n, tl.min(out, 0), start, end, W, COLUMN_BORDER)
        tl.store(db_ptr + n, rescaled(db, a_scale, DTYPE), mask=mask_n)
