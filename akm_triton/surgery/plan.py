"""Which layers of a network ``convert`` gives modulation, and why not the others."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from akm_triton.layers import Modulation
from akm_triton.surgery.match import Selector, selects
from akm_triton.surgery.order import BATCH_NORMS, JOINING, Order, order
from akm_triton.surgery.places import (
    CONVERTED,
    CONVOLUTIONS,
    DIVIDERS,
    NORMS,
    OF_SIGNALS,
    Modulated,
    channels_of,
    check_whole,
    dims_of,
    names,
    places,
    slot,
)

DONE = "has modulation already"
UNKNOWN = "nothing tells whether it is of signals, maps or volumes"
FORWARDS = {norm.forward for norm in NORMS}


@dataclass
class Plan:
    layers: list[nn.Module] = field(default_factory=list)
    """The convolutions and norms that get modulation."""
    dims: dict[nn.Module, int] = field(default_factory=dict)
    """Of each of these, how many axes are blurred."""
    placed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    futile: list[str] = field(default_factory=list)
    """Those whose gate will be divided out."""
    strided: list[str] = field(default_factory=list)
    """Convolutions with a stride whose modulation goes after their norm."""


def make_plan(
    model: nn.Module,
    match: list[Selector] | None,
    exclude: list[Selector],
    where: str,
    min_channels: int,
    exact: bool,
) -> Plan:
    """Look at everything, change nothing. Raises where nothing is to be done, or cannot be."""
    for module in model.modules():
        if isinstance(module, nn.parallel.DistributedDataParallel):
            raise ValueError("model is wrapped by DDP, which would not see r and s; convert first")
    named = names(model)
    check_whole(named)
    kind = "norm" if where == "norm" else "convolution"
    seen = order(model)
    before = _convolved(seen)
    layers: list[Any]
    if where == "norm":
        layers = [x for x in named if isinstance(x, NORMS)]
        layers = [x for x in layers if not isinstance(x, OF_SIGNALS) or x in before]
    else:
        layers = [x for x in named if isinstance(x, CONVOLUTIONS)]
    if not layers:
        raise ValueError(f"the model has no {kind} of maps")
    for item in match or []:
        if not any(selects(item, named[layer], layer) for layer in layers):
            raise ValueError(f"match={item!r} selects no {kind} of the model")

    dims_of_all = {dims_of(x) for x in named if isinstance(x, CONVOLUTIONS)} or {2}
    modulated = {place.affine for place in places(model)}
    uses = Counter(_memory(x) for y in named for x in y._parameters.values() if x is not None)
    plan, refused = Plan(), {}
    for layer in layers:
        name = named[layer][0]
        if match is not None and not any(selects(item, named[layer], layer) for item in match):
            continue
        behind = {} if kind == "norm" else dict.fromkeys(seen.followers.get(layer, ()))
        nexts = [x.layer if isinstance(x, Modulated) else x for x in behind]
        norms = [x for x in nexts if isinstance(x, DIVIDERS)]
        after = where == "auto" and 0 < len(norms) == len(nexts)
        targets = norms if after else [layer]
        last = [x for target in targets for x in seen.followers.get(target, ())]

        dims = dims_of(layer) or before.get(layer)
        if dims is None and len(dims_of_all) == 1:
            (dims,) = dims_of_all
        channels = layer.in_channels if isinstance(layer, CONVOLUTIONS) else channels_of(layer)
        if any(selects(item, named[layer], layer) for item in exclude):
            reason: str | None = "excluded"
        elif shapeless := [x for x in (layer, *nexts) if x in named and _is_lazy(x)]:
            reason = f"the shape of {named[shapeless[0]][0]} is not known; run the model once first"
        elif channels < min_channels:
            reason = f"{channels} channels, fewer than min_channels={min_channels}"
        elif layer in seen.pooled:
            reason = "its maps have one pixel, where a blur does nothing"
        elif modulated & {layer, *norms} or any(isinstance(x, Modulation) for x in last):
            reason = DONE
        else:
            reason = next(filter(None, (_why_not(target, model) for target in targets)), None)
        if reason is not None or dims is None:
            plan.skipped[name] = reason or UNKNOWN
            continue

        for target in targets:
            if exact and (reason := _why_not_exact(target, uses, seen.read)):
                refused[name] = f"{reason} of {named[target][0]}"
            if target not in plan.layers:
                plan.layers.append(target)
                plan.dims[target] = dims
        plan.placed[name] = " and ".join(named[target][0] for target in targets)
        if after and max(layer.stride) > 1 and not layer.transposed:
            plan.strided.append(name)
        dividers = [x for x in nexts if x in norms or x in BATCH_NORMS]
        if dividers and not after and all(x in dividers or x in JOINING for x in nexts):
            plan.futile.append(name)
    if refused:
        raise ValueError(
            f"exact=True cannot divide the gate out of {_listed(refused)}; exclude these layers, "
            "or pass exact=False"
        )
    if not plan.layers and DONE not in plan.skipped.values():
        raise ValueError(f"nothing to convert: {_listed(plan.skipped)}")
    return plan


def _convolved(seen: Order) -> dict[Any, int | None]:
    """The dimensions of what follows a convolution."""
    return {
        x.layer if isinstance(x, Modulated) else x: dims_of(layer)
        for layer, nexts in seen.followers.items() if isinstance(layer, CONVOLUTIONS)
        for x in nexts
    }  # fmt: skip


def _listed(reasons: dict[str, str]) -> str:
    return ", ".join(f"{name or 'the model'} ({reason})" for name, reason in reasons.items())


def _why_not(layer: nn.Module, model: nn.Module) -> str | None:
    """Why it cannot be given modulation."""
    if parametrize.is_parametrized(layer):
        return "parametrized"
    if isinstance(layer, CONVOLUTIONS) and type(layer) not in CONVERTED:
        return f"a class of its own, {type(layer).__name__}"
    if isinstance(layer, NORMS) and slot(layer) is layer:
        if layer is model:
            return "it is the model itself, which nothing can take the place of"
        if type(layer).forward not in FORWARDS:  # an activation may be in it
            return f"its norm is a class of its own, {type(layer).__name__}"
    for name in ("weight", "bias"):
        if name not in layer._parameters:
            return f"its {name} is computed: pruned or normalised"
        x = layer._parameters[name]
        if x is None:
            continue
        if type(x) is not nn.Parameter:
            return f"its {name} is a {type(x).__name__}"
        if not x.is_floating_point() or x.element_size() < 2:
            return f"its {name} is {x.dtype}"
        if x.is_inference():
            return f"its {name} was made in inference mode"
    return None


def _why_not_exact(layer: nn.Module, uses: Counter[int], read: set[nn.Module]) -> str | None:
    if layer._parameters["weight"] is None:
        return "there is no weight"
    if layer in read:
        return "the model's forward uses a parameter"
    for name in ("weight", "bias"):
        x = layer._parameters[name]
        if x is not None and uses[_memory(x)] > 1:
            return f"another layer shares the {name}"
    return None


def _is_lazy(layer: nn.Module) -> bool:
    """Such as a LazyBatchNorm2d, which becomes a BatchNorm2d when it is called."""
    return isinstance(layer, LazyModuleMixin) and layer.has_uninitialized_params()


def _memory(x: torch.Tensor) -> int:
    """The same for two parameters of the same numbers."""
    plain = type(x) is nn.Parameter and x.layout == torch.strided
    return (plain and x.data_ptr()) or id(x)
