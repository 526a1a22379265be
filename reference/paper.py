"""The paper's two samples, repaired only where they would not run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def _taps(r: float) -> Array:
    """Two-sided sampled taps exp(-n²/2r²), |n| ≤ int(3|r|), summing to one."""
    radius = int(3 * abs(r))
    n = np.arange(-radius, radius + 1)
    taps = np.exp(-(n**2) / (2 * r * r)) if radius else np.ones(1)
    return np.asarray(taps / taps.sum())


def sampled_blur_2d(z: Array, r: float) -> Array:
    """y = K ∗ z, K[y, x] ∝ exp(-(x² + y²)/2r²) for |x|, |y| ≤ int(3|r|), ΣK = 1, zeros outside.

    z (H, W); r in pixels. Two-dimensional on purpose: that it separates is for others to use.
    """
    radius = int(3 * abs(r))
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1))
    for y in range(-radius, radius + 1):
        for x in range(-radius, radius + 1):
            kernel[y + radius, x + radius] = np.exp(-(x * x + y * y) / (2 * r * r)) if radius else 1
    kernel /= kernel.sum()
    out = np.zeros(z.shape)
    h, w = z.shape
    for i in range(h):
        for j in range(w):
            for y in range(-radius, radius + 1):
                for x in range(-radius, radius + 1):
                    if 0 <= i + y < h and 0 <= j + x < w:
                        out[i, j] += kernel[y + radius, x + radius] * z[i + y, j + x]
    return out


def smooth_rows(image: Array, r: float) -> Array:
    """The C++ listing, fault and all: y[i, j] = Σ_n k_|n| image[i, j + n] along the rows only, and
    columns within int(3|r|) of either border pass through unchanged.

    image (H, W); r in pixels; k the sampled taps.
    """
    taps = _taps(r)
    radius = len(taps) // 2
    out = image.astype(float)
    for i in range(image.shape[0]):
        for j in range(radius, image.shape[1] - radius):
            out[i, j] = sum(taps[n + radius] * image[i, j + n] for n in range(-radius, radius + 1))
    return out
