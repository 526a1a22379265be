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
    """Two-sided taps, n = −R..R: σ.shape + (2R+1,), Σk = 1, differentiable in σ (pixels).

    discrete: e^{-t} I_n(t) = (1/2π) ∫ e^{t(cos θ − 1)} cos nθ dθ, t = σ², by the trapezoid rule at
    θ_m = 2πm/M over the whole circle; sampled: exp(-n²/2t). Half precision is counted in float32.
    """
    if sigma.dtype in (torch.float16, torch.bfloat16):
        sigma = sigma.float()
    n = torch.arange(-max_radius, max_radius + 1, dtype=torch.float64)
    t = sigma[..., None] ** 2
    if gaussian == "discrete":
        # M = 128 is exact to 1e-15 for σ ≤ 14 at R = 15, but 3e-9 off at σ = 20
        theta = torch.arange(256, dtype=torch.float64) * (2 * math.pi / 256)
        bend, waves = theta.cos() - 1, torch.cos(theta[:, None] * n) / 256
        k = torch.exp(t * bend.to(sigma)) @ waves.to(sigma)
    else:
        # below 1e-4 every side tap is zero in any dtype, and so is its derivative
        k = torch.exp(-(n.to(sigma) ** 2) / (2 * t.clamp(min=1e-4)))
    if truncate is not None:
        k = k * (n.to(sigma).abs() <= torch.floor(truncate * sigma.detach())[..., None])
    return k / k.sum(-1, keepdim=True)


def pad(z: Tensor, radius: int, border: str) -> Tensor:
    """z (..., H, W) to (..., H+2R, W+2R), R = ``radius`` pixels on every side.

    By F.pad where it can, else by gathering folded indices: it knows no symmetric border, and no
    reflection wider than the map.
    """
    h, w = z.shape[-2:]
    if border in _PAD_MODES and radius < min(h, w):
        return F.pad(z, (radius,) * 4, mode=_PAD_MODES[border])
    for dim in (-2, -1):
        z = _extend(z, dim, radius, border)
    return z


def _extend(z: Tensor, dim: int, radius: int, border: str) -> Tensor:
    """z gathered at i = −R..size+R−1 along ``dim``, each i folded into [0, size)."""
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
    n, c, h, w = z.shape
    k = taps(r.abs(), max_radius, gaussian, truncate).to(z.dtype)
    x = pad(z, max_radius, border)
    if r.dim() == 2:  # every sample has taps of its own: fold the batch into the channels
        x = x.reshape(1, n * c, *x.shape[-2:])
    groups = x.shape[1]
    weight = k.expand(groups, -1) if r.dim() < 2 else k.reshape(groups, -1)
    x = F.conv2d(x, weight[:, None, :, None], groups=groups)
    x = F.conv2d(x, weight[:, None, None, :], groups=groups)
    return x.reshape(n, c, h, w) * torch.sigmoid(s).to(z.dtype)[..., None, None]
