"""Tiles of maps: where a program stands, what it loads and what it stores.

A tile is (PLANES, rows, columns); with PLANES = 1 the first axis is dropped, because the widest
tensor-core instructions take two axes only. MAP and TILE are the Map and the Tile of
launch/plan.py. Where a map has more rows than a tile, its tiles come with the HALO_H rows above and
below them, as tiles of their own: (at, above, below).
"""

import triton
import triton.language as tl

VARYING = (
    "share", "extra", "a_stride_n", "b_stride_n",
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
def fold_once(index, SIZE: tl.constexpr, BORDER: tl.constexpr):
    """``fold_index`` for an index less than SIZE outside, which a loop can afford."""
    if BORDER == "circular":
        return tl.where(index < 0, index + SIZE, tl.where(index >= SIZE, index - SIZE, index))
    elif BORDER == "symmetric":
        return tl.where(index < 0, -1 - index, tl.minimum(index, 2 * SIZE - 1 - index))
    elif BORDER == "reflect":
        index = tl.abs(index)
        return tl.minimum(index, 2 * SIZE - 2 - index)
    else:
        return tl.minimum(tl.maximum(index, 0), SIZE - 1)


@triton.jit
def zeros(ROWS: tl.constexpr, COLUMNS: tl.constexpr, PLANES: tl.constexpr):
    """A tile to accumulate in."""
    if PLANES == 1:
        return tl.zeros((ROWS, COLUMNS), tl.float32)
    else:
        return tl.zeros((PLANES, ROWS, COLUMNS), tl.float32)


@triton.jit
def zeros_by_tile(TILE: tl.constexpr):
    """Accumulators of (rows of the tile, rows of each of ``load_tiles``), of several planes
    transposed, as ``row_product`` sums them."""
    at = zeros(TILE.BLOCK_H, TILE.BLOCK_H, TILE.PLANES)
    if TILE.HALO_H == 0:
        return (at,)
    else:
        if TILE.PLANES == 1:
            halo = zeros(TILE.BLOCK_H, TILE.HALO_H, TILE.PLANES)
        else:
            halo = zeros(TILE.HALO_H, TILE.BLOCK_H, TILE.PLANES)
        return (at, halo, halo)


@triton.jit
def program(C, share, extra, TILE: tl.constexpr):
    """(strip of columns, channels, split, first tile, number of tiles) of this program. Tiles of a
    strip are counted down the rows of one image after the other; a split has ``share`` of them, the
    first ``extra`` splits one more."""
    pid = tl.program_id(0)
    groups = tl.cdiv(C, TILE.PLANES)
    rest = pid // TILE.STRIPS
    c = (rest % groups) * TILE.PLANES
    if TILE.PLANES > 1:
        c += tl.arange(0, TILE.PLANES)[:, None, None]
    split = rest // groups
    first = split * share + tl.minimum(split, extra)
    return pid % TILE.STRIPS, c, split, first, share + (split < extra).to(tl.int32)


@triton.jit
def taps_of(taps_ptr, image, stride_n, c, stride_c, C):
    """The taps of these channels; past the last channel, which nothing is written for, its own."""
    c = tl.minimum(c, C - 1)
    return taps_ptr + image.to(tl.int64) * stride_n + c.to(tl.int64) * stride_c


@triton.jit
def strip_columns(strip, W: tl.constexpr, TILE: tl.constexpr):
    """(columns read, columns computed, start and end of those written) of a strip.

    With OUT_W = BLOCK_W a strip computes every column that it reads and writes its own; with a
    smaller OUT_W it computes its own alone, and begins to read HALO_W columns before them, or
    reads the whole map.
    """
    if TILE.OUT_W == TILE.BLOCK_W:
        columns = strip * TILE.STEP_W + tl.arange(0, TILE.BLOCK_W)
        start = tl.where(strip == 0, 0, strip * TILE.STEP_W + TILE.HALO_W)
        last = strip == TILE.STRIPS - 1
        end = tl.where(last, W, strip * TILE.STEP_W + TILE.HALO_W + TILE.STEP_W)
        return columns, columns, start, end
    else:
        start = strip * TILE.OUT_W
        read = tl.arange(0, TILE.BLOCK_W)
        if W > TILE.BLOCK_W:
            read += start - TILE.HALO_W
        return read, start + tl.arange(0, TILE.OUT_W), start, tl.minimum(start + TILE.OUT_W, W)


@triton.jit
def load_rows(
    ptr, rows, columns, STRIDES: tl.constexpr, mask,
    BORDER: tl.constexpr, MAP: tl.constexpr, PLANES: tl.constexpr, AGAIN: tl.constexpr = False,
):  # fmt: skip
    """These rows; outside the map those that the border rule finds inside it. AGAIN sets a load
    apart from the same load before it, which the compiler would take for one."""
    l = columns_of(columns, PLANES)
    mask &= (l >= 0) & (l < MAP.W)
    if BORDER == "zeros":
        mask &= rows_of((rows >= 0) & (rows < MAP.H), PLANES)
    else:  # rows that lie further away are not needed
        mask &= rows_of((rows >= -MAP.RADIUS) & (rows < MAP.H + MAP.RADIUS), PLANES)
        rows = fold_once(rows, MAP.H, BORDER)
    j = rows_of(rows, PLANES)
    if MAP.H * STRIDES[2] + MAP.W * STRIDES[3] >= 2**31:
        j = j.to(tl.int64)
        l = l.to(tl.int64)
    POLICY: tl.constexpr = "evict_first" if AGAIN else ""
    ptr += j * STRIDES[2] + l * STRIDES[3]
    return tl.load(ptr, mask=mask, other=0.0, eviction_policy=POLICY)


@triton.jit
def load_tiles(
    ptr, row, columns, STRIDES: tl.constexpr, mask,
    BORDER: tl.constexpr, MAP: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The tile whose rows begin at ``row``: (at,), or (at, above, below)."""
    rows = row + tl.arange(0, TILE.BLOCK_H)
    if TILE.HALO_H == 0:
        return (load_rows(ptr, rows, columns, STRIDES, mask, "zeros", MAP, TILE.PLANES),)
    else:
        halo = row + tl.arange(0, TILE.HALO_H)
        INNER: tl.constexpr = "zeros" if MAP.H % TILE.BLOCK_H == 0 else BORDER
        return (
            load_rows(ptr, rows, columns, STRIDES, mask, INNER, MAP, TILE.PLANES),
            load_rows(ptr, halo - TILE.HALO_H, columns, STRIDES, mask, BORDER, MAP, TILE.PLANES),
            load_rows(ptr, halo + TILE.BLOCK_H, columns, STRIDES, mask, BORDER, MAP, TILE.PLANES),
        )


@triton.jit
def load_again(
    ptr, row, columns, STRIDES: tl.constexpr, mask, MAP: tl.constexpr, TILE: tl.constexpr
):
    """The first of ``load_tiles`` once more, without what its border folds in."""
    rows = row + tl.arange(0, TILE.BLOCK_H)
    return load_rows(ptr, rows, columns, STRIDES, mask, "zeros", MAP, TILE.PLANES, AGAIN=True)


@triton.jit
def store_rows(
    ptr, tile, row, columns, STRIDES: tl.constexpr, mask, MAP: tl.constexpr, TILE: tl.constexpr,
    EVERY: tl.constexpr,
):  # fmt: skip
    """Write a tile whose rows begin at ``row``: every EVERY[0]-th row of the map, and every
    EVERY[1]-th column."""
    i = rows_of(row + tl.arange(0, TILE.BLOCK_H), TILE.PLANES)
    k = columns_of(columns, TILE.PLANES)
    mask &= (i < MAP.H) & (k < MAP.W)
    if EVERY[0] > 1:
        mask &= i % EVERY[0] == 0
        i = i // EVERY[0]
    if EVERY[1] > 1:
        mask &= k % EVERY[1] == 0
        k = k // EVERY[1]
    if MAP.H * STRIDES[2] + MAP.W * STRIDES[3] >= 2**31:
        i = i.to(tl.int64)
        k = k.to(tl.int64)
    tl.store(ptr + i * STRIDES[2] + k * STRIDES[3], tile.to(ptr.dtype.element_ty), mask=mask)
