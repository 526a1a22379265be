"""The ops as depthwise convolutions: no product with zeros, so the fewer taps the better.

Two passes of 2R+1 taps, or one of (2R+1)² where they are so few that reading the map once counts
for more. For borders where T is a symmetric matrix, and so its own adjoint, and for taps that all
samples share; but for ``blur_any_size``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from akm_triton.backend.layout import Stride, channels_last, is_channels_last
from akm_triton.borders import SELF_ADJOINT, fold_index

FEW = 3
"""The radius up to which one convolution by (2R+1)² taps is faster than two; 1 in the gradient."""

ROWS, COLUMNS, BOTH = (2,), (3,), (2, 3)


def serves(z: Tensor, a: Tensor, b: Tensor, border: str) -> bool:
    """Whether this algorithm is right for these."""
    return a.dim() == b.dim() == 2 and border in SELF_ADJOINT and z.numel() > 0


def blur(z: Tensor, a: Tensor, b: Tensor, border: str, stride: Stride = (1, 1)) -> Tensor:
    """T(a) z T(b)ᵀ: z (N, C, H, W); a and b (1|C, R+1); of the rows and columns that ``stride``
    keeps."""
    if a.shape[-1] - 1 <= FEW:
        return _convolve(z, _rows(a) * _columns(b), BOTH, border, stride)
    rows_done = _convolve(channels_last(z), _rows(a), ROWS, border, (stride[0], 1))
    return _convolve(rows_done, _columns(b), COLUMNS, border, (1, stride[1]))


def blur_any_size(z: Tensor, a: Tensor, b: Tensor, border: str, stride: Stride = (1, 1)) -> Tensor:
    """``blur`` by operations in which N, H and W may be symbols, for every border, and for taps of
    each sample too, (N, C, R+1)."""
    if a.dim() == 2:
        return blur(z, a, b, border, stride)
    rows_done = _shift(z, _rows(a), ROWS, border, stride[0])
    return _shift(rows_done, _columns(b), COLUMNS, border, stride[1])


def blur_axis(z: Tensor, a: Tensor, axis: int, border: str, stride: int = 1) -> Tensor:
    """T(a) along an axis of z, 2 or 3; of this axis what ``stride`` keeps."""
    if axis == 3:
        return _convolve(z, _columns(a), COLUMNS, border, (1, stride))
    return _convolve(channels_last(z), _rows(a), ROWS, border, (stride, 1))


def blur_axis_any_size(z: Tensor, a: Tensor, axis: int, border: str, stride: int = 1) -> Tensor:
    """``blur_axis`` as ``blur_any_size``."""
    if a.dim() == 2:
        return blur_axis(z, a, axis, border, stride)
    taps, dims = (_rows(a), ROWS) if axis == 2 else (_columns(a), COLUMNS)
    return _shift(z, taps, dims, border, stride)


def axis_grads(g: Tensor, z: Tensor, radius: int, axis: int, border: str) -> Tensor:
    """∂F/∂a of F = <g, T(a) z>, (C, R+1)."""
    if axis == 3:  # as in ``_separable_grads``
        g, z = g.mT, z.mT
    like = z.new_empty(z.shape[1], 1, 2 * radius + 1, 1)
    grads = _taps_grad(channels_last(g), channels_last(z), like, ROWS, border)
    return _one_sided(grads[..., 0])


def tap_grads(g: Tensor, z: Tensor, a: Tensor, b: Tensor, border: str) -> tuple[Tensor, Tensor]:
    """(∂F/∂a, ∂F/∂b) of F = <g, T(a) z T(b)ᵀ>."""
    if a.shape[-1] - 1 == 1:
        return _square_grads(g, z, a, b, border)
    return _separable_grads(g, z, a, b, border)[1:]


def blur_backward(
    g: Tensor, z: Tensor, a: Tensor, b: Tensor, border: str
) -> tuple[Tensor, Tensor, Tensor]:
    """(T(a) g T(b)ᵀ, ∂F/∂a, ∂F/∂b)."""
    if a.shape[-1] - 1 == 1:
        return blur(g, a, b, border), *_square_grads(g, z, a, b, border)
    dv, da, db = _separable_grads(g, z, a, b, border)
    return _convolve(dv, _rows(a), ROWS, border), da, db


def _square_grads(g: Tensor, z: Tensor, a: Tensor, b: Tensor, border: str) -> tuple[Tensor, Tensor]:
    """F = aᵀ D b in each channel, D the gradient by the product of the taps."""
    d = _taps_grad(g, z, _rows(a) * _columns(b), BOTH, border)
    d = _one_sided(_one_sided(d).mT).mT
    da, db = (d * b[:, None, :]).sum(-1), (d * a[:, :, None]).sum(-2)
    return da.sum_to_size(a.shape), db.sum_to_size(b.shape)


def _separable_grads(
    g: Tensor, z: Tensor, a: Tensor, b: Tensor, border: str
) -> tuple[Tensor, Tensor, Tensor]:
    """(g T(b), ∂F/∂a, ∂F/∂b).

    In channels_last: oneDNN's gradient of a filter is slower in NCHW, and wrong from 49 taps down
    100 rows (torch 2.13). It is so slow along the columns that transposing the maps is cheaper.
    """
    z, g = channels_last(z), channels_last(g)
    v = _convolve(z, _rows(a), ROWS, border)
    dv = _convolve(g, _columns(b), COLUMNS, border)
    da = _taps_grad(dv, z, _rows(a), ROWS, border)
    db = _taps_grad(channels_last(g.mT), channels_last(v.mT), _rows(b), ROWS, border)
    da, db = (_one_sided(x[..., 0]) for x in (da, db))
    return dv, da.sum_to_size(a.shape), db.sum_to_size(b.shape)


def _shift(x: Tensor, taps: Tensor, dims: tuple[int], border: str, stride: int) -> Tensor:
    """``_convolve`` along one axis by taps of each sample. A convolution would have N·C groups, and
    in ONNX their number cannot vary."""
    dim, size = dims[0], x.shape[dims[0]]
    x, (rows, columns) = _extended(x, taps, dims, border)
    x = F.pad(x, (columns, columns, rows, rows))
    y = torch.zeros((), dtype=x.dtype, device=x.device)
    for i, tap in enumerate(taps.flatten(2).unbind(-1)):
        y = y + tap[..., None, None] * _every(x.narrow(dim, i, size), dim, stride)
    return y


def _every(x: Tensor, dim: int, stride: int) -> Tensor:
    return x if stride == 1 else x[(slice(None),) * dim + (slice(None, None, stride),)]


def _two_sided(taps: Tensor) -> Tensor:
    radius = taps.shape[-1] - 1
    distance = torch.arange(-radius, radius + 1, device=taps.device).abs()
    return taps.index_select(-1, distance)


def _one_sided(grad: Tensor) -> Tensor:
    """The transpose of ``_two_sided``, on axis 1."""
    radius = grad.shape[1] // 2
    centre, after = grad[:, radius : radius + 1], grad[:, radius + 1 :]
    return torch.cat([centre, after + grad[:, :radius].flip(1)], 1)


def _rows(taps: Tensor) -> Tensor:
    """Taps down the rows, (1|C, 1, 2R+1, 1); of each sample, (N, C, 1, 2R+1, 1)."""
    return _two_sided(taps)[..., None, :, None]


def _columns(taps: Tensor) -> Tensor:
    return _two_sided(taps)[..., None, None, :]


def _convolve(
    x: Tensor, taps: Tensor, dims: tuple[int, ...], border: str, stride: Stride = (1, 1)
) -> Tensor:
    channels = x.shape[1]
    x, padding = _extended(x, taps, dims, border)
    taps = taps.expand(channels, -1, -1, -1)
    return F.conv2d(x, taps, stride=stride, padding=padding, groups=channels)


def _taps_grad(g: Tensor, x: Tensor, taps: Tensor, dims: tuple[int, ...], border: str) -> Tensor:
    """∂<g, _convolve(x, taps)>/∂taps for each channel, (C, height of taps, width of taps)."""
    channels = x.shape[1]
    x, padding = _extended(x, taps, dims, border)
    taps = taps.expand(channels, -1, -1, -1)
    grad: Tensor = torch.ops.aten.convolution_backward(
        g, x, taps, None, [1, 1], padding, [1, 1], False, [0, 0], channels, [False, True, False]
    )[1]
    return grad[:, 0]


def _extended(
    x: Tensor, taps: Tensor, dims: tuple[int, ...], border: str
) -> tuple[Tensor, list[int]]:
    """x with its border along ``dims``, and the zeros that the convolution is still to add."""
    radii = [taps.shape[-2] // 2, taps.shape[-1] // 2]
    if border == "zeros":
        return x, radii
    last = is_channels_last(x)
    if last:  # index_select would forget the format
        x, dims = x.permute(0, 2, 3, 1), tuple(dim - 1 for dim in dims)
    radius = max(radii)
    outside = torch.arange(-radius, radius, device=x.device)
    for dim in dims:
        size = _operand(x.shape[dim], x)
        index = fold_index(outside + size * (outside >= 0), size, border)
        before, after = x.index_select(dim, index).split(radius, dim)
        x = torch.cat([before, x, after], dim)
    return x.permute(0, 3, 1, 2) if last else x, [0, 0]


def _operand(size: int | torch.SymInt, like: Tensor) -> int | Tensor:
    """A size to compute indices with: ONNX (torch 2.13) has no remainder by a symbol."""
    if isinstance(size, int):
        return size
    return torch.scalar_tensor(size, dtype=torch.int64, device=like.device)  # type: ignore[arg-type]
