"""``AKMConv2d`` and ``Modulation2d``: parameters and options around ``modulate``; and ``Blurred``,
what all layers with a learned σ share."""

from __future__ import annotations

import numbers
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from akm_triton.functional import check_options, modulate
from akm_triton.tracing import sizes

PAPER: dict[str, Any] = dict(per="layer", gaussian="sampled", border="zeros", truncate=3.0)
"""Keywords of the layers that give the formula AKM was first written with: one σ per layer, the
sampled Gaussian cut at 3σ, zeros outside the map."""

GRANULARITIES = ("channel", "layer")
OPTIONS = ("per", "gaussian", "border", "truncate", "max_radius")
DECIMATIONS = ("after", "before")


class Blurred(nn.Module):
    """What all layers share: the parameter r, and the options of the blur."""

    r: nn.Parameter
    learned: tuple[str, ...] = ("r",)
    """The names of the parameters beside those of a convolution."""

    def _add_blur(
        self, channels: int, per: str, gaussian: str, border: str,
        truncate: float | None, max_radius: int, device: Any, dtype: Any,
    ) -> None:  # fmt: skip
        """The parameters without their values, and the options."""
        if per not in GRANULARITIES:
            raise ValueError(f"per must be one of {GRANULARITIES}, got {per!r}")
        self.truncate, self.max_radius = check_options(gaussian, border, truncate, max_radius)
        self.per, self.gaussian, self.border = per, gaussian, border
        count = channels if per == "channel" else 1
        for name in self.learned:
            setattr(self, name, nn.Parameter(torch.empty(count, device=device, dtype=dtype)))

    @property
    def sigma(self) -> Tensor:
        """σ = |r| in pixels."""
        return self.r.abs()

    @property
    def decimation(self) -> tuple[int, int]:
        """The stride of the blur: of the map that is blurred, which rows and columns are kept."""
        return 1, 1

    def blurred_size(self, x: Tensor) -> tuple[int, int]:
        """Rows and columns of the map that is blurred, where x is the layer's input."""
        return x.shape[-2], x.shape[-1]

    def _widened(self, r: Tensor) -> Tensor:
        """r, or with a SigmaSchedule the σ of variance r² + τ². Where that is 0, σ is a millionth
        of a pixel, and its derivative 0 as for r = 0: that of the root is infinite."""
        added = self._buffers.get("added_variance")
        if added is None:
            return r
        r = r.to(torch.promote_types(r.dtype, torch.float32))
        return (r * r + added).clamp(min=1e-12).sqrt()

    def _options(self) -> dict[str, Any]:
        """Of the function that blurs."""
        return dict(
            gaussian=self.gaussian, border=self.border, truncate=self.truncate,
            max_radius=self.max_radius, stride=self.decimation,
        )  # fmt: skip

    def _options_repr(self) -> str:
        return (
            f"per={self.per!r}, gaussian={self.gaussian!r}, border={self.border!r}, "
            f"truncate={self.truncate}, max_radius={self.max_radius}"
        )

    def __prepare_scriptable__(self) -> NoReturn:
        """What ``torch.jit.script`` calls first."""
        raise NotImplementedError(
            f"torch.jit.script cannot compile {type(self).__name__}: use torch.jit.trace, or "
            "torch.export and AOTInductor for a program that runs without Python"
        )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name in self.learned:
            value = state_dict.get(prefix + name)
            if value is not None and value.numel() == 1:  # one for the layer serves each channel
                shape = getattr(self, name).shape
                state_dict[prefix + name] = value.reshape(1).expand(shape).clone()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def check_decimate(decimate: Any) -> None:
    if decimate not in DECIMATIONS:
        raise ValueError(f"decimate must be one of {DECIMATIONS}, got {decimate!r}")


class _Modulated(Blurred):
    """What both layers with a gate share: the parameter s too."""

    s: nn.Parameter
    learned = ("r", "s")

    def _add_modulation(self, *args: Any, **options: Any) -> None:
        """As ``_add_blur``, and the values."""
        self._add_blur(*args, **options)
        self.reset_modulation()

    def _remove_modulation(self) -> None:
        """Undo ``_add_modulation``, whole or begun."""
        for name in self.learned:
            self._parameters.pop(name, None)
        for name in OPTIONS:
            self.__dict__.pop(name, None)

    def reset_modulation(self) -> None:
        """r = 0.3 px (0.5 for the sampled family, whose gradient dies below), s = 2."""
        nn.init.constant_(self.r, 0.3 if self.gaussian == "discrete" else 0.5)
        nn.init.constant_(self.s, 2.0)

    def modulate(self, z: Tensor) -> Tensor:
        """Blur and gate ``z`` with this layer's r and s."""
        return self.modulate_by(z, self.r, self.s)

    def modulate_by(self, z: Tensor, r: Tensor, s: Tensor) -> Tensor:
        """Blur and gate ``z`` with other r and s, and this layer's options."""
        return modulate(z, self._widened(r), s, **self._options())

    @property
    def gate(self) -> Tensor:
        """sigmoid(s)."""
        return torch.sigmoid(self.s)


