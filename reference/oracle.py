"""The operation and its analytic gradients in float64 NumPy, one index at a time.

R is the window's radius and σ the standard deviation, both in pixels; t = σ² is the variance.
Taps are one-sided, centre first: k[..., n], n = 0..R. Only t enters them, so they are even in σ
and their derivative is odd: r may stand for σ = |r| as it is, with no sign(0) to choose, and at
r = 0 the derivative is 0.
"""

from __future__ import annotations

from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, ive

Array = NDArray[np.float64]
BORDERS = ("symmetric", "zeros", "replicate", "reflect", "circular")


def _window(sigma: Array, max_radius: int, truncate: float | None) -> NDArray[np.bool_]:
    """[n ≤ int(truncate · |σ|)], all true without truncation."""
    n = np.arange(max_radius + 1)
    if truncate is None:
        return np.ones(sigma.shape + n.shape, bool)
    return n <= np.floor(truncate * np.abs(sigma))[..., None]


def _total(taps: Array) -> Array:
    """k_0 + 2 Σ_{n≥1} k_n, one axis kept."""
    return 2 * taps.sum(-1, keepdims=True) - taps[..., :1]


def _raw(sigma: Array, max_radius: int, gaussian: str) -> tuple[Array, Array]:
    """(k, ∂k/∂σ) before truncation and normalisation, each σ.shape + (R+1,).

    discrete: k = e^{-t} I_n(t), ∂k/∂t = (k_{n-1} + k_{n+1})/2 - k_n as 2 I_n' = I_{n-1} + I_{n+1},
    and ∂k/∂σ = 2σ ∂k/∂t; for large σ see ``_raw_of_large``. sampled: k = exp(-n²/2t), ∂k/∂σ = k
    n²/σ³.
    """
    n = np.arange(max_radius + 1)
    s = sigma[..., None]
    if gaussian == "discrete":
        large = np.abs(s) > 30
        t = np.where(large, 1, s) ** 2
        k = ive(n, t)
        slope = 2 * s * ((ive(np.abs(n - 1), t) + ive(n + 1, t)) / 2 - k)
        k_large, slope_large = _raw_of_large(np.where(np.abs(sigma) > 30, sigma, 31.0), max_radius)
        return np.where(large, k_large, k), np.where(large, slope_large, slope)
    if gaussian == "sampled":
        identity = np.abs(s) < 1e-2  # side taps are below e^{-5000}, which is 0 in float64
        s = np.where(identity, 1, s)
        k = np.where(identity, n == 0, np.exp(-((n / s) ** 2) / 2))
        return k, np.where(identity, 0, k * (n / s) ** 2 / s)
    raise ValueError(f"unknown family {gaussian!r}")


def _raw_of_large(sigma: Array, max_radius: int) -> tuple[Array, Array]:
    """As ``_raw`` for discrete taps of |σ| > 30, of which SciPy's Bessel functions lose the
    differences, both times one factor that all n share.

    With v = √2 σ sin(θ/2), ∫ e^{t(cos θ - 1)} cos nθ dθ ∝ ∫ e^{-v²} f(θ) dv with f = cos(nθ) /
    cos(θ/2), and σ ∂θ/∂σ = -2 tan(θ/2) at a fixed v. Sums over v = 0, 0.05, … are exact.
    """
    v = np.arange(0, 9, 0.05)[:, None]
    weight = np.exp(-(v**2)) * np.where(v == 0, 0.5, 1)
    n = np.arange(max_radius + 1)
    half = np.arcsin(v / (np.sqrt(2) * sigma[..., None, None]))  # θ/2
    waves, ripple = np.cos(2 * n * half), n * np.sin(2 * n * half)
    slope = (ripple - waves * np.tan(half) / 2) / np.cos(half) * 2 * np.tan(half)
    k = (weight * waves / np.cos(half)).sum(-2)
    return k, (weight * slope).sum(-2) / sigma[..., None]


def taps(
    sigma: ArrayLike,
    max_radius: int,
    *,
    gaussian: str = "discrete",
    truncate: float | None = None,
) -> Array:
    """k_n ∝ e^{-t} I_n(t) ("discrete", Lindeberg 1990) or exp(-n²/2t) ("sampled"), normalised to
    k_0 + 2 Σ_{n≥1} k_n = 1 over the window: σ.shape + (R+1,).

    σ = 0 is the identity (1, 0, ...). ``truncate`` zeroes taps beyond int(truncate · σ) first.
    """
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
    """∂taps/∂σ by the quotient rule, σ.shape + (R+1,), per pixel; the cut does not move with σ."""
    sigma = np.asarray(sigma, float)
    k, slope = _raw(sigma, max_radius, gaussian)
    inside = _window(sigma, max_radius, truncate)
    k, slope = k * inside, slope * inside
    return (slope * _total(k) - k * _total(slope)) / _total(k) ** 2


