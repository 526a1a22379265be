"""σ → taps: the two families of one-dimensional Gaussian kernels, in plain differentiable torch."""

from __future__ import annotations

import math
import numbers
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from akm_triton.tracing import TRIED, constant_when_compiled, outside_transforms

FAMILIES = ("discrete", "sampled")


@constant_when_compiled
def trapezoid(
    max_radius: int, dtype: torch.dtype, device: torch.device, shared: bool = True
) -> tuple[Tensor, Tensor]:
    """(cos θ_m − 1, w_m cos nθ_m) over the half circle, θ_m = πm/M, m = 0..M.

    M keeps aliasing, T(2M − R), below 1e-12 up to σ = max(R, 10); beyond, the taps tend to the box
    either way. Calls share a copy, unless the call is being traced.
    """
    return (_shared_trapezoid if shared else _trapezoid)(max_radius, dtype, device)


def _trapezoid(max_radius: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    count = max(64, 1 << (4 * max_radius - 1).bit_length())
    m = np.arange(count + 1)
    cos_minus_one = np.cos(m * (math.pi / count)) - 1.0
    weight = np.where((m == 0) | (m == count), 1.0, 2.0) / (2 * count)
    n = np.arange(max_radius + 1)
    cosines = weight[:, None] * np.cos((m[:, None] * n % (2 * count)) * (math.pi / count))
    return (
        torch.from_numpy(cos_minus_one).to(device, dtype),
        torch.from_numpy(cosines).to(device, dtype),
    )


@lru_cache(maxsize=32)
def _shared_trapezoid(*args: Any) -> tuple[Tensor, Tensor]:
    with outside_transforms():
        return _trapezoid(*args)


def _trapezoid_for(t: Tensor, max_radius: int) -> tuple[Tensor, Tensor]:
    return trapezoid(max_radius, t.dtype, t.device, shared=TRIED and type(t) is Tensor)


def check_window(
    gaussian: str, truncate: float | None, max_radius: int
) -> tuple[float | None, int]:
    """Raise for an option that means nothing, naming it; returns truncate as a float or None, and
    max_radius as an int."""
    if gaussian not in FAMILIES:
        raise ValueError(f"gaussian must be one of {FAMILIES}, got {gaussian!r}")
    if truncate is not None:
        if isinstance(truncate, bool) or not isinstance(truncate, numbers.Real):
            raise TypeError(f"truncate must be None or a number, got {truncate!r}")
        truncate = float(truncate)
        if not 0 < truncate < math.inf:
            raise ValueError(f"truncate must be None or positive (in units of σ), got {truncate}")
    if isinstance(max_radius, bool) or not isinstance(max_radius, numbers.Integral):
        raise TypeError(f"max_radius must be an int (pixels), got {type(max_radius).__name__}")
    if max_radius < 1:
        raise ValueError(f"max_radius must be at least 1 pixel, got {max_radius}")
    return truncate, int(max_radius)


def gaussian_taps(
    sigma: Tensor,
    max_radius: int = 15,
    *,
    gaussian: str = "discrete",
    truncate: float | None = None,
) -> Tensor:
    r"""Taps of the one-dimensional Gaussian of standard deviation ``sigma``, centre first.

    .. math::
        \text{discrete: } k_n \propto e^{-t} I_n(t), \qquad
        \text{sampled: } k_n \propto e^{-n^2/2t}, \qquad t = σ^2,\; |n| ≤ R,

    normalised so that :math:`k_0 + 2\sum_{n≥1} k_n = 1`. The discrete family is Lindeberg's
    (*Scale-space for discrete signals*, 1990): its variance is exactly t and its derivative by t
    at 0 is ½, so a small σ still learns. It is evaluated by the trapezoid rule on
    :math:`e^{-t} I_n(t) = \frac1π \int_0^π e^{t(\cos θ - 1)} \cos nθ \, dθ`, which three tensor
    operations do, differentiably to any order.

    Args:
        sigma: standard deviation in pixels, any shape, floating point. Only σ² enters.
        max_radius: R; taps beyond it are cut and the rest renormalised.
        gaussian: ``"discrete"`` or ``"sampled"``.
        truncate: also zero the taps beyond ``int(truncate * sigma)``; ``None`` keeps the window.

    Returns:
        ``(*sigma.shape, R + 1)`` in the dtype of ``sigma``; float32 where that is half precision.

    Raises:
        TypeError, ValueError: an argument of a wrong type or value; the message names it.

    Example:
        >>> import torch
        >>> taps = gaussian_taps(torch.tensor([0.0, 1.0]), max_radius=2)
        >>> taps.shape
        torch.Size([2, 3])
        >>> round(float(taps[1, 0]), 3), round(float(taps[1, 1]), 3)
        (0.475, 0.212)
    """
    if not (isinstance(sigma, Tensor) and sigma.is_floating_point()):
        got = sigma.dtype if isinstance(sigma, Tensor) else type(sigma).__name__
        raise TypeError(f"sigma must be a floating point Tensor, got {got}")
    truncate, max_radius = check_window(gaussian, truncate, max_radius)
    if sigma.dtype in (torch.float16, torch.bfloat16):
        sigma = sigma.float()
    t = (sigma * sigma)[..., None]
    t = t + 0 * t  # an infinite σ has no taps: NaN
    n = torch.arange(max_radius + 1, device=sigma.device)
    if gaussian == "discrete":
        cos_minus_one, cosines = _trapezoid_for(t, max_radius)
        taps = torch.exp(t * cos_minus_one) @ cosines
    else:
        # below 1e-4 every side tap is zero in any dtype, and so is its derivative
        taps = torch.exp(-(n * n) / (2 * t.clamp(min=1e-4)))
    if truncate is not None:
        taps = taps * (n <= truncate * sigma.detach().abs()[..., None])
    return taps / (2 * taps.sum(-1, keepdim=True) - taps[..., :1])


def tap_derivatives(
    r: Tensor, max_radius: int, gaussian: str, truncate: float | None
) -> list[Tensor]:
    """The taps at σ = |r| and their first three derivatives by r, each differentiable again."""
    t = (r * r)[..., None]
    n = torch.arange(max_radius + 1, device=r.device)
    if gaussian == "discrete":
        cos_minus_one, cosines = _trapezoid_for(t, max_radius)
        density = torch.exp(t * cos_minus_one)
        p = [(density * cos_minus_one**order) @ cosines for order in range(4)]
    else:
        t = t.clamp(min=1e-4)
        u = n * n / (2 * t)  # −log of the tap
        tap = torch.exp(-u)
        factors = (u, u * (u - 2), u * (u * u - 6 * u + 6))
        p = [tap, *(tap * factor / t**order for order, factor in enumerate(factors, 1))]
    if truncate is not None:
        p = [x * (n <= truncate * r.detach().abs()[..., None]) for x in p]
    total = [2 * x.sum(-1, keepdim=True) - x[..., :1] for x in p]
    k: list[Tensor] = []  # by t, of the quotient p / total
    for order in range(4):
        rest = sum(math.comb(order, i) * k[i] * total[order - i] for i in range(order))
        k.append((p[order] - rest) / total[0])
    r = r[..., None]
    return [
        k[0],
        2 * r * k[1],
        2 * k[1] + 4 * r**2 * k[2],
        12 * r * k[2] + 8 * r**3 * k[3],
    ]
