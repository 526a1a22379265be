"""The operation and its analytic gradients in float64 NumPy, one index at a time.

R is the window's radius in pixels; taps are one-sided, centre first: k[..., n], n = 0..R.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ive

Array = NDArray[np.float64]


def _window(sigma: Array, max_radius: int, truncate: float | None) -> NDArray[np.bool_]:
    """[n ≤ int(truncate · σ)], all true without truncation."""
    n = np.arange(max_radius + 1)
    if truncate is None:
        return np.ones(sigma.shape + n.shape, bool)
    return n <= np.floor(truncate * sigma)[..., None]


def _total(taps: Array) -> Array:
    """k_0 + 2 Σ_{n≥1} k_n, one axis kept."""
    return 2 * taps.sum(-1, keepdims=True) - taps[..., :1]


def _raw(sigma: Array, max_radius: int, gaussian: str) -> tuple[Array, Array]:
    """(taps, ∂taps/∂σ) before truncation and normalisation."""
    n = np.arange(max_radius + 1)
    s = sigma[..., None]
    if gaussian == "discrete":
        t = s**2
        k = ive(n, t)  # e^{-t} I_n(t)
        slope = (ive(np.abs(n - 1), t) + ive(n + 1, t)) / 2 - k  # ∂k/∂t
        return k, 2 * s * slope
    if gaussian == "sampled":
        safe = np.where(s > 0, s, 1.0)
        taps = np.where(s > 0, np.exp(-(n**2) / (2 * safe**2)), n == 0)
        return taps, np.where(s > 0, taps * n**2 / safe**3, 0.0)
    raise ValueError(f"unknown family {gaussian!r}")


def taps(
    sigma: ArrayLike,
    max_radius: int,
    *,
    gaussian: str = "discrete",
    truncate: float | None = None,
) -> Array:
    """k_n ∝ e^{-t} I_n(t), t = σ² ("discrete", Lindeberg 1990) or exp(-n²/2σ²) ("sampled"),
    normalised to k_0 + 2 Σ k_n = 1 over the window: σ.shape + (R+1,)."""
    sigma = np.asarray(sigma, float)
    k = _raw(sigma, max_radius, gaussian)[0] * _window(sigma, max_radius, truncate)
    return k / _total(k)


def taps_derivative(
    sigma: ArrayLike,
    max_radius: int,
    *,
    gaussian: str = "discrete",
    truncate: float | None = None,
) -> Array:
    """∂taps/∂σ by the quotient rule; the window's cut does not move."""
    sigma = np.asarray(sigma, float)
    k, slope = _raw(sigma, max_radius, gaussian)
    inside = _window(sigma, max_radius, truncate)
    k, slope = k * inside, slope * inside
    return (slope * _total(k) - k * _total(slope)) / _total(k) ** 2


def fold(index: int, size: int, border: str) -> int:
    """Where the border rule finds ``index``: walk in from outside. −1 where "zeros" has nothing."""
    while not 0 <= index < size:
        if border == "zeros":
            return -1
        if border == "replicate":
            index = min(max(index, 0), size - 1)
        elif border == "circular":
            index += size if index < 0 else -size
        elif border == "symmetric":  # d c b a | a b c d | d c b a
            index = -1 - index if index < 0 else 2 * size - 1 - index
        elif border == "reflect":  # d c b | a b c d | c b a
            index = 0 if size == 1 else (-index if index < 0 else 2 * size - 2 - index)
        else:
            raise ValueError(f"unknown border {border!r}")
    return index


def toeplitz(table: Array, size: int, border: str) -> Array:
    """T[..., i, fold(i + n)] += table[..., |n|], n = −R..R."""
    radius = table.shape[-1] - 1
    t = np.zeros((*table.shape[:-1], size, size))
    for i in range(size):
        for n in range(-radius, radius + 1):
            j = fold(i + n, size, border)
            if j >= 0:
                t[..., i, j] += table[..., abs(n)]
    return t


