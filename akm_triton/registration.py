"""Registering an op so that every transform of PyTorch treats it as its own.

The public ways fall short: ``torch.library.register_autograd`` has no forward mode, in which it
answers zero, and raises in ``torch.func.grad``; ``torch.autograd.Function`` loses its jvp under
``torch.compile``. A kernel of the op's own under the Autograd key does all of it. The private names
this takes (tried on torch 2.13) are here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction
from torch.export._trace import custom_triton_ops_decomposition_disabled
from torch.utils._python_dispatch import _disable_current_modes

_library = torch.library.Library("akm_triton", "DEF")


def register(
    schema: str,
    kernel: Callable[..., Any],
    *,
    fake: Callable[..., Any],
    backward: Callable[..., Any],
    jvp: Callable[..., Any],
    vmap: Callable[..., Any],
    decomposes: Callable[..., bool],
) -> Callable[..., Any]:
    """Define the op of this schema, whose tensors come first, and return it.

    AOTAutograd keeps its results on disk and does not see the formulas in Python: give the op a new
    name when one of them changes.

    Args:
        kernel: computes the op, on any device.
        fake: the same on tensors without data.
        backward: ``(needs_grad, tensors, *options, *cotangents)`` to a gradient or None for each
            tensor; a cotangent may be None.
        jvp: ``(tangents, tensors, *options)`` to the tangents of the results; a tangent may be
            None, but not all.
        vmap: as for ``torch.library.register_vmap``.
        decomposes: ``(*args)`` to whether a graph that AOTAutograd traces shall hold what the
            kernel does, and not the op: Inductor can fuse the first, and needs no Python for it.
    """
    name = schema.partition("(")[0]
    qualified = f"akm_triton::{name}"
    _library.define(schema)
    _library.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(qualified, fake, lib=_library)
    torch.library.register_vmap(qualified, vmap, lib=_library)

    def functional(mode: Any, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not decomposes(*args):
            return mode.__torch_dispatch__(op, types, args, kwargs)
        with mode:
            return kernel(*args)

    torch.library.register_torch_dispatch(qualified, FunctionalTensorMode, functional, lib=_library)
    op = getattr(torch.ops.akm_triton, name).default
    count = sum("Tensor" in str(argument.type) for argument in op._schema.arguments)

    class Formula(_SingleLevelFunction):
        _compiled_autograd_key = torch.autograd.Function._compiled_autograd_key

        @staticmethod
        def forward(call: Callable[..., Any], *args: Any) -> Any:
            return call(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            tensors, ctx.options = inputs[1 : count + 1], inputs[count + 1 :]
            ctx.save_for_backward(*tensors)
            ctx.save_for_forward(*tensors)
            ctx.set_materialize_grads(False)

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> Any:
            needs_grad = ctx.needs_input_grad[1 : count + 1]
            grads = backward(needs_grad, ctx.saved_tensors, *ctx.options, *cotangents)
            return None, *grads, *[None] * len(ctx.options)

        @staticmethod
        def jvp(ctx: Any, _: None, *tangents: Any) -> Any:
            # called with forward mode off, without which outer levels would lose their tangents
            with forward_ad._set_fwd_grad_enabled(True):
                primals = [forward_ad.unpack_dual(x, level=0).primal for x in ctx.saved_tensors]
                return jvp(tangents[:count], primals, *ctx.options)

    Formula.__name__ = Formula.__qualname__ = name

    def autograd(keyset: Any, *args: Any) -> Any:
        grad_mode, forward_mode = torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled()

        def call(*args: Any) -> Any:
            # apply switches both modes off, and outer levels would lose their derivatives
            with (
                torch.set_grad_enabled(grad_mode),
                forward_ad._set_fwd_grad_enabled(forward_mode),
                torch._C._AutoDispatchBelowAutograd(),
            ):
                return op.redispatch(keyset & torch._C._after_autograd_keyset, *args)

        with enable_single_level_autograd_function():
            return Formula.apply(call, *args)  # type: ignore[attr-defined]

    _library.impl(name, autograd, "Autograd", with_keyset=True)
    return op


@contextmanager
def outside_transforms() -> Iterator[None]:
    """Tensors made here belong to no transform, mode or inference: they can be kept for all."""
    with torch.inference_mode(False), _disable_current_modes(), torch._C._DisableFuncTorch():
        yield


def in_graph(x: Tensor) -> bool:
    """Whether x belongs to a graph that AOTAutograd is tracing: an op gets to see that only where
    it decomposes."""
    return isinstance(x, FunctionalTensor)


def value_at_trace(size: int | torch.SymInt) -> int:
    """A size, or what it was when it became a symbol: to choose by without a guard."""
    return size if isinstance(size, int) else int(size.node.hint)


def in_export() -> bool:
    """Whether ``torch.export`` is tracing, whose graphs keep ops that launch Triton kernels."""
    return custom_triton_ops_decomposition_disabled()


def in_transform() -> bool:
    """Whether torch.func, forward mode or torch.compile is at work, which an
    ``autograd.Function`` without rules for them would not survive."""
    return (
        torch._C._are_functorch_transforms_active()
        or torch.compiler.is_compiling()
        or forward_ad._current_level >= 0
    )
