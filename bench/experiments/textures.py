"""Mosaics of textures, each pixel labelled with its texture; from scikit-image's photographs."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

Array = np.ndarray[Any, Any]
TEXTURES = ("brick", "grass", "gravel", "immunohistochemistry")
STRIPS = {"train": (0, 256), "selection": (256, 384), "test": (384, 512)}  # rows, disjoint
SIZE = 64  # pixels, of a mosaic
LOCAL = 12.0  # pixels: contrast is made equal over such distances


@functools.cache
def photographs() -> Array:
    """(textures, 512, 512).

    Raises:
        FileNotFoundError: scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError:
        raise FileNotFoundError("textures: pip install scikit-image") from None
    found = []
    for name in TEXTURES:
        picture = getattr(data, name)().astype(np.float64)
        found.append(picture.mean(2) if picture.ndim == 3 else picture)
    return np.stack(found)


def mosaics(part: str, count: int, cells: int, seed: int) -> tuple[Tensor, Tensor]:
    """Mosaics (count, 1, SIZE, SIZE), float32, and the texture of each pixel (count, SIZE, SIZE).

    A cell is the pixels nearest to one of ``cells`` random points, of a random texture; what it
    shows is cut from a random place of that texture's strip, and turned over at random.

    Args:
        part: which strip of the photographs: of ``STRIPS``.
    """
    rng = np.random.default_rng([seed, list(STRIPS).index(part), cells])
    strips = _normalised(part)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    x = np.empty((count, 1, SIZE, SIZE), np.float32)
    y = np.empty((count, SIZE, SIZE), np.int64)
    for mosaic, labels in zip(x, y, strict=True):
        points = rng.uniform(0, SIZE, (cells, 2, 1, 1))
        cell = np.hypot(rows - points[:, 0], columns - points[:, 1]).argmin(0)
        labels[:] = rng.integers(len(TEXTURES), size=cells)[cell]
        for texture, strip in enumerate(strips):
            top, left = (rng.integers(side - SIZE + 1) for side in strip.shape)
            cut = strip[top : top + SIZE, left : left + SIZE]
            cut = cut[:, :: rng.choice([-1, 1])]
            mosaic[0][labels == texture] = cut[labels == texture]
    return torch.from_numpy(x), torch.from_numpy(y)


@functools.cache
def _normalised(part: str) -> Array:
    """That strip of each, with local mean 0 and local deviation 1: brightness tells nothing."""
    strip = photographs()[:, slice(*STRIPS[part])]
    sigma = (0, LOCAL, LOCAL)
    flat = strip - ndimage.gaussian_filter(strip, sigma, mode="reflect")
    deviation = np.sqrt(ndimage.gaussian_filter(flat**2, sigma, mode="reflect"))
    return np.asarray(flat / np.maximum(deviation, 1e-3))
