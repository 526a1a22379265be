"""Tiles of maps: where a program stands, what it loads and what it stores.

A tile is (PLANES, rows, columns); with PLANES = 1 the first axis is dropped, because the widest
tensor-core instructions take two axes only. MAP is (H, W, RADIUS, PLANES, BLOCK_H).
"""

import triton
import triton.language as tl

VARYING = (
    "N", "splits", "a_stride_n", "b_stride_n",
    "z_stride_n", "y_stride_n", "g_stride_n", "dz_stride_n",
)  # fmt: skip
"""Arguments for whose values no kernel is compiled anew: those of the batch. C is not among them,
because its divisors say how wide the loads of channels side by side may be."""


@triton.jit
def rows_of(x, PLANES: tl.constexpr):
    """Lay a vector along the rows of a tile."""
    if PLANES == 1:
        return x[:, None]
    else:
        return x[None, :, None]


@triton.jit
def columns_of(x, PLANES: tl.constexpr):
    """Lay a vector along the columns of a tile."""
    if PLANES == 1:
        return x[None, :]
    else:
        return x[None, None, :]


@triton.jit
def transpose(x):
    if len(x.shape) == 2:
        return tl.trans(x)
    else:
        return tl.permute(x, (0, 2, 1))


@triton.jit
def fold_index(index, SIZE: tl.constexpr, BORDER: tl.constexpr):
    """``fold_index`` of borders.py for kernels: in [0, SIZE), whatever the distance. With "zeros"
    the index is clamped, and the caller masks."""
    if BORDER == "zeros" or BORDER == "replicate":
        return tl.minimum(tl.maximum(index, 0), SIZE - 1)
    elif BORDER == "circular" or SIZE == 1:
        return ((index % SIZE) + SIZE) % SIZE
    elif BORDER == "symmetric":
        index = ((index % (2 * SIZE)) + 2 * SIZE) % (2 * SIZE)
        return tl.minimum(index, 2 * SIZE - 1 - index)
    else:  # reflect
        index = ((index % (2 * SIZE - 2)) + 2 * SIZE - 2) % (2 * SIZE - 2)
        return tl.minimum(index, 2 * SIZE - 2 - index)


@triton.jit
def zeros(PLANES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A tile to accumulate in."""
    if PLANES == 1:
        return tl.zeros((ROWS, COLUMNS), tl.float32)
    else:
        return tl.zeros((PLANES, ROWS, COLUMNS), tl.float32)


@triton.jit
def program(C, PLANES: tl.constexpr, STRIPS: tl.constexpr, SEGMENTS: tl.constexpr):
    """(strip of columns, segment of rows, channels, split of the batch) of this program."""
    pid = tl.program_id(0)
    groups = tl.cdiv(C, PLANES)
    rest = pid // (STRIPS * SEGMENTS)
    c = (rest % groups) * PLANES
    if PLANES > 1:
        c += tl.arange(0, PLANES)[:, None, None]
    return pid % STRIPS, pid // STRIPS % SEGMENTS, c, (rest // groups).to(tl.int64)


@triton.jit
def taps_of(taps_ptr, split, stride_n, c, stride_c, C):
    """The taps of these channels; past the last channel, which nothing is written for, its own."""
    return taps_ptr + split * stride_n + tl.minimum(c, C - 1).to(tl.int64) * stride_c


@triton.jit
def strip_columns(
    strip,
    W: tl.constexpr, BLOCK_W: tl.constexpr, OUT_W: tl.constexpr, STEP_W: tl.constexpr,
    HALO: tl.constexpr, STRIPS: tl.constexpr,
):  # fmt: skip
    """(columns read, columns computed, start and end of those written) of a strip.

    With OUT_W = BLOCK_W a strip computes every column that it reads and writes its own; with a
    smaller OUT_W it computes its own alone, and begins to read HALO columns before them.
    """
    if OUT_W == BLOCK_W:
        columns = strip * STEP_W + tl.arange(0, BLOCK_W)
        start = tl.where(strip == 0, 0, strip * STEP_W + HALO)
        end = tl.where(strip == STRIPS - 1, W, strip * STEP_W + HALO + STEP_W)
        return columns, columns, start, end
    else:
        start = strip * OUT_W
        read = start - HALO + tl.arange(0, BLOCK_W)
        return read, start + tl.arange(0, OUT_W), start, tl.minimum(start + OUT_W, W)


@triton.jit
def load_rows(
    ptr, first, columns, STRIDES: tl.constexpr, mask,
    BORDER: tl.constexpr, WRAP: tl.constexpr, MAP: tl.constexpr,
):  # fmt: skip
    """A block of rows from ``first`` on. Rows outside the map are those that the border rule finds
    inside it, or zeros; with WRAP, columns wrap around."""
    H: tl.constexpr = MAP[0]
    W: tl.constexpr = MAP[1]
    RADIUS: tl.constexpr = MAP[2]
    PLANES: tl.constexpr = MAP[3]
    BLOCK_H: tl.constexpr = MAP[4]
    STRIDE_H: tl.constexpr = STRIDES[2]
    STRIDE_W: tl.constexpr = STRIDES[3]
    rows = first + tl.arange(0, BLOCK_H)
    if WRAP:
        columns = fold_index(columns, W, "circular")
    l = columns_of(columns, PLANES)
    mask &= (l >= 0) & (l < W)
    if H * STRIDE_H + W * STRIDE_W >= 2**31:
        rows = rows.to(tl.int64)
        l = l.to(tl.int64)
    ptr += l * STRIDE_W
    if BORDER == "zeros":
        j = rows_of(rows, PLANES)
        return tl.load(ptr + j * STRIDE_H, mask=mask & (j >= 0) & (j < H), other=0.0)
    mask_rows = mask & rows_of((rows >= -RADIUS) & (rows < H + RADIUS), PLANES)
    j = rows_of(fold_index(rows, H, BORDER), PLANES)
    if STRIDE_H == 1:  # a folded index hides from the compiler that rows are contiguous
        if (first >= 0) & (first + BLOCK_H <= H):
            tile = tl.load(ptr + rows_of(rows, PLANES), mask=mask, other=0.0)
        else:
            tile = tl.load(ptr + j, mask=mask_rows, other=0.0)
    else:
        tile = tl.load(ptr + j * STRIDE_H, mask=mask_rows, other=0.0)
    return tile


@triton.jit
def store_rows(ptr, tile, first, columns, STRIDES: tl.constexpr, mask, MAP: tl.constexpr):
    """Write a block of rows from ``first`` on."""
    H: tl.constexpr = MAP[0]
    W: tl.constexpr = MAP[1]
    PLANES: tl.constexpr = MAP[3]
    BLOCK_H: tl.constexpr = MAP[4]
    STRIDE_H: tl.constexpr = STRIDES[2]
    STRIDE_W: tl.constexpr = STRIDES[3]
    i = rows_of(first + tl.arange(0, BLOCK_H), PLANES)
    k = columns_of(columns, PLANES)
    mask &= (i < H) & (k < W)
    if H * STRIDE_H + W * STRIDE_W >= 2**31:
        i = i.to(tl.int64)
        k = k.to(tl.int64)
    tl.store(ptr + i * STRIDE_H + k * STRIDE_W, tile.to(ptr.dtype.element_ty), mask=mask)
