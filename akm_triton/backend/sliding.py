"""Blur and its gradients by a window that slides down the map: a thread has a few of its columns.

The form for short windows where the matrix products of kernels.py move more through shared memory
than they compute. A thread has COLUMNS neighbouring columns of one channel. It reads them row by
row with the RADIUS columns on either side, blurs the row across, and adds the result to the 2
RADIUS rows below that are unfinished: they are kept in registers, as a queue that moves up by one
at each step. So nothing goes through shared memory, every product is an exact float32 one, and what
neighbouring threads read twice comes from the cache.

LANES is the Lanes of launch/sliding.py; a tensor is (PLANES, GROUPS), one element for each channel
and group of columns. Only borders for which T is a symmetric matrix have gradients here.
"""

import triton
import triton.language as tl

from akm_triton.backend.tiles import VARYING, fold_index, fold_once, taps_of
from akm_triton.launch import sliding

COLUMNS = tl.constexpr(sliding.COLUMNS)


@triton.jit
def whereabouts(C, MAP: tl.constexpr, LANES: tl.constexpr):
    """(split, strip, image, first row, end of rows, channels, groups of columns) of this program. A
    split is a segment of the rows of an image."""
    SEGMENTS: tl.constexpr = triton.cdiv(MAP.H, LANES.ROWS)
    pid = tl.program_id(0)
    strip = pid % LANES.STRIPS
    rest = pid // LANES.STRIPS
    blocks = tl.cdiv(C, LANES.PLANES)
    split = rest // blocks
    c = rest % blocks * LANES.PLANES + tl.arange(0, LANES.PLANES)[:, None]
    group = strip * LANES.GROUPS + tl.arange(0, LANES.GROUPS)[None, :]
    first = split % SEGMENTS * LANES.ROWS
    end = tl.minimum(first + LANES.ROWS, MAP.H)
    return split, strip, (split // SEGMENTS).to(tl.int64), first, end, c, group


@triton.jit
def plane_of(ptr, n, stride_n, c, STRIDES: tl.constexpr):
    """Where the planes of these channels of an image begin."""
    return ptr + (n * STRIDES[0] * stride_n + c.to(tl.int64) * STRIDES[1])


@triton.jit
def load_taps(ptr, RADIUS: tl.constexpr):
    taps = ()
    for k in tl.static_range(RADIUS + 1):
        taps += (tl.load(ptr + k),)
    return taps


@triton.jit
def four_of(x, PLANES: tl.constexpr, GROUPS: tl.constexpr):
    """The elements along the last axis."""
    even, odd = tl.split(tl.reshape(x, (PLANES, GROUPS, 2, 2)))
    x0, x2 = tl.split(even)
    x1, x3 = tl.split(odd)
    return x0, x1, x2, x3


@triton.jit
def four_together(x, I: tl.constexpr, PLANES: tl.constexpr, GROUPS: tl.constexpr):  # noqa: E741
    """The inverse of ``four_of``, of the four elements from the I-th on."""
    pairs = tl.join(tl.join(x[I], x[I + 2]), tl.join(x[I + 1], x[I + 3]))
    return tl.reshape(pairs, (PLANES, GROUPS, 4))


@triton.jit
def fold_four(x, outside, before, BORDER: tl.constexpr):
    """Four columns in the order in which the border rule, which found them inside the map, puts
    them outside it."""
    if BORDER == "symmetric":
        return (
            tl.where(outside, x[3], x[0]), tl.where(outside, x[2], x[1]),
            tl.where(outside, x[1], x[2]), tl.where(outside, x[0], x[3]),
        )  # fmt: skip
    elif BORDER == "replicate":
        edge = tl.where(before, x[0], x[3])
        return (
            tl.where(outside, edge, x[0]), tl.where(outside, edge, x[1]),
            tl.where(outside, edge, x[2]), tl.where(outside, edge, x[3]),
        )  # fmt: skip
    else:
        return x


@triton.jit
def load_columns(
    ptr, group, STRIDE: tl.constexpr, mask,
    COUNT: tl.constexpr, HALO: tl.constexpr, MAP: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The COUNT columns of a group in the row at ``ptr``, with HALO more on either side, each in
    float32."""
    BORDER: tl.constexpr = MAP.BORDER
    if MAP.W * STRIDE >= 2**31:
        group = group.to(tl.int64)
    window = ()
    if LANES.VECTOR == 1:
        for i in tl.static_range(COUNT + 2 * HALO):
            column = group * COUNT + (i - HALO)
            if BORDER == "zeros":
                seen = (column >= 0) & (column < MAP.W)
                inside = column
            elif HALO < MAP.W:
                seen = column < MAP.W + HALO
                inside = fold_once(column, MAP.W, BORDER)
            else:
                seen = column < MAP.W + HALO
                inside = fold_index(column, MAP.W, BORDER)
            x = tl.load(ptr + inside * STRIDE, mask=mask & seen, other=0.0)
            window += (x.to(tl.float32),)
    else:
        # four columns at once: HALO is rounded up, and what is too much is left out
        MORE: tl.constexpr = triton.cdiv(HALO, 4)
        OWN: tl.constexpr = COUNT // 4
        FOURS: tl.constexpr = MAP.W // 4
        offsets = tl.arange(0, 4)[None, None, :] * STRIDE
        for i in tl.static_range(OWN + 2 * MORE):
            four = group * OWN + (i - MORE)
            if BORDER == "zeros":
                seen = (four >= 0) & (four < FOURS)
                inside = four
            else:
                seen = four < FOURS + MORE
                inside = fold_once(four, FOURS, BORDER)
            at = ptr + inside * (4 * STRIDE)
            x = tl.load(at[:, :, None] + offsets, mask=(mask & seen)[:, :, None], other=0.0)
            x = four_of(x.to(tl.float32), LANES.PLANES, LANES.GROUPS)
            if i < MORE or i >= MORE + OWN or (i > MORE and MAP.W % COUNT > 0):
                x = fold_four(x, inside != four, four < 0, BORDER)
            for j in tl.static_range(4):
                if i * 4 + j >= 4 * MORE - HALO and i * 4 + j < 4 * MORE + COUNT + HALO:
                    window += (x[j],)
    return window


@triton.jit
def load_window(
    ptr, row, group, STRIDES: tl.constexpr, mask,
    HALO: tl.constexpr, MAP: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """COLUMNS columns of a row, with HALO more on either side, each in float32. The row may lie
    RADIUS rows outside the map."""
    BORDER: tl.constexpr = MAP.BORDER
    if BORDER == "zeros":
        mask &= (row >= 0) & (row < MAP.H)
    else:
        mask &= row < MAP.H + MAP.RADIUS
        row = fold_once(row, MAP.H, BORDER)
    if MAP.H * STRIDES[2] + MAP.W * STRIDES[3] >= 2**31:
        row = row.to(tl.int64)
        group = group.to(tl.int64)
    return load_columns(ptr + row * STRIDES[2], group, STRIDES[3], mask, COLUMNS, HALO, MAP, LANES)


@triton.jit
def store_columns(
    ptr, columns, group, STRIDE: tl.constexpr, mask,
    COUNT: tl.constexpr, MAP: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Write the COUNT columns of a group in the row at ``ptr``."""
    DTYPE: tl.constexpr = ptr.dtype.element_ty
    if MAP.W * STRIDE >= 2**31:
        group = group.to(tl.int64)
    ptr += group * (COUNT * STRIDE)
    if LANES.VECTOR == 1:
        for i in tl.static_range(COUNT):
            seen = mask & (group * COUNT + i < MAP.W)
            tl.store(ptr + i * STRIDE, columns[i].to(DTYPE), mask=seen)
    else:
        offsets = tl.arange(0, 4)[None, None, :] * STRIDE
        for i in tl.static_range(0, COUNT, 4):
            x = four_together(columns, i, LANES.PLANES, LANES.GROUPS).to(DTYPE)
            seen = mask & (group * COUNT + i < MAP.W)
            tl.store((ptr + i * STRIDE)[:, :, None] + offsets, x, mask=seen[:, :, None])


@triton.jit
def store_row(
    ptr, columns, row, group, STRIDES: tl.constexpr, mask, MAP: tl.constexpr, LANES: tl.constexpr
):
    """Write COLUMNS columns of a row."""
    if MAP.H * STRIDES[2] + MAP.W * STRIDES[3] >= 2**31:
        row = row.to(tl.int64)
        group = group.to(tl.int64)
    store_columns(ptr + row * STRIDES[2], columns, group, STRIDES[3], mask, COLUMNS, MAP, LANES)


@triton.jit
def blur_across(window, taps, RADIUS: tl.constexpr):
    """T(b) on a row: COLUMNS results."""
    results = ()
    for i in tl.static_range(COLUMNS):
        x = window[i] * taps[RADIUS]
        for j in tl.static_range(1, RADIUS):
            x += window[i + j] * taps[RADIUS - j]
        for j in tl.static_range(RADIUS + 1):
            x += window[i + RADIUS + j] * taps[j]
        results += (x,)
    return results


@triton.jit
def blur_down(queue, row, taps, RADIUS: tl.constexpr):
    """(rows that are finished, rows that are not) when this row is added: T(a) on COLUMNS columns,
    of each of which the queue has 2 RADIUS rows, the oldest first."""
    finished = ()
    rest = ()
    for i in tl.static_range(COLUMNS):
        finished += (queue[i * 2 * RADIUS] + row[i] * taps[RADIUS],)
        for j in tl.static_range(1, RADIUS):
            rest += (queue[i * 2 * RADIUS + j] + row[i] * taps[RADIUS - j],)
        for j in tl.static_range(RADIUS):
            rest += (queue[i * 2 * RADIUS + RADIUS + j] + row[i] * taps[j],)
        rest += (row[i] * taps[RADIUS],)
    return finished, rest


@triton.jit
def zeros(COUNT: tl.constexpr, PLANES: tl.constexpr, GROUPS: tl.constexpr):
    each = ()
    for _i in tl.static_range(COUNT):
        each += (tl.zeros((PLANES, GROUPS), tl.float32),)
    return each


@triton.jit(do_not_specialize=VARYING)
def sliding_blur_kernel(
    z_ptr, z_stride_n, Z_STRIDES: tl.constexpr,
    y_ptr, y_stride_n, Y_STRIDES: tl.constexpr,
    a_ptr, a_stride_n, a_stride_c,
    b_ptr, b_stride_n, b_stride_c,
    C, MAP: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """y = T(a) z T(b)ᵀ."""
    R: tl.constexpr = MAP.RADIUS
    _, _, n, first, end, c, group = whereabouts(C, MAP, LANES)
    mask = (c < C) & (group * COLUMNS < MAP.W)
    z_ptr = plane_of(z_ptr, n, z_stride_n, c, Z_STRIDES)
    y_ptr = plane_of(y_ptr, n, y_stride_n, c, Y_STRIDES)
    a = load_taps(taps_of(a_ptr, n, a_stride_n, c, a_stride_c, C), R)
    b = load_taps(taps_of(b_ptr, n, b_stride_n, c, b_stride_c, C), R)
    queue = zeros(COLUMNS * 2 * R, LANES.PLANES, LANES.GROUPS)
    for row in range(first - R, end + R):
        z = load_window(z_ptr, row, group, Z_STRIDES, mask, R, MAP, LANES)
        y, queue = blur_down(queue, blur_across(z, b, R), a, R)
        store_row(y_ptr, y, row - R, group, Y_STRIDES, mask & (row - R >= first), MAP, LANES)


@triton.jit
def centre(window, group, MAP: tl.constexpr):
    """The columns of the thread itself; those that the map does not have, which the border rule has
    found inside it, are zeros."""
    own = ()
    for i in tl.static_range(COLUMNS):
        x = window[MAP.RADIUS + i]
        if MAP.W % 4 > 0:
            x = tl.where(group * COLUMNS + i < MAP.W, x, 0.0)
        own += (x,)
    return own


@triton.jit
def products_across(sums, w, window, RADIUS: tl.constexpr):
    """Add to the sums, for each tap, of w[i] (z[i - k] + z[i + k])."""
    results = ()
    for k in tl.static_range(RADIUS + 1):
        x = sums[k]
        for i in tl.static_range(COLUMNS):
            x += w[i] * window[RADIUS + i + k]
            if k > 0:
                x += w[i] * window[RADIUS + i - k]
        results += (x,)
    return results


@triton.jit
def products_down(sums, v, v_above, z, z_above, RADIUS: tl.constexpr):
    """Add to the sums, for each tap, of v[i] z[j] over the rows i and j at this distance of which
    this row is the last."""
    results = ()
    for k in tl.static_range(RADIUS + 1):
        x = sums[k]
        for i in tl.static_range(COLUMNS):
            if k == 0:
                x += v[i] * z[i]
            else:
                x += v[i] * z_above[(k - 1) * COLUMNS + i] + v_above[(k - 1) * COLUMNS + i] * z[i]
        results += (x,)
    return results


@triton.jit
def push(above, row, RADIUS: tl.constexpr):
    """The RADIUS rows above the next one, the nearest first, when this row is passed."""
    rows = row
    for i in tl.static_range((RADIUS - 1) * COLUMNS):
        rows += (above[i],)
    return rows


@triton.jit
def where_all(condition, columns):
    kept = ()
    for i in tl.static_range(COLUMNS):
        kept += (tl.where(condition, columns[i], 0.0),)
    return kept


@triton.jit
def load_grad_windows(
    g_ptr, z_ptr, row, first, group, G_STRIDES: tl.constexpr, Z_STRIDES: tl.constexpr, mask,
    NEED_DA: tl.constexpr, NEED_DB: tl.constexpr, MAP: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """What a step of the gradients reads, all of it before anything is computed: the row of g, the
    columns themselves of the row of z, and the row of z that w is finished for. In the place of
    what is not needed stands g."""
    R: tl.constexpr = MAP.RADIUS
    g = load_window(g_ptr, row, group, G_STRIDES, mask, R, MAP, LANES)
    z = g
    around = g
    if NEED_DA:
        z = load_window(z_ptr, row, group, Z_STRIDES, mask, 0, MAP, LANES)
    if NEED_DB:
        own = mask & (row - R >= first)
        around = load_window(z_ptr, row - R, group, Z_STRIDES, own, R, MAP, LANES)
    return g, z, around


@triton.jit
def store_sums(ptr, sums, mask, RADIUS: tl.constexpr):
    for k in tl.static_range(RADIUS + 1):
        tl.store(ptr + k, tl.sum(sums[k], 1, keep_dims=True), mask=mask)


@triton.jit(do_not_specialize=VARYING)
def sliding_grad_kernel(
    g_ptr, g_stride_n, G_STRIDES: tl.constexpr,
    z_ptr, z_stride_n, Z_STRIDES: tl.constexpr,
    dz_ptr, dz_stride_n, DZ_STRIDES: tl.constexpr,
    a_ptr, a_stride_n, a_stride_c,
    b_ptr, b_stride_n, b_stride_c,
    da_ptr, db_ptr,
    C,
    NEED_DZ: tl.constexpr, NEED_DA: tl.constexpr, NEED_DB: tl.constexpr,
    MAP: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """dz = T(a) g T(b)ᵀ, ∂F/∂a and ∂F/∂b of F = <g, T(a) z T(b)ᵀ>, of symmetric T.

    With v = g T(b)ᵀ and w = T(a) g: dz = T(a) v, and the tap at distance k has in ∂F/∂a the sum of
    v[i] (z[i - k] + z[i + k]) down the rows, in ∂F/∂b that of w and z across. The gradients are
    (splits, strips, C, RADIUS + 1), a split being a segment of the rows of an image.
    """
    R: tl.constexpr = MAP.RADIUS
    P: tl.constexpr = LANES.PLANES
    G: tl.constexpr = LANES.GROUPS
    split, strip, n, first, end, c, group = whereabouts(C, MAP, LANES)
    mask = (c < C) & (group * COLUMNS < MAP.W)
    g_ptr = plane_of(g_ptr, n, g_stride_n, c, G_STRIDES)
    z_ptr = plane_of(z_ptr, n, z_stride_n, c, Z_STRIDES)
    dz_ptr = plane_of(dz_ptr, n, dz_stride_n, c, DZ_STRIDES)
    a = load_taps(taps_of(a_ptr, n, a_stride_n, c, a_stride_c, C), R)
    b = load_taps(taps_of(b_ptr, n, b_stride_n, c, b_stride_c, C), R)
    if NEED_DZ:
        dz_queue = zeros(COLUMNS * 2 * R, P, G)
    if NEED_DA:
        v_above = zeros(COLUMNS * R, P, G)
        z_above = zeros(COLUMNS * R, P, G)
        da = zeros(R + 1, P, G)
    if NEED_DB:
        w_queue = zeros(COLUMNS * 2 * R, P, G)
        db = zeros(R + 1, P, G)

    # only here are registers left for a row that is loaded ahead
    AHEAD: tl.constexpr = NEED_DA and not NEED_DB and LANES.VECTOR > 1 and R <= 6
    if AHEAD:
        following = load_grad_windows(
            g_ptr, z_ptr, first - R, first, group, G_STRIDES, Z_STRIDES, mask,
            NEED_DA, NEED_DB, MAP, LANES,
        )  # fmt: skip
    for row in range(first - R, end + R):
        at = row + 1 if AHEAD else row
        loaded = load_grad_windows(
            g_ptr, z_ptr, at, first, group, G_STRIDES, Z_STRIDES, mask & (at < end + R),
            NEED_DA, NEED_DB, MAP, LANES,
        )  # fmt: skip
        if AHEAD:
            g, z, around = following
            following = loaded
        else:
            g, z, around = loaded
        if NEED_DZ or NEED_DA:
            v = blur_across(g, b, R)
        if NEED_DZ:
            dz, dz_queue = blur_down(dz_queue, v, a, R)
            own = mask & (row - R >= first)
            store_row(dz_ptr, dz, row - R, group, DZ_STRIDES, own, MAP, LANES)
        if NEED_DA:
            v = where_all((row >= first) & (row < end), v)
            da = products_down(da, v, v_above, z, z_above, R)
            v_above = push(v_above, v, R)
            z_above = push(z_above, z, R)
        if NEED_DB:
            w, w_queue = blur_down(w_queue, centre(g, group, MAP), a, R)
            db = products_across(db, w, around, R)

    taps = ((split * LANES.STRIPS + strip).to(tl.int64) * C + c) * (R + 1)
    if NEED_DA:
        store_sums(da_ptr + taps, da, c < C, R)
    if NEED_DB:
        store_sums(db_ptr + taps, db, c < C, R)
