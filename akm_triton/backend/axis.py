"""Blur along one axis and its gradients, without the other axis: a launch reads and writes each map
once.

Two forms, neither with matrix products, so that every product is an exact float32 one. Down: the
axis is the rows, and what lies side by side in memory is of other columns or channels, so a thread
has one column of one channel, keeps the rows that a window needs in registers and goes down.
Across: the axis is the columns, which lie side by side in memory, so a thread has COLUMNS
neighbouring ones and reads those beside them too, which come from the cache. Columns in
channels_last are rows here: the launch calls them so.

LANES is the AxisLanes of launch/axis.py; a tensor is (PLANES, GROUPS), one element for each channel
and group of columns. Only borders for which T is a symmetric matrix have gradients here.
"""

import triton
import triton.language as tl

from akm_triton.backend.sliding import (
    load_columns,
    load_taps,
    plane_of,
    store_columns,
    store_sums,
    whereabouts,
    zeros,
)
from akm_triton.backend.tiles import VARYING, fold_index, fold_once, taps_of


@triton.jit
def load_if(ptr, mask):
    """In float32; 0 where the mask says so."""
    if mask is None:
        return tl.load(ptr).to(tl.float32)
    else:
        return tl.load(ptr, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def load_rows(
    ptr, row, COUNT: tl.constexpr, STRIDE: tl.constexpr, mask,
    MAP: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """So many rows from this one on, in float32. They may lie RADIUS rows outside the map; beyond
    that there is another row in their place."""
    BORDER: tl.constexpr = MAP.BORDER
    rows = ()
    for i in tl.static_range(COUNT):
        inside = tl.minimum(row + i, MAP.H + MAP.RADIUS - 1)
        seen = mask
        if BORDER == "zeros":
            inside = row + i
            seen = mask & (inside >= 0) & (inside < MAP.H)
        elif MAP.RADIUS < MAP.H:
            inside = fold_once(inside, MAP.H, BORDER)
        else:
            inside = fold_index(inside, MAP.H, BORDER)
        at = ptr + inside.to(tl.int64) * STRIDE
        rows += (load_if(at, None if LANES.WHOLE and BORDER != "zeros" else seen),)
    return rows


@triton.jit
def lower(window, COUNT: tl.constexpr, MAP: tl.constexpr):
    """The last 2 RADIUS rows of the window, which has COUNT more."""
    R: tl.constexpr = MAP.RADIUS
    rows = ()
    for i in tl.static_range(2 * R):
        rows += (window[COUNT + i],)
    return rows


@triton.jit
def norm(taps, R: tl.constexpr):
    """The most that T makes of a map of ones and minus ones."""
    x = tl.abs(taps[0])
    for k in tl.static_range(1, R + 1):
        x += 2 * tl.abs(taps[k])
    return tl.where(x > 0, x, 1.0)


@triton.jit
def times(taps, x, R: tl.constexpr):
    scaled = ()
    for k in tl.static_range(R + 1):
        scaled += (taps[k] * x,)
    return scaled


@triton.jit
def taps_between(
    own_ptr, other_ptr, READ: tl.constexpr, TO: tl.constexpr, FROM: tl.constexpr,
    R: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """(the taps of this axis, zeros if they are not to be READ; by what sums of products are
    multiplied). float16 holds a map between two launches only if the taps of the first one are
    divided by their norm, with which the next one then multiplies. TO such a map is written, FROM
    such a map g comes."""
    if READ:
        taps = load_taps(own_ptr, R)
    else:
        taps = zeros(R + 1, LANES.PLANES, LANES.GROUPS)
    scale = 1.0
    whole = 1.0
    if TO:
        scale = 1.0 / norm(taps, R)
    if TO or FROM:
        whole = norm(load_taps(other_ptr, R), R)
    if FROM:
        scale = whole
    if TO or FROM:
        taps = times(taps, scale, R)
    return taps, whole


@triton.jit
def store_gradients(
    ptr, sums, split, strip, c, C, whole, SCALED: tl.constexpr,
    R: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The partial gradients of this program, (splits, strips, C, R + 1)."""
    if SCALED:
        sums = times(sums, whole, R)
    taps = ((split * LANES.STRIPS + strip).to(tl.int64) * C + c) * (R + 1)
    store_sums(ptr + taps, sums, c < C, R)


@triton.jit
def blurred(window, I: tl.constexpr, taps, MAP: tl.constexpr):  # noqa: E741
    """T on the middle of the I-th window."""
    R: tl.constexpr = MAP.RADIUS
    x = window[I + R] * taps[0]
    for k in tl.static_range(1, R + 1):
        x += (window[I + R - k] + window[I + R + k]) * taps[k]
    return x


@triton.jit
def blurred_and_added(window, I: tl.constexpr, taps, sums, z, MAP: tl.constexpr):  # noqa: E741
    """The same, and the sums, to which is added what each tap was multiplied by, times z."""
    R: tl.constexpr = MAP.RADIUS
    x = window[I + R] * taps[0]
    results = (sums[0] + window[I + R] * z,)
    for k in tl.static_range(1, R + 1):
        pair = window[I + R - k] + window[I + R + k]
        x += pair * taps[k]
        results += (sums[k] + pair * z,)
    return x, results


@triton.jit
def blurred_in_order(window, I: tl.constexpr, taps, MAP: tl.constexpr):  # noqa: E741
    """T on the middle of the I-th window, in the order in which it is loaded."""
    R: tl.constexpr = MAP.RADIUS
    x = window[I] * taps[R]
    for k in tl.static_range(1, R):
        x += window[I + k] * taps[R - k]
    for k in tl.static_range(R + 1):
        x += window[I + R + k] * taps[k]
    return x


@triton.jit(do_not_specialize=VARYING)
def down_blur_kernel(
    z_ptr, z_stride_n, Z_STRIDES: tl.constexpr,
    y_ptr, y_stride_n, Y_STRIDES: tl.constexpr,
    a_ptr, a_stride_n, a_stride_c,
    other_ptr, other_stride_n, other_stride_c,
    C, TO: tl.constexpr, FROM: tl.constexpr, MAP: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """y = T(a) z."""
    R: tl.constexpr = MAP.RADIUS
    TOGETHER: tl.constexpr = LANES.TOGETHER
    STRIDE: tl.constexpr = Z_STRIDES[2]
    Y_STRIDE: tl.constexpr = Y_STRIDES[2]
    DTYPE: tl.constexpr = y_ptr.dtype.element_ty
    _, strip, n, first, end, c, group = whereabouts(C, MAP, LANES)
    z_ptr = plane_of(z_ptr, n, z_stride_n, c, Z_STRIDES)
    y_ptr = plane_of(y_ptr, n, y_stride_n, c, Y_STRIDES)
    own = taps_of(a_ptr, n, a_stride_n, c, a_stride_c, C)
    other = taps_of(other_ptr, n, other_stride_n, c, other_stride_c, C)
    a, _ = taps_between(own, other, True, TO, FROM, R, LANES)
    for each in range(LANES.REPEATS):
        column = group + (strip * (LANES.REPEATS - 1) + each) * LANES.GROUPS
        mask = (c < C) & (column < MAP.W)
        z_at = z_ptr + column.to(tl.int64) * Z_STRIDES[3]
        y_at = y_ptr + column.to(tl.int64) * Y_STRIDES[3] + first.to(tl.int64) * Y_STRIDE
        window = load_rows(z_at, first - R, 2 * R, STRIDE, mask, MAP, LANES)
        for row in range(first, end, TOGETHER):
            window += load_rows(z_at, row + R, TOGETHER, STRIDE, mask, MAP, LANES)
            for i in tl.static_range(TOGETHER):
                y = blurred(window, i, a, MAP).to(DTYPE)
                tl.store(y_at + i * Y_STRIDE, y, mask=mask & (row + i < end))
            y_at += TOGETHER * Y_STRIDE
            window = lower(window, TOGETHER, MAP)


@triton.jit(do_not_specialize=VARYING)
def down_grad_kernel(
    g_ptr, g_stride_n, G_STRIDES: tl.constexpr,
    z_ptr, z_stride_n, Z_STRIDES: tl.constexpr,
    dz_ptr, dz_stride_n, DZ_STRIDES: tl.constexpr,
    a_ptr, a_stride_n, a_stride_c,
    other_ptr, other_stride_n, other_stride_c,
    da_ptr,
    C, NEED_DZ: tl.constexpr, TO: tl.constexpr, FROM: tl.constexpr,
    MAP: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """dz = T(a) g and ∂F/∂a of F = <g, T(a) z>, of symmetric T: the tap at distance k has the sum
    of z[i] (g[i - k] + g[i + k]) down the rows. Gradients are (splits, strips, C, RADIUS + 1)."""
    R: tl.constexpr = MAP.RADIUS
    TOGETHER: tl.constexpr = LANES.TOGETHER
    G_STRIDE: tl.constexpr = G_STRIDES[2]
    STRIDE: tl.constexpr = Z_STRIDES[2]
    DZ_STRIDE: tl.constexpr = DZ_STRIDES[2]
    DTYPE: tl.constexpr = dz_ptr.dtype.element_ty
    split, strip, n, first, end, c, group = whereabouts(C, MAP, LANES)
    g_ptr = plane_of(g_ptr, n, g_stride_n, c, G_STRIDES)
    z_ptr = plane_of(z_ptr, n, z_stride_n, c, Z_STRIDES)
    dz_ptr = plane_of(dz_ptr, n, dz_stride_n, c, DZ_STRIDES)
    own = taps_of(a_ptr, n, a_stride_n, c, a_stride_c, C)
    other = taps_of(other_ptr, n, other_stride_n, c, other_stride_c, C)
    a, whole = taps_between(own, other, NEED_DZ, TO, FROM, R, LANES)
    da = zeros(R + 1, LANES.PLANES, LANES.GROUPS)
    for each in range(LANES.REPEATS):
        column = group + (strip * (LANES.REPEATS - 1) + each) * LANES.GROUPS
        mask = (c < C) & (column < MAP.W)
        g_at = g_ptr + column.to(tl.int64) * G_STRIDES[3]
        z_at = z_ptr + column.to(tl.int64) * Z_STRIDES[3] + first.to(tl.int64) * STRIDE
        dz_at = dz_ptr + column.to(tl.int64) * DZ_STRIDES[3] + first.to(tl.int64) * DZ_STRIDE
        window = load_rows(g_at, first - R, 2 * R, G_STRIDE, mask, MAP, LANES)
        for row in range(first, end, TOGETHER):
            window += load_rows(g_at, row + R, TOGETHER, G_STRIDE, mask, MAP, LANES)
            z = ()
            for i in tl.static_range(TOGETHER):
                z += (load_if(z_at + i * STRIDE, mask & (row + i < end)),)
            for i in tl.static_range(TOGETHER):
                dz, da = blurred_and_added(window, i, a, da, z[i], MAP)
                if NEED_DZ:
                    dz = dz.to(DTYPE)
                    tl.store(dz_at + i * DZ_STRIDE, dz, mask=mask & (row + i < end))
            z_at += TOGETHER * STRIDE
            dz_at += TOGETHER * DZ_STRIDE
            window = lower(window, TOGETHER, MAP)
    store_gradients(da_ptr, da, split, strip, c, C, whole, TO or FROM, R, LANES)


@triton.jit(do_not_specialize=VARYING)
def across_blur_kernel(
    z_ptr, z_stride_n, Z_STRIDES: tl.constexpr,
    y_ptr, y_stride_n, Y_STRIDES: tl.constexpr,
    b_ptr, b_stride_n, b_stride_c,
    other_ptr, other_stride_n, other_stride_c,
    C, TO: tl.constexpr, FROM: tl.constexpr, MAP: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """y = z T(b)ᵀ."""
    R: tl.constexpr = MAP.RADIUS
    COLUMNS: tl.constexpr = LANES.COLUMNS
    TOGETHER: tl.constexpr = LANES.TOGETHER
    _, _, n, first, end, c, group = whereabouts(C, MAP, LANES)
    mask = (c < C) & (group * COLUMNS < MAP.W)
    z_ptr = plane_of(z_ptr, n, z_stride_n, c, Z_STRIDES)
    y_ptr = plane_of(y_ptr, n, y_stride_n, c, Y_STRIDES)
    own = taps_of(b_ptr, n, b_stride_n, c, b_stride_c, C)
    other = taps_of(other_ptr, n, other_stride_n, c, other_stride_c, C)
    b, _ = taps_between(own, other, True, TO, FROM, R, LANES)
    for top in range(first, end, TOGETHER):
        windows = ()
        for i in tl.static_range(TOGETHER):
            at = z_ptr + tl.minimum(top + i, end - 1).to(tl.int64) * Z_STRIDES[2]
            windows += load_columns(at, group, Z_STRIDES[3], mask, COLUMNS, R, MAP, LANES)
        for i in tl.static_range(TOGETHER):
            y = ()
            for j in tl.static_range(COLUMNS):
                y += (blurred_in_order(windows, i * (COLUMNS + 2 * R) + j, b, MAP),)
            at = y_ptr + tl.minimum(top + i, end - 1).to(tl.int64) * Y_STRIDES[2]
            seen = mask & (top + i < end)
            store_columns(at, y, group, Y_STRIDES[3], seen, COLUMNS, MAP, LANES)


@triton.jit(do_not_specialize=VARYING)
def across_grad_kernel(
    g_ptr, g_stride_n, G_STRIDES: tl.constexpr,
    z_ptr, z_stride_n, Z_STRIDES: tl.constexpr,
    dz_ptr, dz_stride_n, DZ_STRIDES: tl.constexpr,
    b_ptr, b_stride_n, b_stride_c,
    other_ptr, other_stride_n, other_stride_c,
    db_ptr,
    C, NEED_DZ: tl.constexpr, TO: tl.constexpr, FROM: tl.constexpr,
    MAP: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """dz = g T(b)ᵀ and ∂F/∂b of F = <g, z T(b)ᵀ>, as ``down_grad_kernel`` has them of rows."""
    R: tl.constexpr = MAP.RADIUS
    COLUMNS: tl.constexpr = LANES.COLUMNS
    TOGETHER: tl.constexpr = LANES.TOGETHER
    split, strip, n, first, end, c, group = whereabouts(C, MAP, LANES)
    mask = (c < C) & (group * COLUMNS < MAP.W)
    g_ptr = plane_of(g_ptr, n, g_stride_n, c, G_STRIDES)
    z_ptr = plane_of(z_ptr, n, z_stride_n, c, Z_STRIDES)
    dz_ptr = plane_of(dz_ptr, n, dz_stride_n, c, DZ_STRIDES)
    own = taps_of(b_ptr, n, b_stride_n, c, b_stride_c, C)
    other = taps_of(other_ptr, n, other_stride_n, c, other_stride_c, C)
    b, whole = taps_between(own, other, NEED_DZ, TO, FROM, R, LANES)
    db = zeros(R + 1, LANES.PLANES, LANES.GROUPS)
    for top in range(first, end, TOGETHER):
        windows = ()
        for i in tl.static_range(TOGETHER):
            at = g_ptr + tl.minimum(top + i, end - 1).to(tl.int64) * G_STRIDES[2]
            windows += load_columns(at, group, G_STRIDES[3], mask, COLUMNS, R, MAP, LANES)
        z = ()
        for i in tl.static_range(TOGETHER):
            at = z_ptr + tl.minimum(top + i, end - 1).to(tl.int64) * Z_STRIDES[2]
            seen = mask & (top + i < end)
            z += load_columns(at, group, Z_STRIDES[3], seen, COLUMNS, 0, MAP, LANES)
        for i in tl.static_range(TOGETHER):
            dz = ()
            for j in tl.static_range(COLUMNS):
                x, db = blurred_and_added(
                    windows, i * (COLUMNS + 2 * R) + j, b, db, z[i * COLUMNS + j], MAP
                )
                dz += (x,)
            if NEED_DZ:
                at = dz_ptr + tl.minimum(top + i, end - 1).to(tl.int64) * DZ_STRIDES[2]
                seen = mask & (top + i < end)
                store_columns(at, dz, group, DZ_STRIDES[3], seen, COLUMNS, MAP, LANES)
    store_gradients(db_ptr, db, split, strip, c, C, whole, TO or FROM, R, LANES)
