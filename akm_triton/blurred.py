"""What all layers with a learned σ share, whatever their dimensions: parameters and options around
``modulate``."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from akm_triton.arguments import SHAPES, check_options
from akm_triton.functional import modulate
from akm_triton.tracing import sizes

PAPER: dict[str, Any] = dict(per="layer", gaussian="sampled", border="zeros", truncate=3.0)
"""Keywords of the layers that give the formula AKM was first written with: one σ per layer, the
sampled Gaussian cut at 3σ, zeros outside the map."""

GRANULARITIES = ("channel", "layer")
OPTIONS = ("per", "gaussian", "border", "truncate", "max_radius", "isotropic")
DECIMATIONS = ("after", "before")


class Dimensions(NamedTuple):
    """What signals, maps and volumes differ in."""

    axes: int | tuple[int, ...] | None
    """As ``modulate`` takes them."""
    convolve: Callable[..., Tensor]


DIMENSIONS = {
    1: Dimensions(-1, F.conv1d),
    2: Dimensions(None, F.conv2d),
    3: Dimensions((-3, -2, -1), F.conv3d),
}


class Blurred(nn.Module):
    """What all layers share: the parameter r, and the options of the blur."""

    dims: int = 2
    """How many axes there are behind the channels."""
    isotropic: bool = True  # of layers that were saved before there was a choice
    r: nn.Parameter
    learned: tuple[str, ...] = ("r",)
    """The names of the parameters beside those of a convolution."""

    def _add_blur(
        self, channels: int, per: str, gaussian: str, border: str,
        truncate: float | None, max_radius: int, isotropic: bool, device: Any, dtype: Any,
    ) -> None:  # fmt: skip
        """The parameters without their values, and the options."""
        if per not in GRANULARITIES:
            raise ValueError(f"per must be one of {GRANULARITIES}, got {per!r}")
        if not isinstance(isotropic, bool):
            raise TypeError(f"isotropic must be a bool, got {isotropic!r}")
        if not isotropic and self.dims == 1:
            raise ValueError("isotropic=False is for maps and volumes; a signal has one axis")
        self.truncate, self.max_radius = check_options(gaussian, border, truncate, max_radius)
        self.per, self.gaussian, self.border = per, gaussian, border
        self.isotropic = isotropic
        count = channels if per == "channel" else 1
        for name in self.learned:
            shape = (count,) if isotropic or name != "r" else (count, self.dims)
            setattr(self, name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))

    @property
    def sigma(self) -> Tensor:
        """σ = |r| in pixels, shaped as r."""
        return self.r.abs()

    @property
    def decimation(self) -> tuple[int, ...]:
        """The stride of the blur: of the map that is blurred, which rows and columns are kept."""
        return (1,) * self.dims

    def blurred_size(self, x: Tensor) -> tuple[int, ...]:
        """Rows and columns of the map that is blurred, where x is the layer's input."""
        return tuple(x.shape[-self.dims :])

    def _widened(self, r: Tensor) -> Tensor | tuple[Tensor, ...]:
        """r, or with a SigmaSchedule the σ of variance r² + τ², or one for each axis. Where that is
        0, σ is a millionth of a pixel, and its derivative 0 as for r = 0: that of the root is
        infinite."""
        added = self._buffers.get("added_variance")
        if added is not None:
            r = r.to(torch.promote_types(r.dtype, torch.float32))
            r = (r * r + added).clamp(min=1e-12).sqrt()
        return r if self.isotropic else tuple(r[..., axis] for axis in range(self.dims))

    def _options(self) -> dict[str, Any]:
        """Of the function that blurs."""
        return dict(
            gaussian=self.gaussian, border=self.border, truncate=self.truncate,
            max_radius=self.max_radius, stride=self.decimation,
            axes=DIMENSIONS[self.dims].axes,
        )  # fmt: skip

    def _options_repr(self) -> str:
        text = (
            f"per={self.per!r}, gaussian={self.gaussian!r}, border={self.border!r}, "
            f"truncate={self.truncate}, max_radius={self.max_radius}"
        )
        return text if self.isotropic else f"{text}, isotropic=False"

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
            value, shape = state_dict.get(prefix + name), getattr(self, name).shape
            if value is None:
                continue
            if value.numel() == 1:  # one for the layer serves each channel
                state_dict[prefix + name] = value.reshape(1).expand(shape).clone()
            elif len(shape) == 2 and value.shape in (shape[:1], (1, shape[1])):
                # one for all axes serves each of them, and those of the layer each channel
                each = value[:, None] if value.dim() == 1 else value
                state_dict[prefix + name] = each.expand(shape).clone()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def check_decimate(decimate: Any) -> None:
    if decimate not in DECIMATIONS:
        raise ValueError(f"decimate must be one of {DECIMATIONS}, got {decimate!r}")


class Gated(Blurred):
    """What all layers with a gate share: the parameter s too."""

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


def check_channels(z: Any, channels: int, dims: int) -> None:
    """Raise for what has other dimensions or other channels."""
    if isinstance(z, Tensor):  # a proxy of torch.fx has no sizes yet
        shape = sizes(z)
        if len(shape) not in (dims + 1, dims + 2):
            raise ValueError(f"z must be {SHAPES[dims]}, got shape {tuple(shape)}")
        if shape[-1 - dims] != channels:
            raise ValueError(f"z must have {channels} channels, got shape {tuple(shape)}")


def modulation_names(model: nn.Module) -> list[str]:
    """The names of the parameters that hold the r and s of ``model``, in the model's order. Pools
    have an r only.

    They are found by layer, not by name: a parametrised, pruned or weight-normalised r counts with
    the parameters that it is computed from.

    Example:
        >>> from akm_triton import AKMConv2d, Modulation2d
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
