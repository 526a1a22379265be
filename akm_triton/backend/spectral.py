"""The ops in the basis of cosines, for taps of each sample.

With the symmetric border T(a) is diagonal in this basis whatever the taps, and all planes share it.
So a map is taken there and back by products with one matrix for all planes, where matrices of the
taps would be one for each: many small products, each made of taps first.

In the basis a map is (H, W, N·C), planes last, which is what the products give without a copy.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from akm_triton.backend.layout import Stride
from akm_triton.tracing import PLAIN_TYPES, TRIED, outside_transforms


def serves(z: Tensor, a: Tensor, b: Tensor, border: str) -> bool:
    """Whether this algorithm is right for these."""
    return border == "symmetric" and (a.dim() == 3 or b.dim() == 3) and z.numel() > 0


def blur(z: Tensor, a: Tensor, b: Tensor, stride: Stride = (1, 1)) -> Tensor:
    """T(a) z T(b)ᵀ: z (N, C, H, W); a and b (1|C, R+1) or (N, C, R+1); of the rows and columns that
    ``stride`` keeps."""
    down, across = _axes(z, a)
    there = _there(z, down, across) * _gain(z, a, b, down, across)
    return _back(there, z, down, across, stride)


def tap_grads(g: Tensor, z: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(∂F/∂a, ∂F/∂b) of F = <g, T(a) z T(b)ᵀ>."""
    return _grads(g, z, a, b)[1:]


def blur_backward(g: Tensor, z: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(T(a) g T(b)ᵀ, ∂F/∂a, ∂F/∂b)."""
    down, across = _axes(z, a)
    there, da, db = _grads(g, z, a, b)
    return _back(there * _gain(z, a, b, down, across), z, down, across), da, db


def _grads(g: Tensor, z: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(g in the basis, ∂F/∂a, ∂F/∂b)."""
    down, across = _axes(z, a)
    there = _there(g, down, across)
    product = there * _there(z, down, across)
    da = (product * _eigenvalues(z, b, across)).sum(1)  # by the eigenvalues of T(a), (H, N·C)
    db = (product * _eigenvalues(z, a, down)[:, None]).sum(0)
    return there, _of_taps(down.waves @ da, z, a), _of_taps(across.waves @ db, z, b)


class _Axis(NamedTuple):
    basis: Tensor
    """Row k is the kth cosine, (size, size), orthonormal."""
    waves: Tensor
    """Taps @ waves are the eigenvalues of T, (R+1, size)."""


def _axes(z: Tensor, taps: Tensor) -> tuple[_Axis, _Axis]:
    # a program that is being traced makes its own
    shared = TRIED and type(z) in PLAIN_TYPES and not torch.compiler.is_compiling()
    radius = taps.shape[-1] - 1
    down, across = ((_shared if shared else _axis)(size, radius, z.dtype) for size in z.shape[2:])
    return down, across


def _axis(size: int, radius: int, dtype: torch.dtype) -> _Axis:
    i = torch.arange(size, dtype=torch.float64)
    k, n = i[:, None], torch.arange(radius + 1, dtype=torch.float64)[:, None]
    basis = torch.cos(math.pi / (2 * size) * (k * (2 * i + 1))) * (2 / size) ** 0.5
    basis = torch.where(k == 0, size**-0.5, basis)
    waves = torch.cos(math.pi / size * (n * i)) * torch.where(n == 0, 1, 2)
    return _Axis(basis.to(dtype), waves.to(dtype))


@lru_cache(maxsize=64)  # a few kilobytes each
def _shared(*args: Any) -> _Axis:
    with outside_transforms():
        return _axis(*args)


def _there(z: Tensor, down: _Axis, across: _Axis) -> Tensor:
    """(N, C, H, W) → (H, W, N·C) in the basis."""
    n, c, h, w = z.shape
    x = across.basis @ z.reshape(n * c * h, w).mT
    return (down.basis @ x.reshape(w * n * c, h).mT).view(h, w, n * c)


def _back(x: Tensor, like: Tensor, down: _Axis, across: _Axis, stride: Stride = (1, 1)) -> Tensor:
    """The inverse of ``_there``, of the rows and columns that ``stride`` keeps."""
    n, c, h, w = like.shape
    rows, columns = down.basis[:, :: stride[0]], across.basis[:, :: stride[1]]
    x = x.reshape(h, w * n * c).mT @ rows
    x = x.view(w, n * c * rows.shape[1]).mT @ columns
    return x.view(n, c, rows.shape[1], columns.shape[1])


def _gain(z: Tensor, a: Tensor, b: Tensor, down: _Axis, across: _Axis) -> Tensor:
    return _eigenvalues(z, a, down)[:, None] * _eigenvalues(z, b, across)


def _eigenvalues(z: Tensor, taps: Tensor, axis: _Axis) -> Tensor:
    """(size, N·C)"""
    n, c = z.shape[:2]
    return axis.waves.mT @ taps.expand(n, c, taps.shape[-1]).reshape(n * c, -1).mT


def _of_taps(grads: Tensor, z: Tensor, taps: Tensor) -> Tensor:
    """(R+1, N·C) to the shape of the taps."""
    return grads.mT.view(*z.shape[:2], -1).sum_to_size(taps.shape)
