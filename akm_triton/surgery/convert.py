"""``convert`` puts modulation into a network, ``revert`` takes it out again."""

from __future__ import annotations

import itertools
import math
import numbers
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from akm_triton.blurred import OPTIONS, check_decimate
from akm_triton.layers import Convolution, Modulation2d
from akm_triton.surgery.match import Selector, selectors
from akm_triton.surgery.places import (
    CONVERTED,
    MODULATIONS,
    Modulated,
    Place,
    Start,
    channels_of,
    check_module,
    check_simple,
    names,
    places,
    replace,
    slot,
    take_out,
)
from akm_triton.surgery.plain import accept_plain
from akm_triton.surgery.plan import make_plan

WHERE = ("auto", "conv", "norm")


@dataclass(frozen=True, repr=False)
class Report:
    """What ``convert`` did; its ``repr`` is a table."""

    placed: dict[str, str]
    """Layer → the layer that modulation stands in or after: itself, or the norm that follows."""
    skipped: dict[str, str]
    """Layer → why it was left as it is."""
    parameters: list[nn.Parameter]
    """The new r and s."""
    in_optimizer: bool
    """Whether optimizers were given, which then have them."""

    def __repr__(self) -> str:
        def rows(layers: dict[str, str]) -> Iterator[str]:
            width = max(map(len, layers), default=0)
            return (f"  {name or '(model)':{width}}  {text}" for name, text in layers.items())

        after = {k: "here" if k == v else f"after {v}" for k, v in self.placed.items()}
        count = sum(x.numel() for x in self.parameters)
        told = "in the optimizers" if self.in_optimizer else "in no optimizer yet"
        return "\n".join(
            [
                f"placed: {len(after)}", *rows(after),
                f"skipped: {len(self.skipped)}", *rows(self.skipped),
                f"new parameters: {count}, {told}",
            ]
        )  # fmt: skip


