"""``BlurPool2d`` and ``MaxBlurPool2d``: smaller maps, blurred before by a learned σ."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from akm_triton.arguments import check_pair
from akm_triton.blurred import Blurred, as_channels, check_channels
from akm_triton.functional import gaussian_blur

START = 0.7
"""In pixels: about the root of ½, σ of the taps ¼ ½ ¼ of Zhang's pools."""


class BlurPool2d(Blurred):
    r"""Blur, then keep every stride-th row and column, with a learned σ for each channel.

    .. math:: y_{nc}[i, k] = (G(|r_c|) * z_{nc})[\mathrm{stride} \cdot (i, k)]

    What is too fine for the smaller map is smoothed away, where a plain stride would let it come
    back as something coarse that changes with each pixel that the image moves. Zhang, *Making
    convolutional networks shift-invariant again*, 2019, does so with fixed taps. There is no gate.

    As timm's anti-aliasing layer: ``timm.create_model("resnet50", aa_layer=akm.BlurPool2d)``.

    Args:
        channels: C of the maps.
        stride: keeps every stride-th row and column; an int, or a pair for rows and columns.
        per: ``"channel"``, an r for each channel, ``(C,)``; or ``"layer"``, one, ``(1,)``.
        gaussian, border, truncate, max_radius: as for ``modulate``.
        isotropic: ``False`` learns a σ for rows and one for columns, ``(C, 2)`` or ``(1, 2)``.

    Shape:
        ``(N, C, H, W)`` or ``(C, H, W)``, to ⌈H / stride⌉ rows and ⌈W / stride⌉ columns.

    Attributes:
        r: in pixels before the stride; starts at 0.7.

    Raises:
        ValueError, TypeError: an argument that means nothing; the message names it.

    Example:
        >>> import torch
        >>> BlurPool2d(8)(torch.randn(2, 8, 15, 14)).shape
        torch.Size([2, 8, 8, 7])
    """

    def __init__(
        self,
        channels: int,
        stride: int | tuple[int, int] = 2,
        *,
        per: str = "channel",
        gaussian: str = "discrete",
        border: str = "symmetric",
        truncate: float | None = None,
        max_radius: int = 15,
        isotropic: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.channels = as_channels(channels)
        self.stride = check_pair("stride", stride, 1)
        self._add_blur(
            self.channels, per, gaussian, border, truncate, max_radius, isotropic, device, dtype
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.r, START)

    @property
    def decimation(self) -> tuple[int, int]:
        return self.stride

    def forward(self, z: Tensor) -> Tensor:
        check_channels(z, self.channels, self.dims)
        return gaussian_blur(z, self._widened(self.r), **self._options())

    def extra_repr(self) -> str:
        return f"{self.channels}, stride={self.stride}, {self._options_repr()}"


class MaxBlurPool2d(BlurPool2d):
    """``nn.MaxPool2d`` whose stride comes after a blur: the maximum around every pixel, then
    ``BlurPool2d``.

    In the place of ``nn.MaxPool2d`` with the same kernel size, stride and padding, the results have
    the same shape.

    Args:
        channels: C of the maps.
        kernel_size: of the maximum, in pixels: an int, or a pair for rows and columns.
        stride: as for ``BlurPool2d``.
        padding: of the maximum, at most half of ``kernel_size``; an int or a pair.
        options: as for ``BlurPool2d``.

    Shape:
        ``(N, C, H, W)`` or ``(C, H, W)``, to ⌈(H + 2 padding − kernel_size + 1) / stride⌉ rows, and
        columns likewise.

    Raises:
        ValueError, TypeError: an argument that means nothing; the message names it.

    Example:
        >>> import torch
        >>> z = torch.randn(2, 8, 14, 14)
        >>> MaxBlurPool2d(8, 3, stride=2, padding=1)(z).shape, nn.MaxPool2d(3, 2, 1)(z).shape
        (torch.Size([2, 8, 7, 7]), torch.Size([2, 8, 7, 7]))
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 2,
        padding: int | tuple[int, int] = 1,
        **options: Any,
    ) -> None:
        super().__init__(channels, stride, **options)
        self.kernel_size = check_pair("kernel_size", kernel_size, 1)
        self.padding = check_pair("padding", padding, 0)
        for size, pad in zip(self.kernel_size, self.padding, strict=True):
            if 2 * pad > size:
                raise ValueError(
                    f"padding must be at most half of kernel_size={kernel_size}, got {padding}"
                )

    def blurred_size(self, x: Tensor) -> tuple[int, int]:
        rows, columns = (
            size + 2 * pad - width + 1
            for size, pad, width in zip(x.shape[-2:], self.padding, self.kernel_size, strict=True)
        )
        return rows, columns

    def forward(self, z: Tensor) -> Tensor:
        check_channels(z, self.channels, self.dims)
        return super().forward(F.max_pool2d(z, self.kernel_size, 1, self.padding))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, kernel_size={self.kernel_size}, padding={self.padding}"
