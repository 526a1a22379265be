"""Registering an op so that every transform of PyTorch treats it as one of its own. The derivatives
themselves are in ops.py and gated_taps.py.

The public ways fall short: ``torch.library.register_autograd`` answers zero in forward mode and
raises in ``torch.func.grad``; ``torch.autograd.Function`` loses its jvp under ``torch.compile``. A
kernel of the op's own under the Autograd key does all of it, at the price of private names. On a
version of PyTorch where these were not tried, ``register_autograd`` serves ordinary training and
``torch.compile``, and forward mode raises.
"""

from __future__ import annotations

import functools
import itertools
import operator
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad

from akm_triton import flops, sharding
from akm_triton.tracing import TRIED, is_transformed, untracked

if TRIED:
    from torch._functorch.utils import enable_single_level_autograd_function
    from torch._subclasses.functional_tensor import FunctionalTensorMode
    from torch.autograd.function import _SingleLevelFunction
else:
    warnings.warn(
        f"akm_triton was not tried on PyTorch {torch.__version__}: forward mode and "
        "torch.func.grad will raise; all else works",
        stacklevel=2,
    )

AUTOCAST_DEVICES = ("cpu", "cuda", "xpu", "mps")

_libraries: list[torch.library.Library] = globals().get("_libraries", [])
"""A library takes its op with it when it dies: a reload of this module keeps those of before."""

_requires_grad = operator.attrgetter("requires_grad")


def define(
    schema: str,
    kernel: Callable[..., Any],
    *,
    fake: Callable[..., Any],
    vjp: Callable[..., Any],
    jvp: Callable[..., Any],
    vmap: Callable[..., Any],
    decomposes: Callable[..., bool],
    maps: int = 0,
    lead: int = 1,
    passes: flops.Passes = 0,
) -> Callable[..., Any]:
    """Define the op of this schema, whose tensors come first, and return it.

    AOTAutograd keeps its results on disk and does not see formulas in Python: give the op a new
    name when one of them changes.

    Args:
        kernel: computes the op, on any device.
        fake: the same on tensors without data.
        vjp: reverse mode. ``(needs_grad, *arguments, *cotangents)`` to a gradient or None for each
            tensor; a cotangent may be None.
        jvp: forward mode. ``(tangents, *arguments)`` to the tangents of the results; a tangent may
            be None, but not all of them.
        vmap: ``(op, info, in_dims, *arguments)``, else as for ``torch.library.register_vmap``.
        decomposes: ``(*arguments)`` to whether a graph that AOTAutograd traces shall hold the
            kernel's own operations instead of the op: Inductor can fuse those, and needs no Python
            to run them.
        maps, lead: as for ``sharding.declare``.
        passes: as for ``flops.declare``.
    """
    name = schema.partition("(")[0]
    library = torch.library.Library(_namespace_for(name), "FRAGMENT")
    _libraries.append(library)
    library.define(schema)
    untracked_kernel = _untracked(kernel)
    library.impl(name, untracked_kernel, "CompositeExplicitAutograd")
    op = getattr(getattr(torch.ops, library.ns), name).default
    torch.library.register_fake(op, fake, lib=library)
    torch.library.register_vmap(op, functools.partial(vmap, op), lib=library)
    sharding.declare(op, maps, lead)
    if passes:
        flops.declare(op, maps, passes)
    count = sum("Tensor" in str(argument.type) for argument in op._schema.arguments)
    for device in AUTOCAST_DEVICES:
        _without_autocast(library, op, device)
    if not TRIED:
        return _with_public_autograd(library, op, count, vjp)
    _add_autograd(library, op, count, untracked_kernel, vjp, jvp)
    _add_decomposition(library, op, kernel, decomposes)
    return op


