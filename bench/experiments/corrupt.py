"""Corruptions of images, "-C style": twelve of the kinds of D. Hendrycks and T. Dietterich,
*Benchmarking neural network robustness to common corruptions and perturbations*, ICLR 2019, at five
severities, written anew.

Noise, fog, brightness and contrast have about ImageNet-C's strengths; blurs and displacements, in
pixels, are for images of about 32 pixels. So no number here can stand beside a published one.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

Array = np.ndarray[Any, Any]
Rng = np.random.Generator
SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(images: Array, kind: str, severity: int, seed: int = 0) -> Array:
    """The images (n, C, H, W), uint8, corrupted, each in its own random way.

    The same arguments give the same images.

    Raises:
        ValueError: there is no such kind or severity.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {tuple(KINDS)}, got {kind!r}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be one of {SEVERITIES}, got {severity!r}")
    change, strengths = KINDS[kind]
    rng = np.random.default_rng([seed, list(KINDS).index(kind), severity])
    x = images.astype(np.float32) / 255
    y = change(x, strengths[severity - 1], rng)
    return (255 * y.clip(0, 1)).round().astype(np.uint8)


def _gaussian_noise(x: Array, deviation: float, rng: Rng) -> Array:
    return x + deviation * rng.standard_normal(x.shape, dtype=np.float32)


def _shot_noise(x: Array, photons: float, rng: Rng) -> Array:
    return rng.poisson(x * photons) / photons


def _impulse_noise(x: Array, part: float, rng: Rng) -> Array:
    """Salt and pepper."""
    chance = rng.random(x.shape, dtype=np.float32)
    return np.where(chance < part / 2, 0.0, np.where(chance > 1 - part / 2, 1.0, x))


def _defocus_blur(x: Array, radius: float, rng: Rng) -> Array:
    """A disk, its edge softened over a pixel."""
    reach = int(np.ceil(radius))
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (radius + 0.5 - np.hypot(rows, columns)).clip(0, 1)
    return _convolved(x, disk)


def _motion_blur(x: Array, length: float, rng: Rng) -> Array:
    """A line, in one of eight directions."""
    y, reach = x.copy(), int(np.ceil(length / 2))
    direction = rng.integers(8, size=len(x))
    for which in range(8):
        line = np.zeros((2 * reach + 1, 2 * reach + 1))
        for t in np.linspace(-length / 2, length / 2, 8 * reach + 1):
            row, column = t * np.sin(np.pi * which / 8), t * np.cos(np.pi * which / 8)
            line[round(reach + row), round(reach + column)] += 1
        y[direction == which] = _convolved(x[direction == which], line)
    return y


def _zoom_blur(x: Array, most: float, rng: Rng) -> Array:
    """The mean of zooms from 1 to ``most`` around the centre."""
    zooms = np.linspace(1, most, 6)
    zoomed = [_stretch(x.shape[2], zoom) @ x @ _stretch(x.shape[3], zoom).T for zoom in zooms]
    return np.asarray(sum(zoomed) / len(zooms))


def _stretch(size: int, zoom: float) -> Array:
    """The matrix that stretches a line around its centre, by linear interpolation."""
    centre = (size - 1) / 2
    place = centre + (np.arange(size) - centre) / zoom
    return (1 - np.abs(place[:, None] - np.arange(size))).clip(0).astype(np.float32)


def _fog(x: Array, density: float, rng: Rng) -> Array:
    """Clouds of several sizes, the finer the fainter; the brightest pixel stays as bright."""
    size = (len(x), 1, *x.shape[2:])
    clouds = np.zeros(size, np.float32)
    for sigma in (8, 4, 2, 1):
        noise = rng.standard_normal(size, dtype=np.float32)
        clouds += sigma**2 * ndimage.gaussian_filter(noise, (0, 0, sigma, sigma), mode="wrap")
    low, high = (f(clouds, axis=(2, 3), keepdims=True) for f in (np.min, np.max))
    brightest = x.max((1, 2, 3), keepdims=True)
    foggy = x + density * (clouds - low) / np.maximum(high - low, 1e-6)
    return foggy * brightest / np.maximum(brightest + density, 1e-6)


