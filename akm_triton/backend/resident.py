"""Blur and its gradients where the rows of a strip are resident (``H <= BLOCK_H``): two matrix
products a plane, their operands whole, with the border folded in.

A program owns one strip of columns of PLANES channels and runs over its images, so the operands are
built once per program. Index names follow F(g, z) = g[i,k] T_a[i,j] z[j,l] T_b[k,l]: i, k count
outputs of the blur, j, l its inputs.
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
    column_operand,
    rescaled,
    row_operand,
    tap_sums,
    taps_rounding,
)


@triton.jit
def separable(ta, z, tb, scale, DTYPE: tl.constexpr, PRECISION: tl.constexpr):
    """ta · z · tb, with the rounding of one intermediate map."""
    u = tl.dot(z, tb, input_precision=PRECISION).to(DTYPE)
    return rescaled(tl.dot(ta, u, input_precision=PRECISION), scale, DTYPE)


@triton.jit(do_not_specialize=VARYING)
def blur_kernel(
    z_ptr, z_stride_n, Z_STRIDES: tl.constexpr,
    y_ptr, y_stride_n, Y_STRIDES: tl.constexpr,
    a_ptr, a_stride_n, a_stride_c,
    b_ptr, b_stride_n, b_stride_c,
    c_ptr, d_ptr,
    N, C, splits,
    H: tl.constexpr, W: tl.constexpr, RADIUS: tl.constexpr, BORDER: tl.constexpr,
    ADJOINT: tl.constexpr, PAIR: tl.constexpr,
    PLANES: tl.constexpr, BLOCK_H: tl.constexpr, SEGMENTS: tl.constexpr,
    BLOCK_W: tl.constexpr, OUT_W: tl.constexpr, STEP_W: tl.constexpr, HALO: tl.constexpr,
    STRIPS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """y = T(a) z T(b)ᵀ, or its adjoint T(a)ᵀ z T(b); with PAIR plus the same of c and d, which have
    the strides of a and b."""
    DTYPE: tl.constexpr = z_ptr.dtype.element_ty
    MAP: tl.constexpr = (H, W, RADIUS, PLANES, BLOCK_H)
    WRAP: tl.constexpr = STRIPS > 1 and BORDER == "circular"
    COLUMN_BORDER: tl.constexpr = BAND if WRAP else BORDER

    strip, _, c, split = program(C, PLANES, STRIPS, SEGMENTS)
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

    a_scale, _ = taps_rounding(a_ptr, False, BORDER, RADIUS, PLANES, DTYPE)
    b_scale, _ = taps_rounding(b_ptr, ADJOINT, BORDER, RADIUS, PLANES, DTYPE)
    tb = row_operand(b_ptr, columns, out, b_scale, COLUMN_BORDER, ADJOINT, MAP, DTYPE)
    if PAIR:
        c_scale, _ = taps_rounding(c_ptr, False, BORDER, RADIUS, PLANES, DTYPE)
        d_scale, _ = taps_rounding(d_ptr, ADJOINT, BORDER, RADIUS, PLANES, DTYPE)
        td = row_operand(d_ptr, columns, out, d_scale, COLUMN_BORDER, ADJOINT, MAP, DTYPE)
    ta = column_operand(a_ptr, rows, a_scale, BORDER, ADJOINT, MAP, DTYPE)
    if PAIR:
        tc = column_operand(c_ptr, rows, c_scale, BORDER, ADJOINT, MAP, DTYPE)

    for m in range(0, tl.cdiv(N - split, splits)):
        n = split + m * splits
        z_n = z_ptr + n * Z_STRIDES[0] * z_stride_n
        y_n = y_ptr + n * Y_STRIDES[0] * y_stride_n
        z = load_rows(z_n, 0, columns, Z_STRIDES, mask_c, "zeros", WRAP, MAP)
        y = separable(ta, z, tb, a_scale * b_scale, DTYPE, PRECISION)
        if PAIR:
            y += separable(tc, z, td, c_scale * d_scale, DTYPE, PRECISION)
        store_rows(y_n, y, 0, out, Y_STRIDES, mask_y, MAP)


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
    NEED_DZ: tl.constexpr, NEED_DA: tl.constexpr, NEED_DB: tl.constexpr,
    PLANES: tl.constexpr, BLOCK_H: tl.constexpr, SEGMENTS: tl.constexpr,
    BLOCK_W: tl.constexpr, OUT_W: tl.constexpr, STEP_W: tl.constexpr, HALO: tl.constexpr,
    STRIPS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dz = T(a)ᵀ g T(b), ∂F/∂a and ∂F/∂b of F = <g, T(a) z T(b)ᵀ>, each of g and z read once.

    With w = T(a)ᵀ g and u = z T(b)ᵀ: dz = w T(b), ∂F/∂T_b = wᵀ z, ∂F/∂T_a = g uᵀ. The last two
    stay in the dots' accumulators over all planes of the program, and their diagonals are summed
    once at the end into da and db, each (splits, strips, C, RADIUS + 1).
    ∂F/∂a needs OUT_W = BLOCK_W; alone, it is ∂F/∂b with rows and columns exchanged.
    """
    DTYPE: tl.constexpr = z_ptr.dtype.element_ty
    MAP: tl.constexpr = (H, W, RADIUS, PLANES, BLOCK_H)
    WRAP: tl.constexpr = STRIPS > 1 and BORDER == "circular"
    COLUMN_BORDER: tl.constexpr = BAND if WRAP else BORDER
    BLOCK_R: tl.constexpr = triton.next_power_of_2(RADIUS + 1)

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

    a_scale, _ = taps_rounding(a_ptr, True, BORDER, RADIUS, PLANES, DTYPE)
    b_scale, _ = taps_rounding(b_ptr, False, BORDER, RADIUS, PLANES, DTYPE)
    tb = row_operand(b_ptr, columns, out, b_scale, COLUMN_BORDER, True, MAP, DTYPE)
    ta = column_operand(a_ptr, rows, a_scale, BORDER, True, MAP, DTYPE)
    db = zeros(PLANES, BLOCK_W, OUT_W)
    da = zeros(PLANES, BLOCK_H, BLOCK_H)

    for m in range(0, tl.cdiv(N - split, splits)):
        n = split + m * splits
        g_n = g_ptr + n * G_STRIDES[0] * g_stride_n
        z_n = z_ptr + n * Z_STRIDES[0] * z_stride_n
        dz_n = dz_ptr + n * DZ_STRIDES[0] * dz_stride_n
        g = load_rows(g_n, 0, columns, G_STRIDES, mask_c, "zeros", WRAP, MAP)
        z = load_rows(z_n, 0, out, Z_STRIDES, mask_c, "zeros", False, MAP)
        if NEED_DZ or NEED_DB:
            w = tl.dot(ta, g, input_precision=PRECISION).to(DTYPE)
        if NEED_DZ:
            dz = rescaled(tl.dot(w, tb, input_precision=PRECISION), a_scale * b_scale, DTYPE)
            store_rows(dz_n, dz, 0, out, DZ_STRIDES, mask_dz, MAP)
        if NEED_DB:
            db = tl.dot(transpose(w), z, db, input_precision=PRECISION)
        if NEED_DA:
            u = tl.dot(z, transpose(tb), input_precision=PRECISION)
            if STRIPS > 1:
                u = tl.where(mask_own, u, 0.0)
            da = tl.dot(g, transpose(u.to(DTYPE)), da, input_precision=PRECISION)

    n = columns_of(tl.arange(0, BLOCK_R), PLANES)
    mask_n = mask_c & (n <= RADIUS)
    if NEED_DA:
        da = tap_sums(da, rows_of(rows, PLANES), n, 0, 0, H, H, BORDER)
        tl.store(da_ptr + n, rescaled(da, b_scale, DTYPE), mask=mask_n)
    if NEED_DB:
        k = rows_of(columns, PLANES)
        db = tap_sums(db, k, n, tl.min(out, 0), start, end, W, COLUMN_BORDER)
        tl.store(db_ptr + n, rescaled(db, a_scale, DTYPE), mask=mask_n)
