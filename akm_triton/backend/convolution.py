"""The ops as two depthwise convolutions: no product with zeros, so the fewer taps the better.

For borders where T is a symmetric matrix, and so its own adjoint, and one table a channel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from akm_triton.backend.layout import channels_last, is_channels_last
from akm_triton.borders import SELF_ADJOINT, fold

FEW = 3
"""The radius up to which a CPU convolves NCHW faster than it converts to channels_last."""


def serves(z: Tensor, a: Tensor, b: Tensor, border: str) -> bool:
    """Whether this algorithm is right for these."""
    return a.dim() == b.dim() == 2 and border in SELF_ADJOINT and z.numel() > 0


def blur(z: Tensor, a: Tensor, b: Tensor, border: str) -> Tensor:
    """T(a) z T(b)ᵀ: z (N, C, H, W); a and b (1|C, R+1)."""
    if a.shape[-1] - 1 > FEW or border != "zeros" or is_channels_last(z):
        z = channels_last(z)
    return _along(3, _along(2, z, a, border), b, border)


def tap_grads(
    g: Tensor, z: Tensor, a: Tensor, b: Tensor, border: str
) -> tuple[Tensor, Tensor, Tensor]:
    """(g T(b), ∂F/∂a, ∂F/∂b) of F = <g, T(a) z T(b)ᵀ>.

    In channels_last: oneDNN's gradient of a filter is slower in NCHW, and wrong from 49 taps down
    100 rows (torch 2.13).
    """
    z, g = (channels_last(x) for x in (z, g))
    v = _along(2, z, a, border)
    dv = _along(3, g, b, border)
    return dv, _weight_grad(2, z, dv, a, border), _weight_grad(3, v, g, b, border)


def rows_blurred(x: Tensor, a: Tensor, border: str) -> Tensor:
    """T(a) x."""
    return _along(2, x, a, border)


def _weights(dim: int, table: Tensor, channels: int) -> Tensor:
    """Taps on both sides, (C, 1, 2R+1, 1) along the rows or (C, 1, 1, 2R+1) along the columns."""
    radius = table.shape[-1] - 1
    distance = torch.arange(-radius, radius + 1, device=table.device).abs()
    both = table.index_select(-1, distance).expand(channels, -1)
    return both[:, None, :, None] if dim == 2 else both[:, None, None, :]


def _extended(dim: int, x: Tensor, radius: int, border: str) -> tuple[Tensor, list[int]]:
    """x with its border along ``dim``, and the zeros that the convolution is still to add."""
    if border == "zeros":
        return x, [radius, 0] if dim == 2 else [0, radius]
    size = x.shape[dim]
    index = fold(torch.arange(-radius, size + radius, device=x.device), size, border)
    if is_channels_last(x):  # index_select would forget the format
        return x.permute(0, 2, 3, 1).index_select(dim - 1, index).permute(0, 3, 1, 2), [0, 0]
    return x.index_select(dim, index), [0, 0]


def _along(dim: int, x: Tensor, table: Tensor, border: str) -> Tensor:
    channels = x.shape[1]
    x, padding = _extended(dim, x, table.shape[-1] - 1, border)
    return F.conv2d(x, _weights(dim, table, channels), padding=padding, groups=channels)


def _weight_grad(dim: int, x: Tensor, g: Tensor, table: Tensor, border: str) -> Tensor:
    """∂<g, T(table) x>/∂table, T along ``dim``."""
    radius, channels = table.shape[-1] - 1, x.shape[1]
    if dim == 3 and radius > 1 and is_channels_last(x):  # so slow that transposing is cheaper
        x, g, dim = channels_last(x.mT), channels_last(g.mT), 2
    x, padding = _extended(dim, x, radius, border)
    grad = torch.ops.aten.convolution_backward(
        g, x, _weights(dim, table, channels), None, [1, 1], padding, [1, 1], False, [0, 0],
        channels, [False, True, False],
    )[1].flatten(1)  # fmt: skip
    after, before = grad[:, radius:], grad[:, :radius].flip(-1)
    return (after + F.pad(before, (1, 0))).sum_to_size(table.shape)
