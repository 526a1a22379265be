"""σ → taps: the two families of one-dimensional Gaussian kernels, in plain differentiable torch."""

from __future__ import annotations

import math
import numbers
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from akm_triton.sharding import replicated
from akm_triton.tracing import TRIED, constant_when_compiled, outside_transforms

FAMILIES = ("discrete", "sampled")

LARGEST_RADIUS = 255
"""Matrices of constants hold 4R² numbers for the taps, and up to 4R³ for the blur of a map of 2R
pixels: here 66 million."""


class BesselRules(NamedTuple):
    """Two rules for e^{-t} I_n(t), each a product of a function of t with a constant matrix.

    Up to t = ``switch`` the trapezoid rule, ``exp(t * cos_minus_one) @ cosines``; beyond it the
    asymptotic series, ``(switch / t) ** arange(TERMS) @ series``, but for a factor that all n
    share. Both are exact to 1e-15 or so where they are used.
    """

    cos_minus_one: Tensor
    """cos θ_m − 1, θ_m = πm/M, m = 0…M."""
    cosines: Tensor
    """w_m cos nθ_m, (M+1, R+1)."""
    series: Tensor
    """a_k(n) / switch^k, (TERMS, R+1)."""
    switch: float
    """In pixels²: σ = ¾ max(R, 10)."""


TERMS = 16


@constant_when_compiled
def bessel_rules(
    max_radius: int, dtype: torch.dtype, device: torch.device, shared: bool = True
) -> BesselRules:
    """Calls share a copy, unless the call is being traced."""
    return (_shared_rules if shared else _rules)(max_radius, dtype, device)


def _rules(max_radius: int, dtype: torch.dtype, device: torch.device) -> BesselRules:
    switch = (0.75 * max(max_radius, 10)) ** 2
    n = np.arange(max_radius + 1)
    # keeps aliasing, of the order of the tap 2M − R, below 1e-15 up to the switch; M + 1 nodes,
    # which kernels load, are a power of two
    count = max(64, 1 << (4 * max_radius - 1).bit_length()) - 1
    m = np.arange(count + 1)
    cos_minus_one = np.cos(m * (math.pi / count)) - 1.0
    weight = np.where((m == 0) | (m == count), 1.0, 2.0) / (2 * count)
    cosines = weight[:, None] * np.cos((m[:, None] * n % (2 * count)) * (math.pi / count))
    k = np.arange(1, TERMS)[:, None]
    ratios = ((2 * k - 1) ** 2 - (2 * n) ** 2) / (8 * k * switch)
    series = np.concatenate([np.ones((1, len(n))), np.cumprod(ratios, 0)])

    def constant(x: np.ndarray) -> Tensor:
        return torch.from_numpy(x).to(device, dtype)

    return BesselRules(constant(cos_minus_one), constant(cosines), constant(series), switch)


@lru_cache(maxsize=32)  # 2 MB each at the largest radius
def _shared_rules(*args: Any) -> BesselRules:
    with outside_transforms():
        return _rules(*args)


def _rules_for(r: Tensor, max_radius: int) -> BesselRules:
    plain = type(r) is Tensor
    rules = bessel_rules(max_radius, r.dtype, r.device, shared=TRIED and plain)
    if plain:
        return rules
    cos_minus_one, cosines, series = (replicated(x, r) for x in rules[:3])
    return BesselRules(cos_minus_one, cosines, series, rules.switch)


def _up_to(last: int, like: Tensor) -> Tensor:
    """0, 1, … last."""
    return replicated(torch.arange(last + 1, device=like.device), like)


def is_number(x: object) -> bool:
    """bool is none here."""
    return isinstance(x, numbers.Real) and not isinstance(x, bool)


def check_dense(name: str, x: Tensor) -> None:
    """Raise where x has no strides to read it by."""
    if x.layout is not torch.strided or x.is_nested:
        layout = "nested" if x.is_nested else str(x.layout).removeprefix("torch.").strip("_")
        raise TypeError(f"{name} must be a dense tensor, got layout {layout}; see Tensor.to_dense")


def check_window(
    gaussian: str, truncate: float | None, max_radius: int
) -> tuple[float | None, int]:
    """Raise for an option that means nothing, naming it; returns truncate as a float or None, and
    max_radius as an int."""
    if gaussian not in FAMILIES:
        raise ValueError(f"gaussian must be one of {FAMILIES}, got {gaussian!r}")
    if truncate is not None:
        if not is_number(truncate):
            raise TypeError(f"truncate must be None or a number, got {truncate!r}")
        truncate = float(truncate)
        if not truncate > 0:
            raise ValueError(f"truncate must be None or positive (in units of σ), got {truncate}")
        truncate = min(truncate, 1e30)  # times σ = 0 it must be 0 in float32
    if isinstance(max_radius, bool) or not isinstance(max_radius, numbers.Integral):
        raise TypeError(f"max_radius must be an int (pixels), got {type(max_radius).__name__}")
    if max_radius < 1:
        raise ValueError(f"max_radius must be at least 1 pixel, got {max_radius}")
    if max_radius > LARGEST_RADIUS:
        raise ValueError(
            f"max_radius must be at most {LARGEST_RADIUS} pixels, beyond which the matrices of the "
            f"blur take too much memory, got {max_radius}; blur a smaller map instead"
        )
    return truncate, int(max_radius)


