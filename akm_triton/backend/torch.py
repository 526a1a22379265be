"""The ops in plain PyTorch, on any device: as convolutions, matrix products, or in cosines.

z is (N, C, H, W) with any strides; the taps t = [a, b] are (2, 1|C, R+1) or (2, N, C, R+1), centre
tap first.
Results are as z in dtype and memory format; half precision is computed in float32. Every function
is a composition of differentiable operations and reads no value on the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from akm_triton.backend import convolution, products, spectral
from akm_triton.backend.layout import Stride, format_as, has_constant_size, is_channels_last
from akm_triton.borders import SELF_ADJOINT


def blur(
    z: Tensor, t: Tensor, border: str, adjoint: bool = False, stride: Stride = (1, 1)
) -> Tensor:
    """y = T(a) z T(b)ᵀ, or with ``adjoint`` T(a)ᵀ z T(b). Of y only the rows and columns are
    computed that ``stride`` keeps."""
    return _blur(z, t[0], t[1], border, adjoint, stride)


def _blur(
    z: Tensor, a: Tensor, b: Tensor, border: str, adjoint: bool, stride: Stride = (1, 1)
) -> Tensor:
    if not has_constant_size(z):
        x, a, b = _lifted(z, a, b)
        return format_as(z, convolution.blur_any_size(x, a, b, border, stride))
    if _convolves(z, a, b, border, grads=False):
        x, a, b = _lifted(z, a, b)
        return format_as(z, convolution.blur(x, a, b, border, stride))
    if _in_cosines(z, a, b, border):
        x, a, b = _lifted(z, a, b)
        return format_as(z, spectral.blur(x, a, b, stride))
    return products.blur(z, a, b, border, adjoint, stride)


def blur_pair(z: Tensor, t: Tensor, v: Tensor, border: str, adjoint: bool = False) -> Tensor:
    """T(a) z T(d)ᵀ + T(c) z T(b)ᵀ, or its adjoint, with v = [c, d]."""
    (x,) = _lifted(z)  # either term may be too large for half precision
    (a, b), (c, d) = t, v
    return format_as(z, _blur(x, a, d, border, adjoint) + _blur(x, c, b, border, adjoint))


def tap_grads(g: Tensor, z: Tensor, t: Tensor, border: str) -> Tensor:
    """[∂F/∂a, ∂F/∂b] of F = ⟨g, T(a) z T(b)ᵀ⟩, shaped as t."""
    a, b = t[0], t[1]
    if _convolves(z, a, b, border, grads=True):
        x, g, la, lb = _lifted(z, g, a, b)
        return torch.stack(convolution.tap_grads(g, x, la, lb, border)).to(a.dtype)
    if _in_cosines(z, a, b, border):
        x, g, la, lb = _lifted(z, g, a, b)
        return torch.stack(spectral.tap_grads(g, x, la, lb)).to(a.dtype)
    return torch.stack(products.tap_grads(g, z, a, b, border))


def blur_backward(g: Tensor, z: Tensor, t: Tensor, border: str) -> tuple[Tensor, Tensor]:
    """(∂F/∂z, [∂F/∂a, ∂F/∂b]) of F = ⟨g, T(a) z T(b)ᵀ⟩, with ∂F/∂z = T(a)ᵀ g T(b)."""
    a, b = t[0], t[1]
    if _convolves(z, a, b, border, grads=True):
        x, g, la, lb = _lifted(z, g, a, b)
        dz, *grads = convolution.blur_backward(g, x, la, lb, border)
        return format_as(z, dz), torch.stack(grads).to(a.dtype)
    if _in_cosines(z, a, b, border):
        x, g, la, lb = _lifted(z, g, a, b)
        dz, *grads = spectral.blur_backward(g, x, la, lb)
        return format_as(z, dz), torch.stack(grads).to(a.dtype)
    dz, *grads = products.blur_backward(g, z, a, b, border)
    return dz, torch.stack(grads)


# Along one axis, 2 or 3, of z; a is (1|C, R+1) or (N, C, R+1).


def blur_axis(
    z: Tensor, a: Tensor, axis: int, border: str, adjoint: bool = False, stride: int = 1
) -> Tensor:
    """T(a), or with ``adjoint`` T(a)ᵀ, along one axis. Of this only what ``stride`` keeps is
    computed."""
    if not has_constant_size(z):
        x, a = _lifted(z, a)
        return format_as(z, convolution.blur_axis_any_size(x, a, axis, border, stride))
    if _convolves_axis(z, a.shape[-1] - 1, axis, border, a.dim() == 3, grads=False):
        x, a = _lifted(z, a)
        return format_as(z, convolution.blur_axis(x, a, axis, border, stride))
    return products.blur_axis(z, a, axis, border, adjoint, stride)


def axis_grads(
    g: Tensor, z: Tensor, radius: int, axis: int, border: str, by_sample: bool
) -> Tensor:
    """∂F/∂a of F = ⟨g, T(a) z⟩ for each channel, (C, R+1), or of each sample too, (N, C, R+1)."""
    if _convolves_axis(z, radius, axis, border, by_sample, grads=True):
        x, g = _lifted(z, g)
        return convolution.axis_grads(g, x, radius, axis, border)
    return products.axis_grads(g, z, radius, axis, border, by_sample)


def axis_backward(g: Tensor, z: Tensor, a: Tensor, axis: int, border: str) -> tuple[Tensor, Tensor]:
    """(∂F/∂z, ∂F/∂a), the latter shaped as a."""
    da = axis_grads(g, z, a.shape[-1] - 1, axis, border, a.dim() == 3)
    dz = format_as(z, blur_axis(g, a, axis, border, adjoint=True))
    return dz, da.sum_to_size(a.shape).to(a.dtype)


def _convolves_axis(
    z: Tensor, radius: int, axis: int, border: str, by_sample: bool, grads: bool
) -> bool:
    """As ``_convolves``, with what it found for borders that cost a copy."""
    if z.device.type != "cpu" or by_sample or border not in SELF_ADJOINT or z.numel() == 0:
        return False
    return radius <= 15 and 4 * radius <= z.shape[axis]


def _convolves(z: Tensor, a: Tensor, b: Tensor, border: str, grads: bool) -> bool:
    """The rule, measured on a CPU in float32, without a stride: maps 7² to 224², radius 1 to 31."""
    if z.device.type != "cpu" or not convolution.serves(z, a, b, border):
        return False
    radius, side, last = a.shape[-1] - 1, min(z.shape[2:]), is_channels_last(z)
    if grads and radius > 15:  # oneDNN's gradient of so long a filter is slow
        return False
    if border == "zeros":
        # in NCHW, between 16 and 32 pixels, products are as few and need no other format
        return 3 * radius <= side or (not grads and (last or not 16 < side <= 32))
    # the other borders cost a copy of the map, which in NCHW few taps or a large map are worth
    if last:
        return 2 * radius <= side
    few = radius <= (1 if grads else convolution.FEW) and 8 * radius <= side
    return few or (side >= 48 and (4 if grads else 3) * radius <= side)


def _in_cosines(z: Tensor, a: Tensor, b: Tensor, border: str) -> bool:
    """The rule, measured likewise: maps 7² to 112²."""
    if z.device.type != "cpu" or not spectral.serves(z, a, b, border):
        return False
    return has_constant_size(z) and z.shape[2] * z.shape[3] <= 256


def _lifted(z: Tensor, *others: Tensor) -> list[Tensor]:
    """All in the dtype of the computation."""
    dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
    return [x.to(dtype) for x in (z, *others)]
