"""All that takes names of PyTorch which are not public.

They were tried on the versions that ``KNOWN`` tells. On any other nothing here needs them, and
``registration`` does with public names what can be done with those.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

KNOWN = (2, 11) <= tuple(int(part) for part in torch.__version__.split(".")[:2]) <= (2, 15)

if KNOWN:
    from torch._functorch.utils import enable_single_level_autograd_function
    from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode
    from torch.autograd.function import _SingleLevelFunction
    from torch.export._trace import custom_triton_ops_decomposition_disabled
    from torch.utils._python_dispatch import _disable_current_modes


def add_autograd(
    library: Any, op: Any, count: int, kernel: Callable[..., Any],
    backward: Callable[..., Any], jvp: Callable[..., Any],
) -> None:  # fmt: skip
    """Give the op, whose first ``count`` arguments are tensors and which ``kernel`` computes, a
    kernel under the Autograd key."""
    name = op._schema.name.partition("::")[2]

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

    below, last = torch._C._after_autograd_keyset, torch._C._after_ADInplaceOrView_keyset
    backends = torch._C.DispatchKey.CPU, torch._C.DispatchKey.CUDA

    def autograd(keyset: Any, *args: Any) -> Any:
        grad_mode, forward_mode = torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled()
        differentiable = grad_mode and any(x.requires_grad for x in args[:count])
        if not (differentiable or _transformed()):
            with torch._C._AutoDispatchBelowAutograd():
                if (keyset & last).highestPriorityTypeId() in backends:
                    return kernel(*args)  # half the way back through the dispatcher
                return op.redispatch(keyset & below, *args)

        def call(*args: Any) -> Any:
            # apply switches both modes off, and outer levels would lose their derivatives
            with (
                torch.set_grad_enabled(grad_mode),
                forward_ad._set_fwd_grad_enabled(forward_mode),
                torch._C._AutoDispatchBelowAutograd(),
            ):
                return op.redispatch(keyset & below, *args)

        with enable_single_level_autograd_function():
            return Formula.apply(call, *args)  # type: ignore[attr-defined]

    library.impl(name, autograd, "Autograd", with_keyset=True)


def _transformed() -> bool:
    """Whether forward mode, a transform of torch.func or a dispatch mode, such as a trace, may be
    at work."""
    return (
        forward_ad._current_level >= 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._len_torch_dispatch_stack() > 0
    )


_PLAIN = (Tensor, torch.nn.Parameter)


def unobserved(*tensors: Tensor) -> bool:
    """Whether a call on these may pass the dispatcher by: nothing differentiates, transforms,
    traces or profiles it, and they hold data."""
    if not KNOWN or torch.compiler.is_compiling():
        return False
    recorded = torch.is_grad_enabled()
    for x in tensors:
        if type(x) not in _PLAIN or (recorded and x.requires_grad) or not (x.is_cuda or x.is_cpu):
            return False
    return (
        not _transformed()
        and torch._C._len_torch_function_stack() == 0
        and torch._C._get_tracing_state() is None
        and not torch._C._autograd._profiler_enabled()
    )


def add_decomposition(
    library: Any, op: Any, kernel: Callable[..., Any], decomposes: Callable[..., bool]
) -> None:
    """Have the graphs that AOTAutograd traces hold what the kernel does, where ``decomposes``."""

    def rule(mode: Any, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not decomposes(*args):
            return mode.__torch_dispatch__(op, types, args, kwargs)
        with mode:
            return kernel(*args)

    torch.library.register_torch_dispatch(op, FunctionalTensorMode, rule, lib=library)


def in_graph(x: Tensor) -> bool:
    """Whether x belongs to a graph that AOTAutograd is tracing: an op gets to see that only where
    it decomposes."""
    return KNOWN and isinstance(x, FunctionalTensor)


def value_at_trace(size: int | torch.SymInt) -> int:
    """A size, or what it was when it became a symbol: to choose by without a guard."""
    return size if isinstance(size, int) else int(size.node.hint)


def in_backward() -> bool:
    """Whether the autograd engine is calling."""
    return KNOWN and torch._C._current_graph_task_id() != -1


def in_export() -> bool:
    """Whether ``torch.export`` is tracing, whose graphs keep ops that launch Triton kernels."""
    return custom_triton_ops_decomposition_disabled()


@contextmanager
def outside_transforms() -> Iterator[None]:
    """Tensors made here belong to no transform, mode or inference: they can be kept for all."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        if KNOWN:
            stack.enter_context(_disable_current_modes())
            stack.enter_context(torch._C._DisableFuncTorch())
        yield
