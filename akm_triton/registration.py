"""Registering an op so that every transform of PyTorch treats it as its own.

The public ways fall short: ``torch.library.register_autograd`` has no forward mode, in which it
answers zero, and raises in ``torch.func.grad``; ``torch.autograd.Function`` loses its jvp under
``torch.compile``. A kernel of the op's own under the Autograd key does all of it, at the price of
private names (``internals``). Where they are not known to work, ``register_autograd`` serves
ordinary training and ``torch.compile``, and forward mode raises.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad

from akm_triton import internals

_library = torch.library.Library("akm_triton", "DEF")

if not internals.KNOWN:
    warnings.warn(
        f"akm_triton does not know PyTorch {torch.__version__}: forward mode and torch.func.grad "
        "will raise; all else works",
        stacklevel=2,
    )


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
    _library.define(schema)
    _library.impl(name, kernel, "CompositeExplicitAutograd")
    op = getattr(torch.ops.akm_triton, name).default
    torch.library.register_fake(op, fake, lib=_library)
    torch.library.register_vmap(op, vmap, lib=_library)
    count = sum("Tensor" in str(argument.type) for argument in op._schema.arguments)
    if not internals.KNOWN:
        return _with_public_autograd(op, count, backward)
    internals.add_autograd(_library, op, count, kernel, backward, jvp)
    internals.add_decomposition(_library, op, kernel, decomposes)
    return op


def _with_public_autograd(op: Any, count: int, backward: Callable[..., Any]) -> Callable[..., Any]:
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:count])
        ctx.options = inputs[count:]
        ctx.set_materialize_grads(False)

    def gradients(ctx: Any, *cotangents: Any) -> Any:
        needs_grad = ctx.needs_input_grad[:count]
        grads = backward(needs_grad, ctx.saved_tensors, *ctx.options, *cotangents)
        return *grads, *[None] * len(ctx.options)

    torch.library.register_autograd(op, gradients, setup_context=setup_context, lib=_library)

    def call(*args: Any) -> Any:
        if any(forward_ad.unpack_dual(x).tangent is not None for x in args[:count]):
            raise NotImplementedError(
                f"{op} has no forward-mode derivative on PyTorch {torch.__version__}, which "
                "akm_triton does not know"
            )
        return op(*args)

    return call