def _untracked(kernel: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        with untracked():
            return kernel(*args)

    return call


def _without_autocast(library: torch.library.Library, op: Any, device: str) -> None:
    """Have the op computed as without autocast, which may still be on when a backward calls it."""

    def kernel(*args: Any) -> Any:
        with torch.autocast(device, enabled=False):
            return op(*args)

    library.impl(op._schema.name.partition("::")[2], kernel, f"Autocast{device.upper()}")


def _namespace_for(name: str) -> str:
    """The package may be imported again or reloaded. What was made before goes on calling the ops
    of before, so those stay; the new ones get a namespace of their own."""
    names = ("akm_triton" + "_again" * i for i in itertools.count())
    return next(x for x in names if not hasattr(getattr(torch.ops, x), name))


def _add_autograd(
    library: torch.library.Library, op: Any, count: int, kernel: Callable[..., Any],
    vjp: Callable[..., Any], jvp: Callable[..., Any],
) -> None:  # fmt: skip
    """Give the op, whose first ``count`` arguments are tensors, a kernel under the Autograd key."""
    name = op._schema.name.partition("::")[2]
    below, last = torch._C._after_autograd_keyset, torch._C._after_ADInplaceOrView_keyset
    devices = torch._C.DispatchKey.CPU, torch._C.DispatchKey.CUDA

    class Formula(_SingleLevelFunction):
        _compiled_autograd_key = torch.autograd.Function._compiled_autograd_key

        @staticmethod
        def forward(outer: tuple[Any, bool, bool], *args: Any) -> Any:
            keyset, grad_mode, forward_mode = outer
            # apply has switched both modes off, and outer levels would lose their derivatives
            with (
                torch.set_grad_enabled(grad_mode),
                forward_ad._set_fwd_grad_enabled(forward_mode),
                torch._C._AutoDispatchBelowAutograd(),
            ):
                return op.redispatch(keyset & below, *args)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            tensors, ctx.options = inputs[1 : count + 1], inputs[count + 1 :]
            ctx.save_for_backward(*tensors)
            ctx.save_for_forward(*tensors)
            ctx.set_materialize_grads(False)

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> Any:
            needs_grad = ctx.needs_input_grad[1 : count + 1]
            grads = vjp(needs_grad, *ctx.saved_tensors, *ctx.options, *cotangents)
            return None, *grads, *[None] * len(ctx.options)

        @staticmethod
        def jvp(ctx: Any, _: None, *tangents: Any) -> Any:
            # called with forward mode off, without which outer levels would lose their tangents
            with forward_ad._set_fwd_grad_enabled(True):
                primals = [forward_ad.unpack_dual(x, level=0).primal for x in ctx.saved_tensors]
                return jvp(tangents[:count], *primals, *ctx.options)

    Formula.__name__ = Formula.__qualname__ = name

    def autograd(keyset: Any, *args: Any) -> Any:
        grad_mode, forward_mode = torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled()
        differentiable = grad_mode and any(map(_requires_grad, args[:count]))
        if differentiable or is_transformed():
            flops.prepare()
            with enable_single_level_autograd_function():
                return Formula.apply((keyset, grad_mode, forward_mode), *args)  # type: ignore[attr-defined]
        with torch._C._AutoDispatchBelowAutograd():
            if (keyset & last).highestPriorityTypeId() in devices:
                return kernel(*args)  # saves half of the way through the dispatcher
            return op.redispatch(keyset & below, *args)

    library.impl(name, autograd, "Autograd", with_keyset=True)


def _add_decomposition(
    library: torch.library.Library, op: Any, kernel: Callable[..., Any],
    decomposes: Callable[..., bool],
) -> None:  # fmt: skip
    """Have the graphs that AOTAutograd traces hold what the kernel does, where ``decomposes``."""

    def rule(mode: Any, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not decomposes(*args):
            return mode.__torch_dispatch__(op, types, args, kwargs)
        with mode:
            return kernel(*args)

    torch.library.register_torch_dispatch(op, FunctionalTensorMode, rule, lib=library)


def _with_public_autograd(
    library: torch.library.Library, op: Any, count: int, vjp: Callable[..., Any]
) -> Callable[..., Any]:
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:count])
        ctx.options = inputs[count:]
        ctx.set_materialize_grads(False)

    def gradients(ctx: Any, *cotangents: Any) -> Any:
        needs_grad = ctx.needs_input_grad[:count]
        grads = vjp(needs_grad, *ctx.saved_tensors, *ctx.options, *cotangents)
        return *grads, *[None] * len(ctx.options)

    torch.library.register_autograd(op, gradients, setup_context=setup_context, lib=library)

    def call(*args: Any) -> Any:
        if any(forward_ad.unpack_dual(x).tangent is not None for x in args[:count]):
            raise NotImplementedError(
                f"{op} has no forward-mode derivative on PyTorch {torch.__version__}, on which "
                "akm_triton was not tried"
            )
        return op(*args)

    return call