def as_channels(channels: Any) -> int:
    """Raise for what is no number of channels."""
    if isinstance(channels, bool) or not isinstance(channels, numbers.Integral):
        raise TypeError(f"channels must be an int, got {channels!r}")
    if channels < 1:
        raise ValueError(f"channels must be at least 1, got {channels}")
    return int(channels)


def check_channels(z: Any, channels: int) -> None:
    """Raise for a map of other channels."""
    if isinstance(z, Tensor):  # a proxy of torch.fx has no sizes yet
        shape = sizes(z)
        if len(shape) in (3, 4) and shape[-3] != channels:
            raise ValueError(f"z must have {channels} channels, got shape {tuple(shape)}")


class Modulation2d(_Modulated):
    r"""Adaptive kernel modulation after any layer: ``sigmoid(s) · (G(|r|) ∗ z)``.

    Put it after the norm: conv → norm → ``Modulation2d`` → activation. A BatchNorm directly behind
    it divides the gate out again, so that the gate does not learn; the blur does.

    Args:
        channels: C of the maps.
        per: ``"channel"``, an r and s for each channel, ``(C,)``; or ``"layer"``, one of each,
            ``(1,)``.
        gaussian, border, truncate, max_radius: as for ``modulate``.

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

    def __init__(
        self,
        channels: int,
        *,
        per: str = "channel",
        gaussian: str = "discrete",
        border: str = "symmetric",
        truncate: float | None = None,
        max_radius: int = 15,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.channels = as_channels(channels)
        self._add_modulation(
            self.channels, per, gaussian, border, truncate, max_radius, device, dtype
        )

    def reset_parameters(self) -> None:
        self.reset_modulation()

    def forward(self, z: Tensor) -> Tensor:
        check_channels(z, self.channels)
        return self.modulate(z)

    def extra_repr(self) -> str:
        return f"{self.channels}, {self._options_repr()}"


class AKMConv2d(_Modulated, nn.Conv2d):
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
        per, gaussian, border, truncate, max_radius: as for ``Modulation2d``.
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

    decimate: str = "after"  # of layers that were saved before there was a choice

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
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
        decimate: str = "after",
    ) -> None:
        check_decimate(decimate)
        nn.Conv2d.__init__(
            self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode,  # type: ignore[arg-type]  # checked there
            device, dtype,
        )  # fmt: skip
        self._add_modulation(
            out_channels, per, gaussian, border, truncate, max_radius, device, dtype
        )
        self.decimate = decimate

    def _remove_modulation(self) -> None:
        super()._remove_modulation()
        self.__dict__.pop("decimate", None)

    def reset_parameters(self) -> None:
        nn.Conv2d.reset_parameters(self)
        if hasattr(self, "r"):  # nn.Conv2d resets before r and s are there
            self.reset_modulation()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name in ("weight", "bias"):  # the names of the paper's code
            if prefix + "conv." + name in state_dict:
                state_dict[prefix + name] = state_dict.pop(prefix + "conv." + name)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @property
    def decimation(self) -> tuple[int, int]:
        return self.stride if self.decimate == "before" else (1, 1)  # type: ignore[return-value]

    def blurred_size(self, x: Tensor) -> tuple[int, int]:
        left, right, top, bottom = self._reversed_padding_repeated_twice
        stride = (1, 1) if self.decimate == "before" else self.stride
        rows, columns = (
            (size + padding - dilation * (width - 1) - 1) // step + 1
            for size, padding, dilation, width, step in zip(
                x.shape[-2:], (top + bottom, left + right), self.dilation, self.kernel_size, stride,
                strict=True,
            )
        )  # fmt: skip
        return rows, columns

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What ``nn.Conv2d`` calls; here at every pixel, if the stride comes after the blur."""
        if self.decimation == (1, 1):
            return super()._conv_forward(input, weight, bias)
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            edges = self._reversed_padding_repeated_twice
            input, padding = F.pad(input, edges, mode=self.padding_mode), 0
        return F.conv2d(input, weight, bias, 1, padding, self.dilation, self.groups)

    def forward(self, input: Tensor) -> Tensor:
        return self.modulate(nn.Conv2d.forward(self, input))

    def extra_repr(self) -> str:
        text = f"{nn.Conv2d.extra_repr(self)}, {self._options_repr()}"
        return text if self.decimate == "after" else f"{text}, decimate={self.decimate!r}"


def modulation_names(model: nn.Module) -> list[str]:
    """The names of the parameters that hold the r and s of ``model``, in the model's order. Pools
    have an r only.

    They are found by layer, not by name: a parametrised, pruned or weight-normalised r counts with
    the parameters that it is computed from.

    Example:
        >>> modulation_names(nn.Sequential(AKMConv2d(1, 4, 3), nn.ReLU(), Modulation2d(4)))
        ['0.r', '0.s', '2.r', '2.s']
    """
    found: set[nn.Parameter | None] = set()
    for layer in model.modules():
        if isinstance(layer, Blurred):
            parametrizations: Any = getattr(layer, "parametrizations", {})
            for name in layer.learned:
                # torch.nn.utils.prune and its older norms rename what they compute from
                found.update(layer._parameters.get(name + end) for end in ("", "_orig", "_g", "_v"))
                if name in parametrizations:
                    found.update(parametrizations[name].parameters(recurse=False))
    return [name for name, p in model.named_parameters() if p in found]
