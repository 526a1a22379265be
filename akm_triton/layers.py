"""``AKMConv1d``, ``2d`` and ``3d``, and ``Modulation1d``, ``2d`` and ``3d``: blur and gate in a
convolution, or after any layer."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from akm_triton.blurred import DIMENSIONS, Gated, as_channels, check_channels, check_decimate


class Modulation(Gated):
    """``Modulation2d`` of any dimensions."""

    def __init__(
        self,
        channels: int,
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
        self._add_modulation(
            self.channels, per, gaussian, border, truncate, max_radius, isotropic, device, dtype
        )

    def reset_parameters(self) -> None:
        self.reset_modulation()

    def forward(self, z: Tensor) -> Tensor:
        check_channels(z, self.channels, self.dims)
        return self.modulate(z)

    def extra_repr(self) -> str:
        return f"{self.channels}, {self._options_repr()}"


class Modulation2d(Modulation):
    r"""Adaptive kernel modulation after any layer: ``sigmoid(s) · (G(|r|) ∗ z)``.

    Put it after the norm: conv → norm → ``Modulation2d`` → activation. A BatchNorm directly behind
    it divides the gate out again, so that the gate does not learn; the blur does.

    Args:
        channels: C of the maps.
        per: ``"channel"``, an r and s for each channel, ``(C,)``; or ``"layer"``, one of each,
            ``(1,)``.
        gaussian, border, truncate, max_radius: as for ``modulate``.
        isotropic: ``False`` learns a σ for each axis: r is ``(C, 2)`` or ``(1, 2)``, of rows and of
            columns.

    Shape:
        ``(N, C, H, W)`` or ``(C, H, W)``, in and out.

    Attributes:
        r: in pixels; starts at 0.3 (0.5 for ``gaussian="sampled"``), which is close to no blur and
            still has a gradient. At r = 0 the gradient by r is zero.
        s: starts at 2, where the gate is 0.88 and has a gradient.

    Example:
        >>> import torch
        >>> layer = Modulation2d(8)
        >>> layer(torch.randn(2, 8, 14, 14)).shape
        torch.Size([2, 8, 14, 14])
    """


class Modulation1d(Modulation):
    """``Modulation2d`` for signals, ``(N, C, L)`` or ``(C, L)``, with the same arguments but
    ``isotropic``. σ counts samples of the signal.

    The blur looks as far ahead as back. Where the future must stay unseen, in a forecast, shift the
    signal by ``max_radius``: pad that many values in front and cut as many off at the end.

    Example:
        >>> import torch
        >>> Modulation1d(8)(torch.randn(2, 8, 100)).shape
        torch.Size([2, 8, 100])
    """

    dims = 1


class Modulation3d(Modulation):
    """``Modulation2d`` for volumes, ``(N, C, D, H, W)`` or ``(C, D, H, W)``: the same arguments.
    With ``isotropic=False`` r is ``(C, 3)``, of depth, rows and columns.

    Example:
        >>> import torch
        >>> layer = Modulation3d(4, isotropic=False)
        >>> layer(torch.randn(2, 4, 5, 14, 14)).shape, layer.sigma.shape
        (torch.Size([2, 4, 5, 14, 14]), torch.Size([4, 3]))
    """

    dims = 3


class WithWeight(Gated):
    """What convolutions share, transposed or not: this stands before ``nn.Conv2d`` and its kin."""

    out_channels: Any
    weight: Any

    def reset_parameters(self) -> None:
        super().reset_parameters()  # type: ignore[misc]
        if hasattr(self, "r"):  # nn.Conv2d resets before r and s are there
            self.reset_modulation()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name in ("weight", "bias"):  # the names of the paper's code
            if prefix + "conv." + name in state_dict:
                state_dict[prefix + name] = state_dict.pop(prefix + "conv." + name)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class Convolution(WithWeight):
    """``AKMConv2d`` of any dimensions."""

    stride: tuple[int, ...]
    padding: Any
    dilation: tuple[int, ...]
    kernel_size: tuple[int, ...]
    padding_mode: Any
    groups: int
    _reversed_padding_repeated_twice: list[int]
    decimate: str = "after"  # of layers that were saved before there was a choice

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: str | int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
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
        decimate: str = "after",
    ) -> None:
        check_decimate(decimate)
        super().__init__(  # of nn.Conv1d, nn.Conv2d or nn.Conv3d
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip
        self._add_modulation(
            out_channels, per, gaussian, border, truncate, max_radius, isotropic, device, dtype
        )
        self.decimate = decimate

    def _remove_modulation(self) -> None:
        super()._remove_modulation()
        self.__dict__.pop("decimate", None)

    @property
    def decimation(self) -> tuple[int, ...]:
        return self.stride if self.decimate == "before" else (1,) * self.dims

    def blurred_size(self, x: Tensor) -> tuple[int, ...]:
        edges = self._reversed_padding_repeated_twice[::-1]  # both ends of each axis
        stride = (1,) * self.dims if self.decimate == "before" else self.stride
        return tuple(
            (size + sum(edges[2 * i : 2 * i + 2]) - dilation * (width - 1) - 1) // step + 1
            for i, (size, dilation, width, step) in enumerate(
                zip(x.shape[-self.dims :], self.dilation, self.kernel_size, stride, strict=True)
            )
        )

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What ``nn.Conv2d`` calls; here at every pixel, if the stride comes after the blur."""
        if max(self.decimation) == 1:
            y: Tensor = super()._conv_forward(input, weight, bias)  # type: ignore[misc]
            return y
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            edges = self._reversed_padding_repeated_twice
            input, padding = F.pad(input, edges, mode=self.padding_mode), 0
        convolve = DIMENSIONS[self.dims].convolve
        return convolve(input, weight, bias, 1, padding, self.dilation, self.groups)

    def forward(self, input: Tensor) -> Tensor:
        return self.modulate(super().forward(input))

    def extra_repr(self) -> str:
        text = f"{super().extra_repr()}, {self._options_repr()}"
        return text if self.decimate == "after" else f"{text}, decimate={self.decimate!r}"


