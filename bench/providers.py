"""The registry of providers: our blur and its rivals.

All of them compute ``akm_triton.gaussian_blur(z, sigma, gaussian="sampled", border="zeros")``, the
blur that every library has. Every call starts from σ, because a learned σ changes between calls.
Image libraries take one σ for all channels, which is less work: their names say "one σ".
torchvision cannot pad with zeros. It reflects at the border, and only its interior is compared.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import akm_triton as akm

Blur = Callable[[], Tensor]


@dataclass(frozen=True)
class Provider:
    """One way to blur.

    ``build(z, sigma, radius)`` prepares the inputs, which is not timed, and returns the call to
    time. z is (N, C, H, W), or of another sweep; sigma is (C,), or (1,) if ``shared``.
    """

    name: str
    build: Callable[[Tensor, Tensor, int], Blur]
    packages: tuple[str, ...] = ()  # it needs one of these distributions
    devices: tuple[str, ...] = ("cpu", "cuda")
    shared: bool = False  # one σ for all channels
    backward: bool = True  # timed with its backward too
    interior: bool = False  # has another border: compare away from it only
    compiles: bool = False  # its first call is slow, and slower at larger radii

    def version(self) -> str | None:
        """Name and version of the installed package; None if none is needed.

        Raises:
            PackageNotFoundError: none of the packages is installed.
        """
        for package in self.packages:
            with contextlib.suppress(metadata.PackageNotFoundError):
                return f"{package} {metadata.version(package)}"
        if self.packages:
            raise metadata.PackageNotFoundError(self.packages[0])
        return None


def ours(z: Tensor, sigma: Tensor, radius: int) -> Blur:
    axes = -1 if z.dim() == 3 else None
    return lambda: akm.gaussian_blur(
        z, sigma, gaussian="sampled", border="zeros", max_radius=radius, axes=axes
    )


def conv2d(z: Tensor, sigma: Tensor, radius: int) -> Blur:
    """Two depthwise convolutions, K×1 and 1×K."""
    channels = z.shape[1]

    def blur() -> Tensor:
        taps = kernel(sigma, radius, z)
        y = F.conv2d(z, taps[:, None, :, None], padding=(radius, 0), groups=channels)
        return F.conv2d(y, taps[:, None, None, :], padding=(0, radius), groups=channels)

    return blur


def conv2d_channels_last(z: Tensor, sigma: Tensor, radius: int) -> Blur:
    """The same, computed in channels_last; converting from and to the layout of z is timed."""
    memory = torch.contiguous_format if z.is_contiguous() else torch.channels_last

    def blur() -> Tensor:
        x = z.contiguous(memory_format=torch.channels_last)
        return conv2d(x, sigma, radius)().contiguous(memory_format=memory)

    return blur


def conv2d_dense(z: Tensor, sigma: Tensor, radius: int) -> Blur:
    """One depthwise convolution, K×K."""

    def blur() -> Tensor:
        taps = kernel(sigma, radius, z)
        square = taps[:, None, :, None] * taps[:, None, None, :]
        return F.conv2d(z, square, padding=radius, groups=z.shape[1])

    return blur


def toeplitz(z: Tensor, sigma: Tensor, radius: int) -> Blur:
    """Two batched products with the dense matrices of the blur."""
    height, width = z.shape[2:]

    def bands(size: int) -> Tensor:
        index = torch.arange(size, device=z.device)
        return (index[:, None] - index).abs().clamp(max=radius + 1)  # (size, size)

    rows, columns = bands(height), bands(width)

    def blur() -> Tensor:
        taps = F.pad(_taps(sigma, radius, z), (0, 1))  # a zero for pixels beyond the radius
        return taps[:, rows] @ z @ taps[:, columns]

    return blur


def shift_and_add(z: Tensor, sigma: Tensor, radius: int) -> Blur:
    """A sum of 2R+1 shifted maps along each axis, fused by torch.compile."""
    torch.compiler.reset()  # each radius compiles again, and the number of variants is limited
    fused = torch.compile(_shift_and_add, dynamic=False, fullgraph=True)
    return lambda: fused(z, _taps(sigma, radius, z))


def _shift_and_add(z: Tensor, taps: Tensor) -> Tensor:
    radius = taps.shape[1] - 1
    for axis in (2, 3):
        size = z.shape[axis]
        padded = F.pad(z, (0, 0, radius, radius) if axis == 2 else (radius, radius))
        shifts = range(-radius, radius + 1)
        z = sum(
            (taps[:, abs(n), None, None] * padded.narrow(axis, n + radius, size) for n in shifts),
            torch.zeros_like(z),
        )
    return z


def fft(z: Tensor, sigma: Tensor, radius: int) -> Blur:
    """A product of spectra; the map is padded with zeros so that nothing wraps around."""
    height, width = z.shape[2:]
    # multiples of 8, at which FFTs are fast
    size = [-(-max(x + radius, 2 * radius + 1) // 8) * 8 for x in (height, width)]

    def blur() -> Tensor:
        taps = kernel(sigma, radius, z).float()
        spectra = [torch.fft.fft(taps, size[0]), torch.fft.rfft(taps, size[1])]
        # the taps start at 0, not at -R, which shifts the result by R
        spectrum = torch.fft.rfft2(z.to(taps.dtype), size) * spectra[0][:, :, None]
        y = torch.fft.irfft2(spectrum * spectra[1][:, None], size)
        return y[..., radius : radius + height, radius : radius + width].to(z.dtype)

    return blur


def scipy(z: Tensor, sigma: Tensor, radius: int) -> Blur:
    from scipy.ndimage import gaussian_filter

    maps, axes = z.detach().numpy(), tuple(range(2, z.dim()))
    return lambda: torch.from_numpy(
        gaussian_filter(maps, sigma.item(), mode="constant", radius=radius, axes=axes)
    )


def opencv(z: Tensor, sigma: Tensor, radius: int) -> Blur:
    import cv2

    maps = z.detach().flatten(0, 1).numpy()
    size = 2 * radius + 1

    def blur() -> Tensor:
        pixels = sigma.item()
        planes = [
            cv2.GaussianBlur(x, (size, size), pixels, borderType=cv2.BORDER_CONSTANT) for x in maps
        ]
        return torch.from_numpy(np.stack(planes)).view(z.shape)

    return blur


def skimage(z: Tensor, sigma: Tensor, radius: int) -> Blur:
    from skimage.filters import gaussian

    maps = z.detach().numpy()
    return lambda: torch.from_numpy(_with_truncate(gaussian, maps, sigma.item(), radius))


def cupyx(z: Tensor, sigma: Tensor, radius: int) -> Blur:
    import cupy
    from cupyx.scipy.ndimage import gaussian_filter

    maps = cupy.from_dlpack(z.detach())
    return lambda: torch.utils.dlpack.from_dlpack(
        _with_truncate(gaussian_filter, maps, sigma.item(), radius)
    )


def cucim(z: Tensor, sigma: Tensor, radius: int) -> Blur:
    import cupy
    from cucim.skimage.filters import gaussian

    maps = cupy.from_dlpack(z.detach())
    return lambda: torch.utils.dlpack.from_dlpack(
        _with_truncate(gaussian, maps, sigma.item(), radius)
    )


def _with_truncate(gaussian: Any, maps: Any, sigma: float, radius: int) -> Any:
    """Call with SciPy's signature, which gives the radius of the window in units of σ."""
    return gaussian(maps, (0, 0, sigma, sigma), mode="constant", truncate=radius / sigma)


