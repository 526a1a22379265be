"""``LazyAKMConv2d`` and its kin: convolutions with blur and gate that learn ``in_channels`` from
their first input."""

from __future__ import annotations

from typing import Any

from torch import nn

from akm_triton.blurred import check_decimate
from akm_triton.layers import AKMConv1d, AKMConv2d, AKMConv3d, Convolution, WithWeight
from akm_triton.transposed import AKMConvTranspose1d, AKMConvTranspose2d, AKMConvTranspose3d


class _Lazy(WithWeight):
    """Before a lazy class of PyTorch and the class that it becomes."""

    def __init__(
        self,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        *args: Any,
        per: str = "channel",
        gaussian: str = "discrete",
        border: str = "symmetric",
        truncate: float | None = None,
        max_radius: int = 15,
        isotropic: bool = True,
        **others: Any,
    ) -> None:
        decimate = others.pop("decimate", "after") if isinstance(self, Convolution) else None
        if decimate is not None:
            check_decimate(decimate)
        super().__init__(out_channels, kernel_size, *args, **others)
        weight: Any = self.weight
        self._add_modulation(
            out_channels, per, gaussian, border, truncate, max_radius, isotropic,
            weight.device, weight.dtype,
        )  # fmt: skip
        if decimate is not None:
            self.decimate = decimate

    def reset_parameters(self) -> None:
        """Those of the convolution, with the first input: r and s are there before."""
        me: Any = self
        if not me.has_uninitialized_params() and me.in_channels != 0:
            super(WithWeight, self).reset_parameters()  # type: ignore[misc]


class LazyAKMConv2d(_Lazy, nn.LazyConv2d, AKMConv2d):  # type: ignore[misc]
    """``AKMConv2d`` without ``in_channels``, which its first input tells; then it is an
    ``AKMConv2d``. As ``nn.LazyConv2d``, with the keywords of ``AKMConv2d``.

    r and s are there from the start; an optimizer must wait for the weight.

    Example:
        >>> import torch
        >>> layer = LazyAKMConv2d(8, 3, padding=1)
        >>> layer(torch.randn(2, 3, 14, 14)).shape, type(layer).__name__
        (torch.Size([2, 8, 14, 14]), 'AKMConv2d')
    """

    cls_to_become = AKMConv2d


class LazyAKMConv1d(_Lazy, nn.LazyConv1d, AKMConv1d):  # type: ignore[misc]
    """``AKMConv1d`` as ``LazyAKMConv2d``.

    Example:
        >>> import torch
        >>> LazyAKMConv1d(8, 3, padding=1)(torch.randn(2, 3, 50)).shape
        torch.Size([2, 8, 50])
    """

    cls_to_become = AKMConv1d


class LazyAKMConv3d(_Lazy, nn.LazyConv3d, AKMConv3d):  # type: ignore[misc]
    """``AKMConv3d`` as ``LazyAKMConv2d``.

    Example:
        >>> import torch
        >>> LazyAKMConv3d(8, 3, padding=1)(torch.randn(2, 3, 5, 6, 7)).shape
        torch.Size([2, 8, 5, 6, 7])
    """

    cls_to_become = AKMConv3d


class LazyAKMConvTranspose1d(_Lazy, nn.LazyConvTranspose1d, AKMConvTranspose1d):  # type: ignore[misc]
    """``AKMConvTranspose1d`` as ``LazyAKMConv2d``.

    Example:
        >>> import torch
        >>> LazyAKMConvTranspose1d(8, 4, stride=2)(torch.randn(2, 3, 50)).shape
        torch.Size([2, 8, 102])
    """

    cls_to_become = AKMConvTranspose1d


class LazyAKMConvTranspose2d(_Lazy, nn.LazyConvTranspose2d, AKMConvTranspose2d):  # type: ignore[misc]
    """``AKMConvTranspose2d`` as ``LazyAKMConv2d``.

    Example:
        >>> import torch
        >>> LazyAKMConvTranspose2d(8, 4, stride=2)(torch.randn(2, 3, 7, 7)).shape
        torch.Size([2, 8, 16, 16])
    """

    cls_to_become = AKMConvTranspose2d


class LazyAKMConvTranspose3d(_Lazy, nn.LazyConvTranspose3d, AKMConvTranspose3d):  # type: ignore[misc]
    """``AKMConvTranspose3d`` as ``LazyAKMConv2d``.

    Example:
        >>> import torch
        >>> LazyAKMConvTranspose3d(8, 2, stride=2)(torch.randn(2, 3, 4, 5, 6)).shape
        torch.Size([2, 8, 8, 10, 12])
    """

    cls_to_become = AKMConvTranspose3d