class AKMConv2d(Convolution, nn.Conv2d):
    r"""``nn.Conv2d`` that learns how far it looks and how loudly it speaks.

    .. math:: y_{nc} = \mathrm{sigmoid}(s_c) \, (G(|r_c|) * \mathrm{conv}(x)_{nc})

    A drop-in for ``nn.Conv2d``: the same arguments, and the keywords of ``modulate``. Directly
    before a BatchNorm the gate does nothing, because the norm divides it out again. There, use
    ``nn.Conv2d``, then the norm, then ``Modulation2d``; and also for tools that know ``nn.Conv2d``
    and rewrite it, such as ``fuse_conv_bn_eval``, ``to_mkldnn`` or LoRA: to them an ``AKMConv2d``
    is one, and blur and gate are lost or applied to a part of the output, without a word.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype: as for ``nn.Conv2d``.
        per, gaussian, border, truncate, max_radius, isotropic: as for ``Modulation2d``.
        decimate: what happens first at a stride. ``"after"``: the convolution takes it, and the
            blur comes after; σ counts pixels of the layer's output. ``"before"``: the convolution
            is computed at every pixel, blurred, and every stride-th row and column is kept; σ
            counts pixels before the stride. That aliases less, and the convolution costs as much as
            one without a stride. Without a stride both are the same.

    Shape:
        As ``nn.Conv2d``.

    Raises:
        ValueError, TypeError: as ``nn.Conv2d`` and ``modulate``; an unknown ``per`` or
            ``decimate``.

    State dict: ``weight``, ``bias``, ``r``, ``s``. A checkpoint of ``nn.Conv2d`` loads with
    ``strict=False``; the paper's keys ``conv.weight``, ``conv.bias`` and an ``r``, ``s`` of one
    element load too.

    Example:
        >>> import torch
        >>> layer = AKMConv2d(3, 8, 3, padding=1)
        >>> layer(torch.randn(2, 3, 14, 14)).shape
        torch.Size([2, 8, 14, 14])
        >>> layer.sigma.shape
        torch.Size([8])
        >>> AKMConv2d(3, 8, 3, stride=2, decimate="before")(torch.randn(2, 3, 15, 15)).shape
        torch.Size([2, 8, 7, 7])
    """


class AKMConv1d(Convolution, nn.Conv1d):
    """``nn.Conv1d`` with blur and gate; as ``AKMConv2d``, and for time series as ``Modulation1d``.

    Example:
        >>> import torch
        >>> AKMConv1d(3, 8, 3, padding=1)(torch.randn(2, 3, 100)).shape
        torch.Size([2, 8, 100])
    """

    dims = 1


class AKMConv3d(Convolution, nn.Conv3d):
    """``nn.Conv3d`` with blur and gate; as ``AKMConv2d``.

    Example:
        >>> import torch
        >>> AKMConv3d(1, 4, 3, padding=1, isotropic=False)(torch.randn(2, 1, 8, 9, 10)).shape
        torch.Size([2, 4, 8, 9, 10])
    """

    dims = 3
