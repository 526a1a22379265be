"""The ops as matrix products with the Toeplitz matrix of the taps: cheap where taps are many.

Planes are grouped by the taps they share, x (G, M, H, W) with taps (G or 1, R+1), so that one
matrix meets the rows of M planes in one product. T(a) is banded: a large map is cut into blocks
of rows, each with only the columns its taps reach. Two forms of the same products:

    planes   x T(b)ᵀ over all rows of a group, then T(a) x plane by plane
    rotated  each product contracts the last axis and puts the result in front, so that both
             run over the whole group: (G, M, H, W) → T(b) → (G, W, M, H) → T(a) → (G, H, W, M)

Every function is a composition of differentiable operations and reads no value on the host.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from akm_triton.backend.layout import Stride, format_as, is_channels_last
from akm_triton.borders import SELF_ADJOINT, RowBlock, indicator, row_blocks

# Measured on a CPU in float32, maps 7² to 224²: on small maps a product per plane is too small to
# be efficient; on larger ones the strides of the rotated form cost more, in gradients sooner.
ROTATED_AREA = 1024
ROTATED_GRADS_AREA = 256
# Rows a block: narrower blocks are inefficient products, wider ones multiply more zeros.
ROWS = 32
# Numbers computed together on a CPU: more leave its cache, fewer pay for many small calls.
PART = 2**20


class _Band(NamedTuple):
    block: RowBlock
    matrix: Tensor  # (G or 1, rows kept, columns), a block of T(a) or T(a)ᵀ


def blur(
    z: Tensor, a: Tensor, b: Tensor, border: str, adjoint: bool = False, stride: Stride = (1, 1)
) -> Tensor:
    """y = T(a) z T(b)ᵀ, or with ``adjoint`` T(a)ᵀ z T(b), of the rows and columns that ``stride``
    keeps: those are the rows of T(a) and T(b) that meet z.

    Shape: z (N, C, H, W); a and b (1, R+1), (C, R+1) or (N, C, R+1), centre tap first. y is as z
    in dtype and memory format; half precision is computed in float32.
    """
    parts = [_blur(border, adjoint, stride, *part) for part in _parts([z], a, b)]
    return format_as(z, _cat(parts, 1))


def tap_grads(g: Tensor, z: Tensor, a: Tensor, b: Tensor, border: str) -> tuple[Tensor, Tensor]:
    """(∂F/∂a, ∂F/∂b) of F = ⟨g, T(a) z T(b)ᵀ⟩, in the shapes of a and b.

    ∂F/∂T(a) = g Uᵀ with U = z T(b)ᵀ, and ∂F/∂T(b) = Wᵀ z with W = T(a)ᵀ g, summed over the planes
    that share a taps and along the diagonals.
    """
    _, da, db = zip(*[_tap_grads(border, *part) for part in _parts([g, z], a, b)], strict=True)
    return _join(da, a), _join(db, b)


def blur_backward(
    g: Tensor, z: Tensor, a: Tensor, b: Tensor, border: str
) -> tuple[Tensor, Tensor, Tensor]:
    """(∂F/∂z, ∂F/∂a, ∂F/∂b) of F = ⟨g, T(a) z T(b)ᵀ⟩, with ∂F/∂z = T(a)ᵀ g T(b) formatted as z."""
    grads = [_blur_backward(border, *part) for part in _parts([g, z], a, b)]
    dz, da, db = zip(*grads, strict=True)
    return format_as(z, _cat(dz, 1)), _join(da, a), _join(db, b)


# Along one axis.


def blur_axis(
    z: Tensor, a: Tensor, axis: int, border: str, adjoint: bool = False, stride: int = 1
) -> Tensor:
    """T(a), or with ``adjoint`` T(a)ᵀ, along an axis of z, 2 or 3; of this axis what ``stride``
    keeps."""
    parts = []
    for x, taps in _parts([z], a):
        bands = _bands(_group_taps(taps, taps, x), x.shape[axis], border, adjoint, stride)
        product = _down if axis == 2 else _across
        parts.append(_ungroup(product(_group(x, taps, taps).contiguous(), bands), x))
    return format_as(z, _cat(parts, 1))


def axis_grads(
    g: Tensor, z: Tensor, radius: int, axis: int, border: str, by_sample: bool
) -> Tensor:
    """∂F/∂a of F = ⟨g, T(a) z⟩, in which a does not occur: (C, R+1), or with ``by_sample``
    (N, C, R+1)."""
    n, c = z.shape[:2]
    like = z.new_empty((n, c, 0) if by_sample else (c, 0))  # which planes are summed, no taps
    parts = []
    for dy, x, taps in _parts([g, z], like):
        left, right = (_group(m, taps, taps).contiguous() for m in (dy, x))
        if axis == 2:
            grads = _diagonals(left, right.mT, radius, border)
        else:
            grads = _diagonals(left.flatten(1, 2).mT, right.flatten(1, 2), radius, border)
        parts.append(grads.view(*taps.shape[:-1], radius + 1))
    return _cat(parts, -2)


# The three on one part of the channels, in the dtype of the computation and any strides.


def _blur(border: str, adjoint: bool, stride: Stride, z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    x, ta, tb = _group(z, a, b).contiguous(), _group_taps(a, b, z), _group_taps(b, a, z)
    down = _bands(ta, z.shape[2], border, adjoint, stride[0])
    across = _bands(tb, z.shape[3], border, adjoint, stride[1])
    if _area(z) <= ROTATED_AREA:
        x = _rotate(_rotate(x, across), down).permute(0, 3, 1, 2)
    else:
        x = _down(_across(x, across), down)
    return _ungroup(x, z)


def _tap_grads(
    border: str, g: Tensor, z: Tensor, a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """W = T(a)ᵀ g, (G, M, H, W) or rotated (G, W, M, H), and (∂F/∂a, ∂F/∂b)."""
    x, dy = _group(z, a, b).contiguous(), _group(g, a, b)
    ta, tb, radius = _group_taps(a, b, z), _group_taps(b, a, z), a.shape[-1] - 1
    down = _bands(ta, z.shape[2], border, adjoint=True)
    across = _bands(tb, z.shape[3], border)
    if _area(z) <= ROTATED_GRADS_AREA:
        dy = dy.permute(0, 2, 3, 1).contiguous()  # (G, H, W, M), as the rotated y
        da = _diagonals(dy.flatten(2), _rotate(x, across).flatten(1, 2), radius, border)
        w = _unrotate(dy, down)
        db = _diagonals(w.flatten(2), x.flatten(1, 2), radius, border)
    else:
        dy = dy.contiguous()
        da = _diagonals(dy, _across(x, across).mT, radius, border)
        w = _down(dy, down)
        db = _diagonals(w.flatten(1, 2).mT, x.flatten(1, 2), radius, border)
    return w, _ungroup_taps(da, a, b, z), _ungroup_taps(db, b, a, z)


def _blur_backward(
    border: str, g: Tensor, z: Tensor, a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    w, da, db = _tap_grads(border, g, z, a, b)
    across = _bands(_group_taps(b, a, z), z.shape[3], border, adjoint=True)
    rotated = _area(z) <= ROTATED_GRADS_AREA
    dx = _unrotate(w, across) if rotated else _across(w, across)
    return _ungroup(dx, z), da, db


# The products. x (G, M, H, W); bands of T along the axis they name.


def _across(x: Tensor, bands: list[_Band]) -> Tensor:
    rows = x.flatten(1, 2)
    y = _cat([_inputs_of(rows, block) @ matrix.mT for block, matrix in bands], -1)
    return y.view(*x.shape[:3], y.shape[-1])


def _down(x: Tensor, bands: list[_Band]) -> Tensor:
    parts = [matrix[:, None] @ _inputs_of(x.mT, block).mT for block, matrix in bands]
    return _cat(parts, -2)


def _rotate(x: Tensor, bands: list[_Band]) -> Tensor:
    """(G, P, Q, K) → (G, K, P, Q)"""
    rows = x.flatten(1, 2)
    y = _cat([matrix @ _inputs_of(rows, block).mT for block, matrix in bands], 1)
    return y.view(x.shape[0], y.shape[1], x.shape[1], x.shape[2])


def _unrotate(x: Tensor, bands: list[_Band]) -> Tensor:
    """(G, K, P, Q) → (G, P, Q, K)"""
    rows = x.flatten(2).mT
    parts = [_inputs_of(rows, block) @ matrix.mT for block, matrix in bands]
    return _cat(parts, -1).view(x.shape[0], x.shape[2], x.shape[3], x.shape[1])


def _diagonals(left: Tensor, right: Tensor, radius: int, border: str) -> Tensor:
    """∂F/∂a (G, R+1) from ∂F/∂T(a) = left @ right (G, size, size), or one such for each plane."""
    grad = left.new_zeros(left.shape[0], radius + 1)
    for block in row_blocks(left.shape[-2], radius, border, ROWS):
        product = left[..., block.start : block.stop, :] @ _inputs_of(right, block)
        if product.dim() == 4:
            product = product.sum(1)
        grad = grad + product.flatten(1) @ indicator(block, radius, border, left).mT
    return grad


def _bands(
    taps: Tensor, size: int, border: str, adjoint: bool = False, stride: int = 1
) -> list[_Band]:
    """T(taps), or its transpose, in blocks of rows, every stride-th of them."""
    radius, transpose = taps.shape[-1] - 1, adjoint and border not in SELF_ADJOINT
    bands = []
    for block in row_blocks(size, radius, border, ROWS):
        entries = taps @ indicator(block, radius, border, taps, transpose)
        matrix = entries.view(-1, *block.shape)
        if stride > 1:
            matrix = matrix[:, -block.start % stride :: stride]
        bands.append(_Band(block, matrix))
    return bands


def _inputs_of(x: Tensor, block: RowBlock) -> Tensor:
    """The columns of x that a block of T reads; past either end they wrap around."""
    first, last, size = block.first, block.last, x.shape[-1]
    parts = [x[..., max(first, 0) : min(last, size)]]
    if first < 0:
        parts.insert(0, x[..., first:])
    if last > size:
        parts.append(x[..., : last - size])
    return _cat(parts, -1)


def _cat(parts: Sequence[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)


# Which channels are computed together, in which form, and which planes share a taps.


def _parts(maps: list[Tensor], *tables: Tensor) -> list[list[Tensor]]:
    """Split [*maps, *tables] by channels, and give all the dtype of the computation."""
    z = maps[-1]
    dtype = torch.promote_types(z.dtype, torch.float32)
    maps = [_channels_first(m.to(dtype)) for m in maps]
    channels = max(1, z.shape[1])
    on_cpu = z.device.type == "cpu" and isinstance(z.shape[0], int)  # not where N is a symbol
    count = max(1, round(z.numel() / PART)) if on_cpu else 1
    step = -(-channels // min(count, channels))
    return [
        [m[:, i : i + step] for m in maps]
        + [t.to(dtype) if t.shape[-2] == 1 else t[..., i : i + step, :].to(dtype) for t in tables]
        for i in range(0, channels, step)
    ]


def _join(grads: Sequence[Tensor], taps: Tensor) -> Tensor:
    """The parts of a taps's gradient → one in its dtype; a taps all channels share sums them."""
    grad = _cat(grads, -2) if taps.shape[-2] > 1 else torch.stack(list(grads)).sum(0)
    return grad.to(taps.dtype)