def convert(
    model: nn.Module,
    match: Selector | Iterable[Selector] | None = None,
    *,
    where: str = "auto",
    exclude: Selector | Iterable[Selector] | None = None,
    min_channels: int = 16,
    exact: bool = True,
    r: float | None = None,
    decimate: str = "after",
    optimizers: torch.optim.Optimizer | Iterable[torch.optim.Optimizer] = (),
    **options: Any,
) -> Report:
    """Put modulation into a network, in place, without damage to what it has learned.

    A convolution becomes an ``AKMConv2d``, or the like of its dimensions or transposed, and stays
    the same object: its weights, hooks, flags and places in an optimizer remain. After a norm, the
    norm remains too, inside a ``Modulated``.

    The model is traced by ``torch.fx`` to see what follows a convolution. Where that fails, its
    next sibling is taken to follow it.

    Args:
        model: not wrapped by DDP, and not sharded (FSDP, DTensor), yet.
        match: which layers; ``None`` for all. A string is a part of the dotted name: ``"layer4"``
            selects all below, ``"conv2"`` all of that name. Or a compiled pattern, to be searched
            in the name; a function of (name, module); a list of these. Names are those of the
            convolutions, and of the norms where ``where="norm"``.
        where: ``"conv"``, in each convolution; ``"norm"``, after each BatchNorm, GroupNorm or
            InstanceNorm, of signals only where it follows a convolution; ``"auto"``, after the
            BatchNorm (or InstanceNorm) that follows a convolution, perhaps behind a ReLU or a pool,
            else in it: before such a norm a gate does nothing.
        exclude: which layers not, as ``match``.
        min_channels: leave alone convolutions with fewer input channels, as those on images, and
            norms of fewer channels.
        exact: divide weight and bias, of the convolution or norm, by the gate at the start, so that
            only the small blur changes the output: at ``r=0`` it is the same to rounding.
        r: where r starts, in pixels; ``None`` for 0.05, or 0.5 for ``gaussian="sampled"``, whose
            gradient dies below. At 0 it does not learn. The output changes with r²: at 0.05 by
            about 1 % in most networks, but by a quarter in deep trained ones of depthwise
            convolutions, as EfficientNet, where 0.01 makes it 1 %. Compare yours before and after.
        decimate: what happens first in a convolution with a stride, see ``AKMConv2d``. Where
            modulation goes after a norm, the stride has come first, which ``"before"`` warns of.
        optimizers: get the new parameters: that of the layer's weight, in a new group with the
            options of the weight's, but no weight decay; else the first. Make schedulers of the
            learning rate afterwards.
        options: ``per``, ``gaussian``, ``border``, ``truncate``, ``max_radius``, ``isotropic`` of
            ``AKMConv2d``; a signal has one axis.

    Returns:
        What was placed, what was skipped and why, and the new parameters. What has modulation
        already is skipped: calling twice is harmless. State dicts of the plain network still load,
        strictly, as if converted afterwards.

    Raises:
        ValueError, TypeError: an argument that means nothing; a selector that selects nothing;
            nothing to convert; a model inside DDP or sharded; ``exact`` where it cannot be: a norm
            without weight and bias, or a weight that is used elsewhere too. The model is then as it
            was.

    Warns:
        UserWarning: a gate that stays before a norm that divides it out; with
            ``decimate="before"``, a convolution whose stride comes before its modulation.

    Example:
        >>> import torch
        >>> block = nn.Sequential(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1))
        >>> convert(block.eval())
        placed: 2
          0  after 1
          2  here
        skipped: 0
        new parameters: 48, in no optimizer yet
        >>> revert(block)
        ['1', '2']
    """
    check_module(model)
    if where not in WHERE:
        raise ValueError(f"where must be one of {WHERE}, got {where!r}")
    if isinstance(min_channels, bool) or not isinstance(min_channels, numbers.Integral):
        raise TypeError(f"min_channels must be an int, got {min_channels!r}")
    if unknown := sorted(options.keys() - set(OPTIONS)):
        raise TypeError(f"options are {', '.join(OPTIONS)}; got {', '.join(unknown)}")
    check_decimate(decimate)
    model_of_all = Modulation2d(1, **options, device="cpu", dtype=torch.float64)
    r = _start_of_r(r, model_of_all)
    trained = [optimizers] if isinstance(optimizers, torch.optim.Optimizer) else list(optimizers)
    for optimizer in trained:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizers must be optimizers, got {type(optimizer).__name__}")
    chosen, excluded = selectors("match", match), selectors("exclude", exclude) or []
    plan = make_plan(model, chosen, excluded, where, min_channels, exact)

    start = Start(r, model_of_all.s.item(), exact)
    # whatever happens, all or nothing; and what is made here can be trained
    with torch.inference_mode(False), torch.no_grad(), ExitStack() as undo:
        made = [
            _place(model, layer, plan.dims[layer], start, model_of_all, decimate, undo)
            for layer in plan.layers
        ]
        _give(trained, made, model, undo)
        undo.pop_all()
    if plan.futile:
        warnings.warn(
            f"the gate of {len(plan.futile)} layers does nothing, because a norm behind divides it "
            f"out, and modulation cannot go after that: {_some(plan.futile)}",
            stacklevel=2,
        )
    if plan.strided and decimate == "before":
        warnings.warn(
            f"{len(plan.strided)} convolutions take their stride before the blur, which is after "
            f"their norm; where='conv' puts it before the stride: {_some(plan.strided)}",
            stacklevel=2,
        )
    new = [x for place in made for x in (place.modulation.r, place.modulation.s)]
    return Report(plan.placed, plan.skipped, new, bool(trained))


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _start_of_r(r: float | None, like: Modulation2d) -> float:
    if r is None:
        return 0.05 if like.gaussian == "discrete" else like.r.item()
    if isinstance(r, bool) or not isinstance(r, numbers.Real):
        raise TypeError(f"r must be None or a number of pixels, got {r!r}")
    if not 0 <= r < math.inf:
        raise ValueError(f"r must be finite and not negative, got {r}")
    return float(r)


