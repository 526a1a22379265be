"""The Triton kernels: blur, and the backward of blur.

A plane is blurred as ``T(a) z T(b)ᵀ`` by two matrix products whose banded operands are built on
chip from the tap tables, so the cost hardly depends on the radius. A program owns one column
strip of PLANES channels and runs over its images, so the operands are built once per program:

* rows resident (``H <= BLOCK_H``): the vertical operand is the whole T(a), border folded in;
* rows streamed: T(a) is block tridiagonal. Blocks of rows go by, the previous and the next one
  kept on chip, and the border is folded in where rows are loaded.

Columns are resident: a strip writes columns [first, last) and reads a window of BLOCK_W around
them. OUT_W = BLOCK_W computes the window and writes the strip's share of it; a smaller OUT_W
computes the share alone, with narrower operands, from a window that begins HALO before it.

Index names follow F(g, z) = g[i,k] T_a[i,j] z[j,l] T_b[k,l]: i, k count outputs of the blur, j, l
its inputs.
"""

import triton
import triton.language as tl

from akm_triton.backend.toeplitz import (
    columns_of,
    fold,
    gathered,
    rows_of,
    table_rounding,
    tap_sums,
    toeplitz,
    transpose,
    vertical_operands,
    whole_operand,
)


@triton.jit
def load_rows(
    ptr, first, columns, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    mask,
    H: tl.constexpr, W: tl.constexpr, RADIUS: tl.constexpr, BORDER: tl.constexpr,
    WRAP: tl.constexpr, PLANES: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """A block of logical rows from ``first`` on, the border folded in along the rows ("zeros":
    zeros outside) and, with WRAP, around the columns."""
    rows = first + tl.arange(0, BLOCK_H)
    if WRAP:
        columns = fold(columns, W, "circular")
    l = columns_of(columns, PLANES)
    mask &= (l >= 0) & (l < W)
    if H * STRIDE_H + W * STRIDE_W >= 2**31:
        rows = rows.to(tl.int64)
        l = l.to(tl.int64)
    ptr += l * STRIDE_W
    if BORDER == "zeros":
        i = rows_of(rows, PLANES)
        return tl.load(ptr + i * STRIDE_H, mask=mask & (i >= 0) & (i < H), other=0.0)
    seen = mask & rows_of((rows >= -RADIUS) & (rows < H + RADIUS), PLANES)
    i = rows_of(fold(rows, H, BORDER), PLANES)
    if STRIDE_H == 1:  # a folded index hides from the compiler that rows are contiguous
        if (first >= 0) & (first + BLOCK_H <= H):
            tile = tl.load(ptr + rows_of(rows, PLANES), mask=mask, other=0.0)
        else:
            tile = tl.load(ptr + i, mask=seen, other=0.0)
    else:
        tile = tl.load(ptr + i * STRIDE_H, mask=seen, other=0.0)
    return tile


@triton.jit
def store_rows(
    ptr, tile, first, columns, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    mask,
    H: tl.constexpr, W: tl.constexpr, PLANES: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """Write a block of rows from ``first`` on."""
    i = rows_of(first + tl.arange(0, BLOCK_H), PLANES)
    k = columns_of(columns, PLANES)
    mask &= (i < H) & (k < W)
    if H * STRIDE_H + W * STRIDE_W >= 2**31:
        i = i.to(tl.int64)
        k = k.to(tl.int64)
    tl.store(ptr + i * STRIDE_H + k * STRIDE_W, tile.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def program(C, PLANES: tl.constexpr, STRIPS: tl.constexpr, SEGMENTS: tl.constexpr):
    """(strip of columns, segment of rows, first channel, split of the batch) of this program."""
    pid = tl.program_id(0)
    groups = tl.cdiv(C, PLANES)
    rest = pid // (STRIPS * SEGMENTS)
    return pid % STRIPS, pid // STRIPS % SEGMENTS, (rest % groups) * PLANES, rest // groups


@triton.jit
def channels(first, PLANES: tl.constexpr):
    if PLANES == 1:
        return first
    else:
        return first + tl.arange(0, PLANES)[:, None, None]


@triton.jit
def strip_columns(
    strip,
    W: tl.constexpr, BLOCK_W: tl.constexpr, OUT_W: tl.constexpr, STEP_W: tl.constexpr,
    HALO: tl.constexpr, STRIPS: tl.constexpr,
):  # fmt: skip
    """(columns read, columns computed, first and end of those written) of a strip."""
    if OUT_W == BLOCK_W:
        columns = strip * STEP_W + tl.arange(0, BLOCK_W)
        first = tl.where(strip == 0, 0, strip * STEP_W + HALO)
        last = tl.where(strip == STRIPS - 1, W, strip * STEP_W + HALO + STEP_W)
        return columns, columns, first, last
    else:
        first = strip * OUT_W
        read = first - HALO + tl.arange(0, BLOCK_W)
        return read, first + tl.arange(0, OUT_W), first, tl.minimum(first + OUT_W, W)


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
def product3(above, at, below, u_above, u_at, u_below, PRECISION: tl.constexpr):
    """A block of rows of T(a) u: block tridiagonal."""
    y = tl.dot(above, u_above, input_precision=PRECISION)
    y = tl.dot(at, u_at, y, input_precision=PRECISION)
    return tl.dot(below, u_below, y, input_precision=PRECISION)


@triton.jit
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
    BLOCKS: tl.constexpr = triton.cdiv(H, BLOCK_H)
    WRAP: tl.constexpr = STRIPS > 1 and BORDER == "circular"
    COLUMN_BORDER: tl.constexpr = "band" if WRAP else BORDER
    # Where T is not symmetric its adjoint has no folded form: zeros outside, T by position.
    BY_POSITION: tl.constexpr = ADJOINT and (BORDER == "reflect" or BORDER == "replicate")
    ROW_BORDER: tl.constexpr = "zeros" if BY_POSITION or BLOCKS == 1 else BORDER

    strip, segment, channel, split = program(C, PLANES, STRIPS, SEGMENTS)
    c = channels(channel, PLANES)
    mask_c = c < C
    z_ptr += c.to(tl.int64) * Z_STRIDES[1]
    y_ptr += c.to(tl.int64) * Y_STRIDES[1]
    c = tl.minimum(c, C - 1)
    split = split.to(tl.int64)
    a_ptr += split * a_stride_n + c * a_stride_c
    b_ptr += split * b_stride_n + c * b_stride_c
    c_ptr += split * a_stride_n + c * a_stride_c
    d_ptr += split * b_stride_n + c * b_stride_c

    rows = tl.arange(0, BLOCK_H)
    columns, out, start, end = strip_columns(strip, W, BLOCK_W, OUT_W, STEP_W, HALO, STRIPS)
    mask_y = mask_c & columns_of((out >= start) & (out < end), PLANES)

    a_scale, a_centre = table_rounding(a_ptr, RADIUS, PLANES, DTYPE)
    b_scale, _ = table_rounding(b_ptr, RADIUS, PLANES, DTYPE)
    tb = across(b_ptr, columns, out, b_scale, W, RADIUS, COLUMN_BORDER, ADJOINT, PLANES, DTYPE)
    if PAIR:
        c_scale, c_centre = table_rounding(c_ptr, RADIUS, PLANES, DTYPE)
        d_scale, _ = table_rounding(d_ptr, RADIUS, PLANES, DTYPE)
        td = across(d_ptr, columns, out, d_scale, W, RADIUS, COLUMN_BORDER, ADJOINT, PLANES, DTYPE)
    if BLOCKS == 1:
        ta = down(a_ptr, rows, a_scale, H, RADIUS, BORDER, ADJOINT, PLANES, DTYPE)
        if PAIR:
            tc = down(c_ptr, rows, c_scale, H, RADIUS, BORDER, ADJOINT, PLANES, DTYPE)
    elif not BY_POSITION:
        above, at, below = vertical_operands(
            a_ptr, rows, a_scale, a_centre, BLOCK_H, H, RADIUS, "band", PLANES, DTYPE
        )
        if PAIR:
            c_above, c_at, c_below = vertical_operands(
                c_ptr, rows, c_scale, c_centre, BLOCK_H, H, RADIUS, "band", PLANES, DTYPE
            )

    for m in range(0, tl.cdiv(N - split, splits)):
        n = split + m * splits
        z_n = z_ptr + n * (z_stride_n * Z_STRIDES[0])
        y_n = y_ptr + n * (y_stride_n * Y_STRIDES[0])
        if BLOCKS == 1:
            z = load_rows(z_n, 0, columns, Z_STRIDES[2], Z_STRIDES[3], mask_c,
                          H, W, RADIUS, ROW_BORDER, WRAP, PLANES, BLOCK_H)  # fmt: skip
            u = tl.dot(z, tb, input_precision=PRECISION).to(DTYPE)
            y = tl.dot(ta, u, input_precision=PRECISION)
            if DTYPE != tl.float32:
                y *= a_scale * b_scale
            if PAIR:
                u = tl.dot(z, td, input_precision=PRECISION).to(DTYPE)
                other = tl.dot(tc, u, input_precision=PRECISION)
                if DTYPE != tl.float32:
                    other *= c_scale * d_scale
                y += other
            store_rows(y_n, y, 0, out, Y_STRIDES[2], Y_STRIDES[3], mask_y,
                       H, W, PLANES, BLOCK_H)  # fmt: skip
        else:
            first = segment * BLOCKS // SEGMENTS
            last = (segment + 1) * BLOCKS // SEGMENTS
            row = (first - 1) * BLOCK_H
            z = load_rows(z_n, row, columns, Z_STRIDES[2], Z_STRIDES[3], mask_c,
                          H, W, RADIUS, ROW_BORDER, WRAP, PLANES, BLOCK_H)  # fmt: skip
            u_above = tl.dot(z, tb, input_precision=PRECISION).to(DTYPE)
            if PAIR:
                v_above = tl.dot(z, td, input_precision=PRECISION).to(DTYPE)
            z = load_rows(z_n, row + BLOCK_H, columns, Z_STRIDES[2], Z_STRIDES[3], mask_c,
                          H, W, RADIUS, ROW_BORDER, WRAP, PLANES, BLOCK_H)  # fmt: skip
            u_at = tl.dot(z, tb, input_precision=PRECISION).to(DTYPE)
            if PAIR:
                v_at = tl.dot(z, td, input_precision=PRECISION).to(DTYPE)
            for block in range(first, last):
                row = block * BLOCK_H
                z = load_rows(z_n, row + BLOCK_H, columns, Z_STRIDES[2], Z_STRIDES[3], mask_c,
                              H, W, RADIUS, ROW_BORDER, WRAP, PLANES, BLOCK_H)  # fmt: skip
                u_below = tl.dot(z, tb, input_precision=PRECISION).to(DTYPE)
                if BY_POSITION:
                    above, at, below = vertical_operands(
                        a_ptr, row + rows, a_scale, a_centre, BLOCK_H,
                        H, RADIUS, BORDER, PLANES, DTYPE,
                    )  # fmt: skip
                y = product3(above, at, below, u_above, u_at, u_below, PRECISION)
                if DTYPE != tl.float32:
                    y *= a_scale * b_scale
                u_above = u_at
                u_at = u_below
                if PAIR:
                    v_below = tl.dot(z, td, input_precision=PRECISION).to(DTYPE)
                    if BY_POSITION:
                        c_above, c_at, c_below = vertical_operands(
                            c_ptr, row + rows, c_scale, c_centre, BLOCK_H,
                            H, RADIUS, BORDER, PLANES, DTYPE,
                        )  # fmt: skip
                    other = product3(c_above, c_at, c_below, v_above, v_at, v_below, PRECISION)
                    if DTYPE != tl.float32:
                        other *= c_scale * d_scale
                    y += other
                    v_above = v_at
                    v_at = v_below
                store_rows(y_n, y, row, out, Y_STRIDES[2], Y_STRIDES[3], mask_y,
                           H, W, PLANES, BLOCK_H)  # fmt: skip


@triton.jit
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
    once at the end into da and db, each (splits, segments · strips, C, RADIUS + 1).
    ∂F/∂a needs OUT_W = BLOCK_W; alone, it is ∂F/∂b with rows and columns exchanged.
    """
    DTYPE: tl.constexpr = z_ptr.dtype.element_ty
    BLOCKS: tl.constexpr = triton.cdiv(H, BLOCK_H)
    WRAP: tl.constexpr = STRIPS > 1 and BORDER == "circular"
    COLUMN_BORDER: tl.constexpr = "band" if WRAP else BORDER
    BY_POSITION: tl.constexpr = BORDER == "reflect" or BORDER == "replicate"
    Z_BORDER: tl.constexpr = "zeros" if BLOCKS == 1 else BORDER
    G_BORDER: tl.constexpr = "zeros" if BLOCKS == 1 or BY_POSITION else BORDER
    BLOCK_R: tl.constexpr = triton.next_power_of_2(RADIUS + 1)
    NEED_W: tl.constexpr = NEED_DZ or NEED_DB

    strip, segment, channel, split = program(C, PLANES, STRIPS, SEGMENTS)
    c = channels(channel, PLANES)
    mask_c = c < C
    g_ptr += c.to(tl.int64) * G_STRIDES[1]
    z_ptr += c.to(tl.int64) * Z_STRIDES[1]
    dz_ptr += c.to(tl.int64) * DZ_STRIDES[1]
    tile = (split * SEGMENTS + segment) * STRIPS + strip
    da_ptr += (tile.to(tl.int64) * C + c) * (RADIUS + 1)
    db_ptr += (tile.to(tl.int64) * C + c) * (RADIUS + 1)
    c = tl.minimum(c, C - 1)
    split = split.to(tl.int64)
    a_ptr += split * a_stride_n + c * a_stride_c
    b_ptr += split * b_stride_n + c * b_stride_c

    rows = tl.arange(0, BLOCK_H)
    columns, out, start, end = strip_columns(strip, W, BLOCK_W, OUT_W, STEP_W, HALO, STRIPS)
    own = columns_of((out >= start) & (out < end), PLANES)
    mask_dz = mask_c & own

    a_scale, a_centre = table_rounding(a_ptr, RADIUS, PLANES, DTYPE)
    b_scale, _ = table_rounding(b_ptr, RADIUS, PLANES, DTYPE)
    tb = across(b_ptr, columns, out, b_scale, W, RADIUS, COLUMN_BORDER, True, PLANES, DTYPE)
    if BLOCKS == 1:
        ta = down(a_ptr, rows, a_scale, H, RADIUS, BORDER, True, PLANES, DTYPE)
    elif not BY_POSITION:
        above, at, below = vertical_operands(
            a_ptr, rows, a_scale, a_centre, BLOCK_H, H, RADIUS, "band", PLANES, DTYPE
        )

    if PLANES == 1:
        db = tl.zeros((BLOCK_W, OUT_W), tl.float32)
        da_at = tl.zeros((BLOCK_H, BLOCK_H), tl.float32)
    else:
        db = tl.zeros((PLANES, BLOCK_W, OUT_W), tl.float32)
        da_at = tl.zeros((PLANES, BLOCK_H, BLOCK_H), tl.float32)
    if BLOCKS > 1:
        da_above = tl.zeros_like(da_at)
        da_below = tl.zeros_like(da_at)

    for m in range(0, tl.cdiv(N - split, splits)):
        n = split + m * splits
        g_n = g_ptr + n * (g_stride_n * G_STRIDES[0])
        z_n = z_ptr + n * (z_stride_n * Z_STRIDES[0])
        dz_n = dz_ptr + n * (dz_stride_n * DZ_STRIDES[0])
        if BLOCKS == 1:
            g = load_rows(g_n, 0, columns, G_STRIDES[2], G_STRIDES[3], mask_c,
                          H, W, RADIUS, G_BORDER, WRAP, PLANES, BLOCK_H)  # fmt: skip
            z = load_rows(z_n, 0, out, Z_STRIDES[2], Z_STRIDES[3], mask_c,
                          H, W, RADIUS, Z_BORDER, False, PLANES, BLOCK_H)  # fmt: skip
            if NEED_W:
                w = tl.dot(ta, g, input_precision=PRECISION).to(DTYPE)
            if NEED_DZ:
                dz = tl.dot(w, tb, input_precision=PRECISION)
                if DTYPE != tl.float32:
                    dz *= a_scale * b_scale
                store_rows(dz_n, dz, 0, out, DZ_STRIDES[2], DZ_STRIDES[3], mask_dz,
                           H, W, PLANES, BLOCK_H)  # fmt: skip
            if NEED_DB:
                db = tl.dot(transpose(w), z, db, input_precision=PRECISION)
            if NEED_DA:
                u = tl.dot(z, transpose(tb), input_precision=PRECISION)
                if STRIPS > 1:
                    u = tl.where(own, u, 0.0)
                da_at = tl.dot(g, transpose(u.to(DTYPE)), da_at, input_precision=PRECISION)
        else:
            first = segment * BLOCKS // SEGMENTS
            last = (segment + 1) * BLOCKS // SEGMENTS
            row = (first - 1) * BLOCK_H
            if NEED_W:
                g_above = load_rows(g_n, row, columns, G_STRIDES[2], G_STRIDES[3], mask_c,
                                    H, W, RADIUS, G_BORDER, WRAP, PLANES, BLOCK_H)  # fmt: skip
            g = load_rows(g_n, row + BLOCK_H, columns, G_STRIDES[2], G_STRIDES[3], mask_c,
                          H, W, RADIUS, G_BORDER, WRAP, PLANES, BLOCK_H)  # fmt: skip
            if NEED_DA:
                z = load_rows(z_n, row, out, Z_STRIDES[2], Z_STRIDES[3], mask_c,
                              H, W, RADIUS, Z_BORDER, False, PLANES, BLOCK_H)  # fmt: skip
                u_above = tl.dot(z, transpose(tb), input_precision=PRECISION).to(DTYPE)
                z = load_rows(z_n, row + BLOCK_H, out, Z_STRIDES[2], Z_STRIDES[3], mask_c,
                              H, W, RADIUS, Z_BORDER, False, PLANES, BLOCK_H)  # fmt: skip
                u = tl.dot(z, transpose(tb), input_precision=PRECISION).to(DTYPE)
            for block in range(first, last):
                row = block * BLOCK_H
                real = rows_of(row + rows, PLANES) < H
                g_below = load_rows(g_n, row + BLOCK_H, columns, G_STRIDES[2], G_STRIDES[3], mask_c,
                                    H, W, RADIUS, G_BORDER, WRAP, PLANES, BLOCK_H)  # fmt: skip
                if NEED_DA:
                    z_below = load_rows(z_n, row + BLOCK_H, out, Z_STRIDES[2], Z_STRIDES[3], mask_c,
                                        H, W, RADIUS, Z_BORDER, False, PLANES,
                                        BLOCK_H)  # fmt: skip
                else:
                    z = load_rows(z_n, row, out, Z_STRIDES[2], Z_STRIDES[3], mask_c,
                                  H, W, RADIUS, "zeros", False, PLANES, BLOCK_H)  # fmt: skip
                if NEED_W:
                    if BY_POSITION:
                        above, at, below = vertical_operands(
                            a_ptr, row + rows, a_scale, a_centre, BLOCK_H,
                            H, RADIUS, BORDER, PLANES, DTYPE,
                        )  # fmt: skip
                    w = product3(above, at, below, g_above, g, g_below, PRECISION)
                    w = tl.where(real, w, 0.0).to(DTYPE)
                    g_above = g
                if NEED_DZ:
                    dz = tl.dot(w, tb, input_precision=PRECISION)
                    if DTYPE != tl.float32:
                        dz *= a_scale * b_scale
                    store_rows(dz_n, dz, row, out, DZ_STRIDES[2], DZ_STRIDES[3], mask_dz,
                               H, W, PLANES, BLOCK_H)  # fmt: skip
                if NEED_DB:
                    db = tl.dot(transpose(w), z, db, input_precision=PRECISION)
                if NEED_DA:
                    u_below = tl.dot(z_below, transpose(tb), input_precision=PRECISION).to(DTYPE)
                    g_own = tl.where(real & own, g, 0.0)
                    da_above = tl.dot(
                        g_own, transpose(u_above), da_above, input_precision=PRECISION
                    )
                    da_at = tl.dot(g_own, transpose(u), da_at, input_precision=PRECISION)
                    da_below = tl.dot(
                        g_own, transpose(u_below), da_below, input_precision=PRECISION
                    )
                    u_above = u
                    u = u_below
                    z = z_below
                g = g_below

    n = columns_of(tl.arange(0, BLOCK_R), PLANES)
    mask_n = mask_c & (n <= RADIUS)
    i = rows_of(rows, PLANES)
    if NEED_DA:
        if BLOCKS == 1:
            da = tap_sums(da_at, i, n, 0, 0, H, H, BORDER)
        else:
            da = gathered(da_at, i + n, i + n < BLOCK_H)
            da += gathered(da_below, i + n - BLOCK_H, i + n >= BLOCK_H)
            da += gathered(da_at, i - n, (n > 0) & (i - n >= 0))
            da += gathered(da_above, i - n + BLOCK_H, (n > 0) & (i - n < 0))
        if DTYPE != tl.float32:
            da *= b_scale
        tl.store(da_ptr + n, da, mask=mask_n)
    if NEED_DB:
        origin = tl.min(out, 0)
        k = rows_of(columns, PLANES)
        db = tap_sums(db, k, n, origin, start, end, W, COLUMN_BORDER)
        if DTYPE != tl.float32:
            db *= a_scale
        tl.store(db_ptr + n, db, mask=mask_n)