def _channels_first(z: Tensor) -> Tensor:
    """(N, C, H, W) with channels_last turned to memory order C, N, H, W; others as they are."""
    if not is_channels_last(z):
        return z
    n, _, h, w = z.shape
    # one plain matrix transposition, which PyTorch does faster than a permutation of four axes
    x = z.permute(0, 2, 3, 1).flatten(0, 2).mT.contiguous()
    return x.view(-1, n, h, w).transpose(0, 1)


def _area(z: Tensor) -> int:
    return z.shape[2] * z.shape[3]


def _group(z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(N, C, H, W) → (G, M, H, W): a taps for every plane, for all planes, or for each channel."""
    n, c, h, w = z.shape
    if a.dim() == 3 or b.dim() == 3:
        z = z.reshape(n * c, 1, h, w)
    elif a.shape[0] == b.shape[0] == 1:
        z = z.reshape(1, n * c, h, w)
    else:
        z = z.transpose(0, 1)
    return z


def _ungroup(x: Tensor, z: Tensor) -> Tensor:
    """(G, M, H, W) → (N, C, H, W) as z."""
    n, c = z.shape[:2]
    return x.transpose(0, 1) if x.shape[:2] == (c, n) else x.reshape(n, c, *x.shape[2:])


def _group_taps(taps: Tensor, other: Tensor, z: Tensor) -> Tensor:
    """Table → (G or 1, R+1), where ``other`` may be finer and so decide G."""
    if taps.dim() == 2 and (other.dim() == 2 or taps.shape[0] == 1):
        return taps
    return taps.expand(z.shape[0], z.shape[1], taps.shape[-1]).flatten(0, 1)


def _ungroup_taps(grad: Tensor, taps: Tensor, other: Tensor, z: Tensor) -> Tensor:
    """(G, R+1) → the shape of ``taps``, summed over what was broadcast."""
    if taps.dim() == 3 or other.dim() == 3:
        grad = grad.view(z.shape[0], z.shape[1], taps.shape[-1])
    return grad.sum_to_size(taps.shape)