def _place(
    model: nn.Module, layer: nn.Module, dims: int, start: Start, like: Modulation2d, decimate: str,
    undo: ExitStack,
) -> Place:  # fmt: skip
    """Give a convolution or norm modulation; ``undo`` takes it out again."""
    layers = (layer, model)  # a norm may have no tensor of its own
    own: Any = next(itertools.chain(*(x.parameters() for x in layers)), torch.empty(0))
    options: dict[str, Any] = {name: getattr(like, name) for name in OPTIONS}
    if dims == 1:
        options["isotropic"] = True  # there is one axis
    options.update(device=own.device, dtype=torch.promote_types(own.dtype, torch.float32))
    place: Place
    owner = layer
    if type(layer) in CONVERTED:
        conv: Any = layer
        place = Place(conv, conv, conv)
        conv.__class__ = CONVERTED[type(conv)]
        undo.callback(take_out, place, model)
        conv._add_modulation(conv.out_channels, **options)
        if isinstance(conv, Convolution):
            conv.decimate = decimate
    else:
        norm: Any = layer
        modulation = MODULATIONS[dims](channels_of(norm), **options)
        place = Place(norm, modulation, Modulated(slot(norm), modulation))
        for module in (place.holder, modulation):
            module.training = norm.training
        undo.callback(take_out, place, model)
        if slot(norm) is norm:
            replace(model, norm, place.holder)
            owner = place.holder
        else:
            norm.drop = place.holder
    nn.init.constant_(place.modulation.r, start.r)
    place.holder.start = start._replace(hook=accept_plain(owner))
    if start.exact:
        for x in place.tensors():
            undo.callback(x.copy_, x.clone())
            x.div_(start.gate)
    return place


def _give(
    optimizers: list[torch.optim.Optimizer], made: list[Place], model: nn.Module, undo: ExitStack
) -> None:
    """Give each r and s to the optimizer of the layer's weight, else to the first."""
    if not optimizers:
        return
    owners: dict[Any, Any] = {}
    for optimizer in optimizers:
        for i, group in enumerate(optimizer.param_groups):
            owners.update({x: (optimizer, i) for x in group["params"]})
    found: dict[Any, list[nn.Parameter]] = defaultdict(list)
    for place in made:
        owner = next((owners[x] for x in place.tensors() if x in owners), (optimizers[0], None))
        found[owner] += [place.modulation.r, place.modulation.s]
    named = {x: name for name, x in model.named_parameters()}
    for (optimizer, index), new in found.items():
        like = optimizer.defaults if index is None else optimizer.param_groups[index]
        group = {key: like[key] for key in like if key not in ("params", "param_names")}
        if "weight_decay" in group:
            group["weight_decay"] = 0.0
        with_names = "param_names" in optimizer.param_groups[0]
        group["params"] = [(named[x], x) for x in new] if with_names else new
        optimizer.add_param_group(group)
        undo.callback(optimizer.param_groups.pop)


def revert(model: nn.Module) -> list[str]:
    """Undo ``convert``, in place: r and s go, and with them what they learned.

    Weights and biases stay, but for ``exact=True``, where they are multiplied by the gate that they
    were divided by: an untrained layer is as it was before, to rounding, or bitwise with
    ``exact=False``. Layers that ``convert`` did not make are left alone; optimizers keep r and s,
    to no effect. ``fold`` is the way to keep what was learned.

    Args:
        model: may have been trained, copied or pickled since it was converted.

    Returns:
        The names of the layers that lost modulation.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: a layer is parametrized, pruned, sharded or under a schedule. The model is then
            as it was.

    Example:
        >>> import torch
        >>> layers = nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU())
        >>> report = convert(layers)
        >>> revert(layers), type(layers[0]) is nn.Conv2d
        (['0'], True)
    """
    check_module(model)
    named = names(model)
    converted = [place for place in places(model) if "start" in vars(place.holder)]
    check_simple(converted, named)
    with torch.no_grad():
        scaled = {x: place.holder.start.gate for place in converted for x in place.tensors()}
        for x, gate in scaled.items():
            x.mul_(gate)
        for place in converted:
            take_out(place, model)
    return [named[place.affine][0] for place in converted]
