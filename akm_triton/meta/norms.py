"""Norms whose second derivative PyTorch gets wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode

# Norms that take mean and deviation from their input, under their names in torch, in
# torch.nn.functional and in aten. None: they always do. Otherwise the first flag among the
# arguments says whether they do; True or False where it is not given.
INPUT_STATISTICS: dict[str, bool | None] = {
    "layer_norm": None,
    "native_layer_norm": None,
    "batch_norm": False,
    "native_batch_norm": False,
    "_native_batch_norm_legit": False,
    "_native_batch_norm_legit_functional": False,
    "_batch_norm_impl_index": False,
    "cudnn_batch_norm": False,
    "miopen_batch_norm": False,
    "instance_norm": True,
}
FLAGS = ("training", "use_input_stats")


class VmapGradientError(Exception):
    """PyTorch would compute a wrong second derivative under ``vmap``; the message names the weight
    that causes it."""


class NormGuard(TorchFunctionMode):
    """Gives weight norms the right second derivative; and with ``at_once`` raises
    ``VmapGradientError`` where a norm that takes statistics from its input has a weight that the
    inner loop adapts.

    Under ``vmap`` PyTorch 2.13 treats mean and deviation as constants when it differentiates the
    gradient of that weight; and everywhere the norm, in the gradient of a weight norm.
    tests/meta/test_norms.py fails once one of them is mended.

    Args:
        parameters: those that the model is called with.
        adapted_names: those of them that the inner loop adapts.
        buffers: those that the model is called with; they are never adapted.
        at_once: all tasks are taken at once, by ``vmap``.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        adapted_names: Sequence[str],
        buffers: Iterable[Tensor],
        at_once: bool,
    ) -> None:
        super().__init__()
        self.name_of = {id(p): name for name, p in parameters.items()}
        adapted = {id(parameters[name]) for name in adapted_names}
        self.fixed = {*self.name_of, *map(id, buffers)} - adapted
        self.at_once = at_once

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        norm = _name(func)
        if norm in WEIGHT_NORMS:
            return WEIGHT_NORMS[norm](*args, **kwargs)
        uses = self.at_once and norm in INPUT_STATISTICS
        if uses and _uses_input_statistics(norm, args, kwargs):
            for x in (*args[1:], *kwargs.values()):
                if isinstance(x, Tensor) and id(x) not in self.fixed:
                    raise VmapGradientError(self.name_of.get(id(x), f"the weight of a {norm}"))
        return func(*args, **kwargs)


def _weight_norm_interface(v: Tensor, g: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    if dim == -1:  # of the whole of v
        norm = torch.linalg.vector_norm(v)
    else:
        rows = v.transpose(0, dim).reshape(v.shape[dim], -1)
        shape = [n if i == dim else 1 for i, n in enumerate(v.shape)]
        norm = torch.linalg.vector_norm(rows, dim=1).reshape(shape)
    return v * (g / norm), norm


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return _weight_norm_interface(v, g, dim)[0]


WEIGHT_NORMS: dict[str, Callable[..., Any]] = {
    "_weight_norm": _weight_norm,
    "_weight_norm_interface": _weight_norm_interface,
}


def _name(func: Callable[..., Any]) -> str:
    """The name of a function, without namespace and overload if it is an operator."""
    if isinstance(func, OpOverload):
        return str(func._schema.name).rpartition("::")[2]
    return getattr(func, "__name__", "")


def _uses_input_statistics(norm: str, args: Any, kwargs: Any) -> bool:
    default = INPUT_STATISTICS[norm]
    if default is None:
        return True
    given = (*args, *(kwargs[name] for name in FLAGS if name in kwargs))
    return next((x for x in given if isinstance(x, bool)), default)
