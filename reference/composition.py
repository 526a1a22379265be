"""The operation as a PyTorch user would write it: pad, two depthwise convolutions, a sigmoid."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_PAD_MODES = {
    "zeros": "constant",
    "replicate": "replicate",
    "reflect": "reflect",
    "circular": "circular",
}


def taps(sigma: Tensor, max_radius: int, gaussian: str, truncate: float | None) -> Tensor:
    """Two-sided taps, σ.shape + (2R+1,), differentiable in σ."""
    n = torch.arange(-max_radius, max_radius + 1, device=sigma.device, dtype=sigma.dtype)
    t = sigma[..., None] ** 2
    if gaussian == "discrete":
        angles = 256  # trapezoid rule on e^{-t} I_n(t) = (1/2π) ∫ e^{t(cos θ − 1)} cos nθ dθ
        theta = torch.arange(angles, device=sigma.device, dtype=sigma.dtype)
        theta = theta * (2 * math.pi / angles)
        k = torch.exp(t * (theta.cos() - 1)) @ torch.cos(theta[:, None] * n) / angles
    else:
        k = torch.exp(-(n**2) / (2 * t.clamp(min=1e-4)))
    if truncate is not None:
        k = k * (n.abs() <= torch.floor(truncate * sigma.detach())[..., None])
    return k / k.sum(-1, keepdim=True)


def pad(z: Tensor, radius: int, border: str) -> Tensor:
    """Extend the last two axes by ``radius`` on either side."""
    h, w = z.shape[-2:]
    if border in _PAD_MODES and radius < min(h, w):
        return F.pad(z, (radius,) * 4, mode=_PAD_MODES[border])
    for dim in (-2, -1):
        z = _extend(z, dim, radius, border)
    return z


def _extend(z: Tensor, dim: int, radius: int, border: str) -> Tensor:
    size = z.shape[dim]
    at = torch.arange(-radius, size + radius, device=z.device)
    inside = (at >= 0) & (at < size)
    if border == "symmetric":
        at = at % (2 * size)
        at = torch.where(at < size, at, 2 * size - 1 - at)
    elif border == "reflect":
        at = at % max(2 * size - 2, 1)
        at = torch.where(at < size, at, 2 * size - 2 - at)
    elif border == "circular":
        at = at % size
    else:
        at = at.clamp(0, size - 1)
    z = z.index_select(dim, at)
    if border == "zeros":
        z = z * inside.to(z.dtype).reshape((-1, 1) if dim == -2 else (-1,))
    return z


def modulate(
    z: Tensor,
    r: Tensor,
    s: Tensor,
    *,
    gaussian: str,
    border: str,
    truncate: float | None,
    max_radius: int,
) -> Tensor:
    """sigmoid(s) · (G(|r|) ∗ z): z (N, C, H, W); r, s (), (1,), (C,) or (N, C)."""
    n, c = z.shape[:2]
    k = taps(r.abs(), max_radius, gaussian, truncate).to(z.dtype)
    shape = (n, c, 1) if max(r.dim(), s.dim()) == 2 else (1, c, 1)
    k = k.expand(*shape[:2], -1)
    x = pad(z, max_radius, border)
    if shape[0] == n and n != 1:  # every sample has taps of its own: fold the batch into channels
        x = x.reshape(1, n * c, *x.shape[-2:])
    weight = k.reshape(-1, 1, k.shape[-1])
    groups = weight.shape[0]
    x = F.conv2d(x, weight[..., :, None], groups=groups)
    x = F.conv2d(x, weight[..., None, :], groups=groups)
    gate = torch.sigmoid(s).to(z.dtype).reshape(*s.shape, 1, 1) if s.dim() else torch.sigmoid(s)
    return x.reshape(z.shape) * gate
