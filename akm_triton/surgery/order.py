"""What takes the output of a convolution or norm."""

from __future__ import annotations

import copy
import itertools
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy

from akm_triton.layers import Modulation
from akm_triton.surgery.places import CONVOLUTIONS, NORMS, Modulated


@dataclass
class Order:
    followers: dict[nn.Module, list[Any]] = field(default_factory=dict)
    """Layer → what takes its output, over all its calls: modules, functions, names of methods."""
    pooled: set[nn.Module] = field(default_factory=set)
    """Layers that were seen to take maps of a single pixel, where a blur does nothing."""
    read: set[nn.Module] = field(default_factory=set)
    """Layers whose weight or bias was seen to be used by others, as in a tied decoder."""

    def add(self, other: Order) -> None:
        self.pooled |= other.pooled
        self.read |= other.read
        for layer, nexts in other.followers.items():
            self.followers.setdefault(layer, []).extend(nexts)


FOLLOWED: tuple[type[nn.Module], ...] = (*CONVOLUTIONS, *NORMS, Modulated, Modulation)

# A factor of a channel passes through these, to be divided out by a norm behind them.
PASSING = (
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.ReLU, nn.LeakyReLU,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.functional.relu, nn.functional.dropout, nn.functional.max_pool1d, nn.functional.max_pool2d,
    nn.functional.max_pool3d, nn.functional.avg_pool1d, nn.functional.avg_pool2d,
    nn.functional.avg_pool3d,
    torch.relu, "relu", "contiguous",
)  # fmt: skip
JOINING = (torch.cat, torch.concat)
"""The norm behind these has channels of other layers too."""

# A map of one pixel has more behind these, or may have.
GROWING = (
    nn.Upsample, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.PixelShuffle,
    nn.functional.interpolate, nn.functional.pad, nn.functional.pixel_shuffle, "expand",
    "expand_as", "repeat", "view", "reshape",
)  # fmt: skip

ASKING = (getattr, "size", "dim")
"""Of a parameter: its dtype, say, not its values."""

ALL_PIXELS = ((2, 3), (-2, -1), (2, 3, 4), (-3, -2, -1))
"""The axes of maps and of volumes."""

BATCH_NORMS = (nn.functional.batch_norm, nn.functional.instance_norm, torch.batch_norm)
"""Norms without a module, as torch.fx shows them."""


def order(model: nn.Module) -> Order:
    """As ``torch.fx`` sees it. Where that cannot trace, a child is followed by the next one.

    The model is not run.
    """
    twins: dict[nn.Module, nn.Module] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a forward does with proxies
        found = _traced(_twin(model, twins))
    original = {twin: module for module, twin in twins.items()}
    return Order(
        {original[x]: [original.get(y, y) for y in nexts] for x, nexts in found.followers.items()},
        {original[x] for x in found.pooled},
        {original[x] for x in found.read},
    )


def _twin(module: nn.Module, twins: dict[nn.Module, nn.Module]) -> nn.Module:
    """A copy to trace: what its forward stores or counts does not stay in the model. It has the
    same parameters, is in eval mode and has no hooks."""
    if module not in twins:
        twin = twins[module] = object.__new__(type(module))
        for name, value in vars(module).items():
            held = isinstance(value, (list, dict, set))
            twin.__dict__[name] = copy.copy(value) if held else value
        twin.__dict__["training"] = False
        for name in ("_forward_hooks", "_forward_pre_hooks"):
            twin.__dict__[name].clear()
        for name, buffer in module._buffers.items():
            if buffer is not None and not is_lazy(buffer):
                buffer = buffer.detach().clone()
            twin._buffers[name] = buffer
        for name, child in module._modules.items():
            twin._modules[name] = None if child is None else _twin(child, twins)
    return twins[module]


class _Tracer(fx.Tracer):
    """Looks only into modules that have a convolution or a norm inside."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _is_whole(m)


def _is_whole(module: nn.Module) -> bool:
    return isinstance(module, FOLLOWED) or not any(
        isinstance(x, FOLLOWED) for x in module.modules()
    )


def _traced(module: nn.Module) -> Order:
    """Trace the module; or, where that fails, each of its children."""
    if _is_whole(module):
        return Order()
    try:
        graph = _Tracer().trace(module)
    except Exception:  # whatever its forward does with proxies
        found = Order(_by_order(module))
        for child in module.children():
            found.add(_traced(child))
        return found
    modules = dict(module.named_modules(remove_duplicate=False))
    found = Order()
    pooled: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "get_attr" and any(user.target not in ASKING for user in node.users):
            found.read.add(modules[str(node.target).rpartition(".")[0]])
        inputs = node.all_input_nodes
        called = _called(node, modules)
        if _pools(node, called) or (inputs and pooled.issuperset(inputs)):
            if not _is_in(called, GROWING):
                pooled.add(node)
        if isinstance(called, FOLLOWED):
            found.add(Order({called: _users(node, modules)}, {called} if node in pooled else set()))
    return found


def _called(node: fx.Node, modules: dict[str, nn.Module]) -> Any:
    """The module or function that a node calls."""
    return modules[str(node.target)] if node.op == "call_module" else node.target


def _is_in(called: Any, kinds: tuple[Any, ...]) -> bool:
    """Whether a module is of these types, or a function or method one of these."""
    return type(called) in kinds or called in kinds


def _pools(node: fx.Node, called: Any) -> bool:
    """Whether the output has a single pixel whatever the input."""
    if called in ("mean", torch.mean):
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        all_pixels = isinstance(dims, (list, tuple)) and tuple(dims) in ALL_PIXELS
        return node.kwargs.get("keepdim") is True and all_pixels
    if not isinstance(called, nn.Module):
        return False
    inside = [x for x in called.modules() if not isinstance(x, nn.Identity) and not [*x.children()]]
    return [getattr(x, "output_size", None) in (1, (1, 1), (1, 1, 1)) for x in inside] == [True]


def _users(node: fx.Node, modules: dict[str, nn.Module]) -> list[Any]:
    """What takes the output of the node, seen through what passes a factor on. What joins it with
    others is named as well."""
    found: list[Any] = []
    for user in node.users:
        called = _called(user, modules)
        passes = _is_in(called, PASSING)
        if not passes:
            found.append(called)
        if passes or called in JOINING:
            found += _users(user, modules)
    return found


def _by_order(parent: nn.Module) -> dict[nn.Module, list[Any]]:
    children = [x for x in parent.children() if not isinstance(x, nn.Identity)]
    pairs = itertools.pairwise(children)
    return {layer: [after] for layer, after in pairs if isinstance(layer, FOLLOWED)}