def kornia(z: Tensor, sigma: Tensor, radius: int) -> Blur:
    from kornia.filters import gaussian_blur2d

    size = 2 * radius + 1
    return lambda: gaussian_blur2d(
        z, (size, size), sigma.expand(1, 2), border_type="constant", separable=True
    )


def torchvision(z: Tensor, sigma: Tensor, radius: int) -> Blur:
    from torchvision.transforms.functional import gaussian_blur

    return lambda: gaussian_blur(z, [2 * radius + 1] * 2, [sigma.item()] * 2)


def copy(z: Tensor, sigma: Tensor, radius: int) -> Blur:
    y = torch.empty_like(z)
    return lambda: y.copy_(z.detach())


OPENCV = ("opencv-python-headless", "opencv-python")
CUPY = ("cupy-cuda13x", "cupy-cuda12x", "cupy")
CUCIM = ("cucim-cu13", "cucim-cu12")

OURS = Provider("akm_triton", ours)
RIVALS = (
    Provider("conv2d separable", conv2d),
    Provider("conv2d channels_last", conv2d_channels_last),
    Provider("conv2d dense K×K", conv2d_dense),
    Provider("Toeplitz products", toeplitz),
    Provider("FFT", fft),
    Provider("compiled shifts", shift_and_add, backward=False, compiles=True),
    Provider("scipy, one σ", scipy, ("scipy",), ("cpu",), shared=True, backward=False),
    Provider("OpenCV, one σ", opencv, OPENCV, ("cpu",), shared=True, backward=False),
    Provider(
        "scikit-image, one σ", skimage, ("scikit-image",), ("cpu",), shared=True, backward=False
    ),
    Provider("kornia, one σ", kornia, ("kornia",), shared=True),
    Provider(
        "torchvision, one σ", torchvision, ("torchvision",),
        shared=True, backward=False, interior=True,
    ),
    Provider("cupyx, one σ", cupyx, CUPY, ("cuda",), shared=True, backward=False),
    Provider("cuCIM, one σ", cucim, CUCIM, ("cuda",), shared=True, backward=False),
)  # fmt: skip
COPY = Provider("copy", copy, backward=False)
"""Not a rival but the ceiling: no blur can be faster than a copy of the map."""


def _taps(sigma: Tensor, radius: int, z: Tensor) -> Tensor:
    """Half of the kernel, (C, R+1), centre first."""
    return akm.gaussian_taps(sigma, radius, gaussian="sampled").to(z.dtype)


def kernel(sigma: Tensor, radius: int, z: Tensor) -> Tensor:
    """The whole kernel, (C, 2R+1)."""
    taps = _taps(sigma, radius, z)
    return torch.cat([taps[:, 1:].flip(1), taps], 1)


def versions() -> dict[str, str]:
    """The version of every rival's package that is installed."""
    installed = {}
    for provider in RIVALS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            if package_and_version := provider.version():
                package, version = package_and_version.split()
                installed[package] = version
    return installed
