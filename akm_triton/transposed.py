"""``AKMConvTranspose1d``, ``2d`` and ``3d``: blur and gate after a convolution that makes maps
larger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from akm_triton.layers import WithWeight


class ConvolutionTranspose(WithWeight):
    """``AKMConvTranspose2d`` of any dimensions."""

    stride: tuple[int, ...]
    padding: Any
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    kernel_size: tuple[int, ...]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] = 0,
        output_padding: int | tuple[int, ...] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int, ...] = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        per: str = "channel",
        gaussian: str = "discrete",
        border: str = "symmetric",
        truncate: float | None = None,
        max_radius: int = 15,
        isotropic: bool = True,
    ) -> None:
        super().__init__(  # of nn.ConvTranspose1d and its kin
            in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias,
            dilation, padding_mode, device, dtype,
        )  # fmt: skip
        self._add_modulation(
            out_channels, per, gaussian, border, truncate, max_radius, isotropic, device, dtype
        )

    def blurred_size(self, x: Tensor) -> tuple[int, ...]:
        options = zip(
            x.shape[-self.dims :], self.stride, self.padding, self.dilation, self.kernel_size,
            self.output_padding, strict=True,
        )  # fmt: skip
        return tuple(
            (size - 1) * stride - 2 * padding + dilation * (width - 1) + more + 1
            for size, stride, padding, dilation, width, more in options
        )

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return self.modulate(super().forward(input, output_size))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self._options_repr()}"


class AKMConvTranspose2d(ConvolutionTranspose, nn.ConvTranspose2d):
    r"""``nn.ConvTranspose2d`` with blur and gate.

    .. math:: y_{nc} = \mathrm{sigmoid}(s_c) \, (G(|r_c|) * \mathrm{convT}(x)_{nc})

    σ counts pixels of the larger map. A σ of about half the stride smooths the checkerboard that a
    transposed convolution leaves.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias,
            dilation, padding_mode, device, dtype: as for ``nn.ConvTranspose2d``.
        per, gaussian, border, truncate, max_radius, isotropic: as for ``Modulation2d``.

    Shape, Raises, State dict: as ``nn.ConvTranspose2d``, and as ``AKMConv2d``.

    Example:
        >>> import torch
        >>> AKMConvTranspose2d(3, 8, 4, stride=2, padding=1)(torch.randn(2, 3, 7, 7)).shape
        torch.Size([2, 8, 14, 14])
    """

    dims = 2


class AKMConvTranspose1d(ConvolutionTranspose, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` with blur and gate; as ``AKMConvTranspose2d``.

    Example:
        >>> import torch
        >>> AKMConvTranspose1d(3, 8, 4, stride=2, padding=1)(torch.randn(2, 3, 50)).shape
        torch.Size([2, 8, 100])
    """

    dims = 1


class AKMConvTranspose3d(ConvolutionTranspose, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` with blur and gate; as ``AKMConvTranspose2d``.

    Example:
        >>> import torch
        >>> AKMConvTranspose3d(3, 4, 2, stride=2)(torch.randn(2, 3, 4, 5, 6)).shape
        torch.Size([2, 4, 8, 10, 12])
    """

    dims = 3