def _brightness(x: Array, more: float, rng: Rng) -> Array:
    return x + more


def _contrast(x: Array, factor: float, rng: Rng) -> Array:
    mean = x.mean((2, 3), keepdims=True)
    return mean + factor * (x - mean)


def _elastic(x: Array, pixels: float, rng: Rng) -> Array:
    """Each pixel moved by a smooth random field, ``pixels`` in the root mean square."""
    n, _, height, width = x.shape
    field = rng.standard_normal((2, n, height, width), dtype=np.float32)
    field = ndimage.gaussian_filter(field, (0, 0, 3, 3), mode="reflect")
    field *= pixels / np.maximum(np.sqrt((field**2).mean((2, 3), keepdims=True)), 1e-6)
    rows = np.arange(height)[:, None] + field[0]
    columns = np.arange(width) + field[1]
    which = np.broadcast_to(np.arange(n)[:, None, None], rows.shape)
    channels = [
        ndimage.map_coordinates(x[:, c], [which, rows, columns], order=1, mode="nearest")
        for c in range(x.shape[1])
    ]
    return np.stack(channels, 1)


def _pixelate(x: Array, scale: float, rng: Rng) -> Array:
    size = x.shape[3], x.shape[2]
    small = tuple(max(1, round(scale * side)) for side in size)

    def change(plane: Array) -> Array:
        shrunk = Image.fromarray(plane).resize(small, Image.Resampling.BOX)
        return np.asarray(shrunk.resize(size, Image.Resampling.NEAREST))

    return np.stack([[change(plane) for plane in image] for image in x])


def _jpeg(x: Array, quality: float, rng: Rng) -> Array:
    def change(image: Array) -> Array:
        """(H, W, C), uint8."""
        file = io.BytesIO()
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        picture.save(file, "jpeg", quality=int(quality))
        return np.asarray(Image.open(file)).reshape(image.shape)

    whole = (255 * x).round().astype(np.uint8).transpose(0, 2, 3, 1)
    return np.stack([change(image) for image in whole]).transpose(0, 3, 1, 2) / 255.0


def _convolved(x: Array, kernel: Array) -> Array:
    kernel = (kernel / kernel.sum())[None, None].astype(np.float32)
    return np.asarray(ndimage.convolve(x, kernel, mode="nearest"))


# kind → how, and its strength at each severity
KINDS: dict[str, tuple[Callable[[Array, float, Rng], Array], tuple[float, ...]]] = {
    "gaussian noise": (_gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot noise": (_shot_noise, (60, 25, 12, 5, 3)),
    "impulse noise": (_impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus blur": (_defocus_blur, (0.7, 1.0, 1.5, 2.0, 2.5)),
    "motion blur": (_motion_blur, (2, 3, 4, 6, 8)),
    "zoom blur": (_zoom_blur, (1.1, 1.2, 1.3, 1.4, 1.5)),
    "fog": (_fog, (0.3, 0.6, 0.9, 1.2, 1.6)),
    "brightness": (_brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (_contrast, (0.5, 0.4, 0.3, 0.2, 0.1)),
    "elastic": (_elastic, (0.5, 0.8, 1.1, 1.5, 2.0)),
    "pixelate": (_pixelate, (0.7, 0.6, 0.5, 0.4, 0.3)),
    "jpeg": (_jpeg, (25, 18, 15, 10, 7)),
}
GROUPS = {
    "noise": ("gaussian noise", "shot noise", "impulse noise"),
    "blur": ("defocus blur", "motion blur", "zoom blur"),
    "weather": ("fog", "brightness"),
    "digital": ("contrast", "elastic", "pixelate", "jpeg"),
}