@overload
def fold(index: int, size: int, border: str) -> int: ...
@overload
def fold(index: NDArray[np.int_], size: int, border: str) -> NDArray[np.int_]: ...
def fold(index: int | NDArray[np.int_], size: int, border: str) -> int | NDArray[np.int_]:
    """Where in [0, size) the border rule finds ``index``: walk in from outside, turn by turn.

    −1 where "zeros" has nothing. An array folds element by element.
    """
    if border not in BORDERS or size < 1:
        raise ValueError(f"no border {border!r} of size {size}")
    if isinstance(index, np.ndarray):
        folded = [fold(int(i), size, border) for i in index.flat]
        return np.array(folded, int).reshape(index.shape)
    while not 0 <= index < size:
        if border == "zeros":
            return -1
        if border == "replicate":
            index = min(max(index, 0), size - 1)
        elif border == "circular":
            index += size if index < 0 else -size
        elif border == "symmetric":  # d c b a | a b c d | d c b a
            index = -1 - index if index < 0 else 2 * size - 1 - index
        elif size == 1:
            index = 0
        else:  # reflect: d c b | a b c d | c b a
            index = -index if index < 0 else 2 * size - 2 - index
    return index


def toeplitz(table: Array, size: int, border: str) -> Array:
    """T[..., i, fold(i + n)] += table[..., |n|], n = −R..R: (..., R+1) to (..., size, size)."""
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
    """Σ_ij d[..., i, j] ∂T[i, j]/∂table_n, summed to the shape of ``table``: d (N, C, size, size).

    ∂T[i, fold(i + n)]/∂table_|n| = 1.
    """
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
    """(∂F/∂a, ∂F/∂b) of F = <g, T(a) z T(b)ᵀ>, in the shapes of the tables.

    ∂F/∂T(a) = g (z T(b)ᵀ)ᵀ and ∂F/∂T(b) = gᵀ (T(a) z); g, z (N, C, H, W).
    """
    ta, tb = toeplitz(a, z.shape[-2], border), toeplitz(b, z.shape[-1], border)
    d_a = g @ (z @ tb.swapaxes(-1, -2)).swapaxes(-1, -2)
    d_b = g.swapaxes(-1, -2) @ (ta @ z)
    return _tap_sums(d_a, a, border), _tap_sums(d_b, b, border)


def _tables(
    r: ArrayLike,
    s: ArrayLike,
    channels: int,
    max_radius: int,
    gaussian: str,
    truncate: float | None,
) -> tuple[Array, Array, Array]:
    """(sigmoid(s), k, ∂k/∂r), r and s broadcast to (C,) or (N, C)."""
    shape = np.broadcast_shapes(np.shape(r), np.shape(s), (channels,))
    r, s = (np.broadcast_to(np.asarray(x, float), shape) for x in (r, s))
    k = taps(r, max_radius, gaussian=gaussian, truncate=truncate)
    return expit(s), k, taps_derivative(r, max_radius, gaussian=gaussian, truncate=truncate)


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
    gate, k, _ = _tables(r, s, z.shape[1], max_radius, gaussian, truncate)
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
    """(dz, dr, ds) of <g, modulate(z, r, s)>; dr and ds in the shapes of r and s.

    dz = sigmoid(s) T(k)ᵀ g T(k); dr = sigmoid(s) <da + db, ∂k/∂r>; ds = sigmoid'(s) <da, k>, with
    da, db the ``tap_grads`` at a = b = k. (<da, k> = <db, k> = <g, T(k) z T(k)ᵀ>.)
    """
    gate, k, slope = _tables(r, s, z.shape[1], max_radius, gaussian, truncate)
    dz = gate[..., None, None] * blur(g, k, k, border, adjoint=True)
    da, db = tap_grads(g, z, k, k, border)
    dr = gate * ((da + db) * slope).sum(-1)
    ds = gate * (1 - gate) * (da * k).sum(-1)
    return dz, sum_to(dr, np.shape(r)), sum_to(ds, np.shape(s))


def sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """x (C,) or (N, C), summed over what ``shape`` was broadcast along."""
    if len(shape) == 0 or shape == (1,):
        return x.sum().reshape(shape)
    return x.sum(0) if x.ndim > len(shape) else x