def gaussian_taps(
    sigma: Tensor | float,
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
    :math:`e^{-t} I_n(t) = \frac1π \int_0^π e^{t(\cos θ - 1)} \cos nθ \, dθ`, and from
    σ = ¾ max(R, 10) on by the asymptotic series of :math:`I_n`. Both families are differentiable to
    any order, and tend to a box as σ grows; a σ far too large still has a gradient to return by.

    Args:
        sigma: standard deviation in pixels, any shape, floating point, or a number. Only σ² enters.
        max_radius: R, 1 to 255; taps beyond it are cut and the rest renormalised.
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
    if has_torch_function_unary(sigma):
        overridden: Tensor = handle_torch_function(
            gaussian_taps, (sigma,), sigma, max_radius, gaussian=gaussian, truncate=truncate
        )
        return overridden
    if not isinstance(sigma, Tensor) and is_number(sigma):
        sigma = torch.tensor(float(sigma))
    if not (isinstance(sigma, Tensor) and sigma.is_floating_point()):
        got = sigma.dtype if isinstance(sigma, Tensor) else type(sigma).__name__
        raise TypeError(f"sigma must be a floating point Tensor or a number, got {got}")
    check_dense("sigma", sigma)
    truncate, max_radius = check_window(gaussian, truncate, max_radius)
    r = _widened(sigma)
    n = _up_to(max_radius, r)
    if gaussian == "discrete":
        rules = _rules_for(r, max_radius)
        t = r * r
        density = torch.exp(_finite(t, rules) * rules.cos_minus_one)
        small = _product(density, rules.cosines)
        large = _product(_powers(r, rules), rules.series)
        taps = torch.where(t <= rules.switch, small, large)
    else:
        # below t = 1e-4 every side tap is zero in any dtype, and so is its derivative
        taps = torch.exp(-0.5 * (n / _magnitude(r).clamp(min=1e-2)) ** 2)
    if truncate is not None:
        taps = taps * (n <= truncate * sigma.detach().abs()[..., None])
    taps = taps / (2 * taps.sum(-1, keepdim=True) - taps[..., :1])
    return taps.to(torch.promote_types(sigma.dtype, torch.float32))


# Where there is no float64. Elsewhere taps are computed in it: they are few.
_WITHOUT_FLOAT64 = ("mps", "xpu")


def _widened(r: Tensor) -> Tensor:
    """r with a last axis for taps, in the dtype in which they are computed, and where r² and 1/r²
    are numbers: beyond, the taps are a box and their derivatives underflow. An infinite σ has no
    taps: NaN."""
    r = r.float() if r.device.type in _WITHOUT_FLOAT64 else r.double()
    most = 1e18 if r.dtype == torch.float32 else 1e150
    return (r.clamp(-most, most) + 0 * r)[..., None]


def _product(x: Tensor, matrix: Tensor) -> Tensor:
    """x @ matrix. Autocast, in a backward too, would round a matrix product, but none of float64,
    and no sum."""
    if x.dtype == torch.float64:
        return x @ matrix
    return (x[..., None] * matrix).sum(-2)


def _magnitude(r: Tensor) -> Tensor:
    """|r|; of DTensors PyTorch (2.13) cannot differentiate ``abs`` twice."""
    return r * r.detach().sgn()


def _finite(t: Tensor, rules: BesselRules) -> Tensor:
    """t where the trapezoid rule is used, a number elsewhere. Not cut at the switch itself: there
    the slope of ``clamp`` is 0 from PyTorch 2.14 on, and was 1 before."""
    return t.clamp(max=2 * rules.switch)


def _powers(r: Tensor, rules: BesselRules) -> Tensor:
    """(switch / r²)^m, m = 0…TERMS−1, for r² no less than the switch. By way of the logarithm, so
    that no derivative meets a number beyond the range of its dtype."""
    ratio = _magnitude(r).clamp(min=rules.switch**0.5) / rules.switch**0.5
    return torch.exp(ratio.log() * (-2 * _up_to(TERMS - 1, r)))


def tap_derivatives(
    r: Tensor, max_radius: int, gaussian: str, truncate: float | None, most: int = 3
) -> list[Tensor]:
    """The taps at σ = |r| and their first derivatives by r, 1 or 3 at ``most``, each differentiable
    again."""
    n = _up_to(max_radius, r)
    inside = None if truncate is None else n <= truncate * r.detach().abs()[..., None]
    dtype, r = r.dtype, _widened(r)
    t = r * r
    # p[i] = unit^i ∂^i p/∂t^i of the taps p before they are normalised; the unit grows with t, for
    # which the bare derivatives underflow
    if gaussian == "discrete":
        rules = _rules_for(r, max_radius)
        is_small = t <= rules.switch
        density = torch.exp(_finite(t, rules) * rules.cos_minus_one)
        m, powers = _up_to(TERMS - 1, r), _powers(r, rules)
        rising = (1, -m, m * (m + 1), -m * (m + 1) * (m + 2))
        p = [
            torch.where(
                is_small,
                _product(density * rules.cos_minus_one**order, rules.cosines),
                _product(powers * rising[order], rules.series),
            )
            for order in range(most + 1)
        ]
        unit = torch.where(is_small, 1, t)
    else:
        unit = t.clamp(min=1e-4)
        u = n * n / (2 * unit)  # −log of the tap
        tap = torch.exp(-u)
        p = [tap, tap * u]
        if most > 1:
            p += [tap * u * (u - 2), tap * u * (u * u - 6 * u + 6)]
    if inside is not None:
        p = [x * inside for x in p]
    total = [2 * x.sum(-1, keepdim=True) - x[..., :1] for x in p]
    k: list[Tensor] = []  # as p, of the quotient p / total
    for order in range(most + 1):
        rest = sum(math.comb(order, i) * k[i] * total[order - i] for i in range(order))
        k.append((p[order] - rest) / total[0])
    slope = r / unit
    derivatives = [k[0], 2 * slope * k[1]]
    if most > 1:
        derivatives += [
            2 / unit * k[1] + 4 * slope**2 * k[2],
            12 * slope / unit * k[2] + 8 * slope**3 * k[3],
        ]
    return [x.to(dtype) for x in derivatives]
