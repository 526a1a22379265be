"""Throughput on signals and volumes, next to every rival that takes them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from bench import comparison, providers
from bench.providers import Blur, Provider
from bench.shapes import points
from bench.sweep import Row, Setting, Sweep, grid, title

SHAPES_CPU = (
    (1, 1, 16384), (1, 1, 64, 64, 64), (8, 64, 4096), (2, 16, 32, 32, 32), (32, 16, 1024),
)  # fmt: skip
SHAPES_CUDA = ((64, 64, 16384), (8, 32, 64, 64, 64))
TINY = ((2, 2, 40), (1, 2, 6, 5, 7))
RADII = (3, 7, 15)


def convolutions(z: Tensor, sigma: Tensor, radius: int) -> Blur:
    """A depthwise convolution along each axis."""
    channels, dims = z.shape[1], z.dim() - 2
    convolve = F.conv1d if dims == 1 else F.conv3d

    def blur() -> Tensor:
        kernel, y = providers.kernel(sigma, radius, z), z
        for axis in range(dims):
            shape, padding = [1] * dims, [0] * dims
            shape[axis], padding[axis] = 2 * radius + 1, radius
            weight = kernel.reshape(channels, 1, *shape)
            y = convolve(y, weight, padding=padding, groups=channels)
        return y

    return blur


def fft(z: Tensor, sigma: Tensor, radius: int) -> Blur:
    """A product of spectra, padded with zeros so that nothing wraps around."""
    axes = tuple(range(2, z.dim()))
    # multiples of 8, at which FFTs are fast
    size = [-(-(z.shape[axis] + 2 * radius) // 8) * 8 for axis in axes]

    def blur() -> Tensor:
        taps = providers.kernel(sigma, radius, z).float()
        spectrum = torch.fft.rfftn(z.to(taps.dtype), size, axes)
        for axis, n in zip(axes, size, strict=True):
            of_taps = (torch.fft.rfft if axis == axes[-1] else torch.fft.fft)(taps, n)
            shape = [-1 if x in (1, axis) else 1 for x in range(1, z.dim())]
            shape[0] = len(taps)
            spectrum = spectrum * of_taps.reshape(shape)
        y = torch.fft.irfftn(spectrum, size, axes)
        for axis in axes:  # the taps start at 0, not at -R, which shifts the result by R
            y = y.narrow(axis, radius, z.shape[axis])
        return y.to(z.dtype)

    return blur


RIVALS = (
    Provider("convolutions", convolutions),
    Provider("FFT", fft),
    Provider(
        "scipy, one σ", providers.scipy, ("scipy",), ("cpu",), shared=True, backward=False
    ),
)  # fmt: skip


def measure(setting: Setting) -> Iterator[list[Row]]:
    compared = comparison.Comparison(setting.budget, RIVALS)
    shapes = setting.choose(SHAPES_CPU, SHAPES_CUDA, TINY)
    radii = setting.choose(RADII, RADII, (1,))
    dtypes = setting.dtypes_or(("float32",), "float16", "float32")
    cases = list(product(dtypes, shapes, radii, comparison.DIRECTIONS))
    for dtype, shape, radius, direction in tqdm(cases, desc="dimensions", unit="point"):
        point = comparison.Point(shape, radius, setting.device, dtype)
        yield compared.rows(point, direction)


def table(rows: list[Row]) -> str:
    """A line for each tensor, radius and direction: ours, and every rival."""
    names = [rival.name for rival in RIVALS]
    lines = []
    for point in points(rows):
        micro = {row["provider"]: f"{1e6 * row['p50']:.0f}" for row in point if "p50" in row}
        ratio, first = comparison.ratio(point, lighter=True), point[0]
        lines.append(
            [
                title(first["shape"]), first["dtype"], str(first["kernel"]), first["direction"],
                *(micro.get(name, "–") for name in (providers.OURS.name, *names)),
                f"{ratio:.2f}×" if ratio else "–",
            ]
        )  # fmt: skip
    header = ["tensor", "dtype", "K", "direction", "ours µs", *names, "speed, ours / best"]
    return f"{grid(header, lines)}\n\n{comparison.notes(rows)}".rstrip()


SWEEP = Sweep("dimensions", measure, table, __doc__)
main = SWEEP.main