def blur(z: Array, a: Array, b: Array, border: str, adjoint: bool = False) -> Array:
    """T(a) z T(b)ᵀ, or T(a)ᵀ z T(b): z (N, C, H, W); a, b (1|C, R+1) or (N, C, R+1)."""
    ta, tb = toeplitz(a, z.shape[-2], border), toeplitz(b, z.shape[-1], border)
    if adjoint:
        ta, tb = ta.swapaxes(-1, -2), tb.swapaxes(-1, -2)
    return ta @ z @ tb.swapaxes(-1, -2)


def _tap_sums(d: Array, table: Array, border: str) -> Array:
    """Σ_ij d[..., i, j] ∂T[i, j]/∂table_n in the shape of ``table``; d (N, C, size, size)."""
    radius, size = table.shape[-1] - 1, d.shape[-1]
    full = np.zeros((*d.shape[:2], radius + 1))
    for i in range(size):
        for n in range(-radius, radius + 1):
            j = fold(i + n, size, border)
            if j >= 0:
                full[..., abs(n)] += d[..., i, j]
    if table.ndim == 3:
        return full
    full = full.sum(0)
    return full.sum(0, keepdims=True) if table.shape[0] == 1 else full


def tap_grads(g: Array, z: Array, a: Array, b: Array, border: str) -> tuple[Array, Array]:
    """(∂F/∂a, ∂F/∂b) of F = <g, T(a) z T(b)ᵀ>, in the shapes of the tables."""
    ta, tb = toeplitz(a, z.shape[-2], border), toeplitz(b, z.shape[-1], border)
    d_a = g @ (z @ tb.swapaxes(-1, -2)).swapaxes(-1, -2)
    d_b = g.swapaxes(-1, -2) @ (ta @ z)
    return _tap_sums(d_a, a, border), _tap_sums(d_b, b, border)


def _tables(
    r: ArrayLike, s: ArrayLike, channels: int, max_radius: int, **family: object
) -> tuple[Array, Array, Array, Array]:
    """(r, sigmoid(s), k, ∂k/∂r), r and s broadcast to (C,) or (N, C)."""
    r, s = (np.asarray(x, float) for x in (r, s))
    shape = np.broadcast_shapes(r.shape, s.shape, (channels,))
    r, s = np.broadcast_to(r, shape), np.broadcast_to(s, shape)
    k = taps(np.abs(r), max_radius, **family)  # type: ignore[arg-type]
    slope = taps_derivative(np.abs(r), max_radius, **family)  # type: ignore[arg-type]
    return r, 1 / (1 + np.exp(-s)), k, slope * np.sign(r)[..., None]


def modulate(
    z: Array,
    r: ArrayLike,
    s: ArrayLike,
    *,
    gaussian: str,
    border: str,
    truncate: float | None,
    max_radius: int,
) -> Array:
    """sigmoid(s) · (G(|r|) ∗ z): z (N, C, H, W); r, s (), (1,), (C,) or (N, C)."""
    _, gate, k, _ = _tables(r, s, z.shape[1], max_radius, gaussian=gaussian, truncate=truncate)
    return gate[..., None, None] * blur(z, k, k, border)


def modulate_backward(
    g: Array,
    z: Array,
    r: ArrayLike,
    s: ArrayLike,
    *,
    gaussian: str,
    border: str,
    truncate: float | None,
    max_radius: int,
) -> tuple[Array, Array, Array]:
    """(dz, dr, ds) of <g, modulate(z, r, s)>; dr and ds in the shapes of r and s."""
    _, gate, k, slope = _tables(r, s, z.shape[1], max_radius, gaussian=gaussian, truncate=truncate)
    dz = gate[..., None, None] * blur(g, k, k, border, adjoint=True)
    da, db = tap_grads(g, z, k, k, border)
    dr = gate * ((da + db) * slope).sum(-1)
    ds = gate * (1 - gate) * (da * k).sum(-1)
    return dz, _sum_to(dr, np.shape(r)), _sum_to(ds, np.shape(s))


def _sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    if len(shape) == 0 or shape == (1,):
        return x.sum().reshape(shape)
    return x.sum(0) if x.ndim > len(shape) else x
