"""Where modulation stands in a network: in a convolution, or after a norm."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from akm_triton.layers import (
    AKMConv1d,
    AKMConv2d,
    AKMConv3d,
    Modulation,
    Modulation1d,
    Modulation2d,
    Modulation3d,
    WithWeight,
)
from akm_triton.sharding import is_sharded
from akm_triton.transposed import AKMConvTranspose1d, AKMConvTranspose2d, AKMConvTranspose3d

CONVERTED: dict[type[nn.Module], type[WithWeight]] = {
    nn.Conv1d: AKMConv1d,
    nn.Conv2d: AKMConv2d,
    nn.Conv3d: AKMConv3d,
    nn.ConvTranspose1d: AKMConvTranspose1d,
    nn.ConvTranspose2d: AKMConvTranspose2d,
    nn.ConvTranspose3d: AKMConvTranspose3d,
}
"""What a convolution becomes."""
CONVOLUTIONS: tuple[type[Any], ...] = tuple(CONVERTED)
MODULATIONS: dict[int, type[Modulation]] = {1: Modulation1d, 2: Modulation2d, 3: Modulation3d}
FOLDED = (*CONVERTED.values(), *MODULATIONS.values())

DIVIDERS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip
"""Norms of one channel: a gate before them is divided out."""
NORMS = (*DIVIDERS, nn.GroupNorm)
OF_SIGNALS = (nn.BatchNorm1d, nn.InstanceNorm1d)
"""Or of no pixels at all: only what is before them tells."""
OF_MAPS = (nn.BatchNorm2d, nn.InstanceNorm2d)
OF_VOLUMES = (nn.BatchNorm3d, nn.InstanceNorm3d)


def dims_of(layer: Any) -> int | None:
    """Of a convolution, or of a norm whose class tells."""
    if isinstance(layer, CONVOLUTIONS):
        return len(layer.kernel_size)
    if isinstance(layer, OF_VOLUMES):
        return 3
    return 2 if isinstance(layer, OF_MAPS) else None


class Start(NamedTuple):
    """How ``convert`` left a layer."""

    r: float
    s: float
    exact: bool
    hook: RemovableHandle | None = None
    """Of the loading of plain checkpoints."""

    @property
    def gate(self) -> float:
        """What weight and bias were divided by."""
        return 1 / (1 + math.exp(-self.s)) if self.exact else 1.0


class Modulated(nn.Module):
    """A layer, then modulation. ``convert`` puts it where a norm was."""

    start: Start | None = None

    def __init__(self, layer: nn.Module, modulation: Modulation) -> None:
        super().__init__()
        self.layer = layer
        self.modulation = modulation

    def forward(self, x: Tensor) -> Tensor:
        return self.modulation(self.layer(x))


class Place(NamedTuple):
    """A layer with modulation: a convolution, or a norm with its ``Modulated``."""

    affine: Any
    """The convolution or norm, with the weight and bias that a gate can be moved into; ``None`` if
    nothing is known of what is before."""
    modulation: Any
    """Has r and s: the ``AKMConv2d`` or ``Modulation2d``."""
    holder: Any
    """Keeps the ``Start``: the ``AKMConv2d`` or ``Modulated``."""

    def tensors(self) -> list[Tensor]:
        """Weight and bias, those that are there."""
        return [x for x in (self.affine.weight, self.affine.bias) if x is not None]

    def forget(self) -> None:
        """That ``convert`` made it: it is no longer reverted, and loads no plain checkpoint."""
        start = vars(self.holder).pop("start", None)
        if start is not None:
            start.hook.remove()


def slot(norm: nn.Module) -> nn.Module:
    """What modulation follows: the norm, or, in timm's norms that end with an activation, the
    ``drop`` between the two."""
    drop, act = getattr(norm, "drop", None), getattr(norm, "act", None)
    return drop if isinstance(drop, nn.Module) and isinstance(act, nn.Module) else norm


def channels_of(norm: Any) -> int:
    return int(norm.num_channels if isinstance(norm, nn.GroupNorm) else norm.num_features)


def places(model: nn.Module) -> list[Place]:
    """The convolutions and norms of ``model`` with modulation, each once."""
    found = []
    for module in model.modules():
        if isinstance(module, WithWeight):
            found.append(Place(module, module, module))
        elif isinstance(module, NORMS) and isinstance(slot(module), Modulated):
            found.append(Place(module, slot(module).modulation, slot(module)))
        elif isinstance(module, Modulated) and isinstance(module.layer, NORMS):
            found.append(Place(module.layer, module.modulation, module))
    return found


def check_simple(found: list[Place], named: dict[nn.Module, list[str]]) -> None:
    """Raise where weight, bias, r or s is computed from other parameters, or σ from more than r, or
    a module is sharded."""
    check_whole(named)
    for affine, modulation, _ in found:
        name = named[modulation][0] or "the model"
        computed = [x for x in ("r", "s") if x not in modulation._parameters]
        if affine is not None:
            computed += [x for x in ("weight", "bias") if x not in affine._parameters]
        if computed:
            raise ValueError(
                f"{name}: {' and '.join(computed)} of it is computed; remove parametrizations, "
                "weight norms and pruning first"
            )
        if modulation._buffers:
            raise ValueError(f"{name} has {', '.join(modulation._buffers)}; remove schedules first")


def check_whole(named: dict[nn.Module, list[str]]) -> None:
    """Raise where a module is sharded."""
    for module in filter(is_sharded, named):
        name = named[module][0] or "the model"
        raise ValueError(f"{name} is sharded; convert, fold or revert before that")


def check_module(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a Module, got {type(model).__name__}")


def names(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Every module once, in the model's order, with all its names. A norm has those of the
    ``Modulated`` in its place."""
    found: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        found.setdefault(module, []).append(name)
    found.update({x.layer: found[x] for x in found if isinstance(x, Modulated)})
    return found


def replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` wherever ``old`` is, under all its names, and in the lists, tuples and dicts that
    a forward may call it from. ``model`` itself stays."""
    for parent in list(model.modules()):
        if parent is not new:
            _swap(vars(parent), old, new, set())


def _swap(held: Any, old: nn.Module, new: nn.Module, seen: set[int]) -> Any:
    """What is to be held instead: nothing is written where ``old`` is not. ``seen`` are the lists
    and dicts on the way, for one may hold itself."""
    if held is old:
        return new
    if isinstance(held, (dict, list)):
        if id(held) in seen:
            return held
        seen.add(id(held))
        for key, x in list(held.items() if isinstance(held, dict) else enumerate(held)):
            if (y := _swap(x, old, new, seen)) is not x:
                held[key] = y
    elif type(held) is tuple:
        swapped = tuple(_swap(x, old, new, seen) for x in held)
        return swapped if any(x is not y for x, y in zip(held, swapped, strict=True)) else held
    return held


def take_out(place: Place, model: nn.Module) -> None:
    """Leave a layer without modulation, whether that was placed or only begun."""
    place.forget()
    affine, _, holder = place
    if isinstance(affine, CONVOLUTIONS):
        holder._remove_modulation()
        affine.__class__ = next(x for x in CONVOLUTIONS if isinstance(affine, x))
    elif slot(affine) is holder:
        affine.drop = holder.layer
    else:
        replace(model, holder, holder.layer)
