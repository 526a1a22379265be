"""What PyTorch is doing with a call: tracing it, transforming it, differentiating it or nothing.

Most of the names used here are private to PyTorch. They were tried on the versions that ``TRIED``
covers; on any other version nothing here uses them.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

TRIED = (2, 11) <= tuple(int(part) for part in torch.__version__.split(".")[:2]) <= (2, 15)
"""Whether the private names of PyTorch used by this package were tried on this version."""

if TRIED:
    from torch._subclasses.functional_tensor import FunctionalTensor
    from torch.utils._python_dispatch import _disable_current_modes

untracked: Any = torch._C._AutoDispatchBelowADInplaceOrView if TRIED else contextlib.nullcontext
"""What an op returns from inside is a map of its own, even where it was the view of another inside:
PyTorch forbids most in-place changes of such a view, as by ``nn.ReLU(inplace=True)``."""

PLAIN_TYPES = (Tensor, torch.nn.Parameter)
"""No subclass, which may be anything."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def constant_when_compiled(function: _Function) -> _Function:
    """``torch.compiler.assume_constant_result``, without the second that importing it takes."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def in_graph(x: Tensor) -> bool:
    """Whether x belongs to a graph that AOTAutograd is tracing. An op sees such tensors only where
    it decomposes."""
    return TRIED and isinstance(x, FunctionalTensor)


def value_at_trace(size: int | torch.SymInt) -> int:
    """A size, or the value it had when it became a symbol: a value to choose by without a guard."""
    return size if isinstance(size, int) else int(size.node.hint)


def in_export() -> bool:
    """Whether ``torch.export`` is tracing; its graphs keep the ops that launch Triton kernels."""
    # importing it takes seconds; where nobody has, nothing exports
    export = sys.modules.get("torch.export._trace")
    return export is not None and export.custom_triton_ops_decomposition_disabled()


def in_onnx_trace() -> bool:
    """Whether ``torch.onnx.export`` is tracing by TorchScript, as it does with ``dynamo=False``."""
    if torch._C._get_tracing_state() is None:
        return False
    onnx = sys.modules.get("torch.onnx")
    return onnx is not None and onnx.is_in_onnx_export()


def in_backward() -> bool:
    """Whether the autograd engine is calling."""
    return TRIED and torch._C._current_graph_task_id() != -1


def is_transformed() -> bool:
    """Whether forward mode, a transform of torch.func or a dispatch mode, such as a trace, may be
    at work."""
    return (
        forward_ad._current_level >= 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._len_torch_dispatch_stack() > 0
    )


@constant_when_compiled
def _is_vmap_innermost() -> bool:
    interpreter = torch._C._functorch.peek_interpreter_stack()
    return interpreter is not None and interpreter.key() == torch._C._functorch.TransformType.Vmap


def is_batched(*tensors: Tensor) -> bool:
    """Whether the innermost transform at work is ``torch.func.vmap``, over one of these tensors."""
    if not (TRIED and _is_vmap_innermost()):
        return False
    # what Dynamo cannot ask it may take for granted
    return torch.compiler.is_compiling() or any(map(torch._C._functorch.is_batchedtensor, tensors))


def is_plain(*tensors: Tensor) -> bool:
    """Whether nothing transforms, traces or profiles a call on these tensors, and they hold the
    numbers that they stand for. Only autograd may then need to know of the call."""
    if not TRIED or torch.compiler.is_compiling():
        return False
    try:
        for x in tensors:
            if type(x) not in PLAIN_TYPES or x.is_neg() or not (x.is_cuda or x.is_cpu):
                return False
            if x.data_ptr() == 0:  # zeros without memory, or empty
                return False
    except RuntimeError:  # a batch of is_grads_batched shows itself by nothing else
        return False
    return (
        not is_transformed()
        and torch._C._len_torch_function_stack() == 0
        and torch._C._get_tracing_state() is None
        and not torch._C._autograd._profiler_enabled()
    )


def is_recorded(*tensors: Tensor) -> bool:
    """Whether autograd records a call on these tensors."""
    if torch.is_grad_enabled():
        for x in tensors:  # ``any`` of a generator takes longer
            if x.requires_grad:
                return True
    return False


@contextmanager
def outside_transforms() -> Iterator[None]:
    """Tensors made here belong to no transform, no mode, no trace and no inference: any call may
    keep them."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        if TRIED:
            stack.enter_context(_disable_current_modes())
            stack.enter_context(torch._C._DisableFuncTorch())
            stack.enter_context(_unrecorded())
        yield


@contextmanager
def _unrecorded() -> Iterator[None]:
    """``torch.jit.trace`` records nothing of what is done here."""
    state = torch._C._get_tracing_state()
    if state is None:
        yield
        return
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


def sizes(x: Tensor) -> torch.Size:
    """``x.shape`` to check. Under ``torch.jit.trace`` that holds tensors, with a warning for each
    that is compared; this holds numbers."""
    if torch._C._get_tracing_state() is None or not TRIED:
        return x.shape
    with _unrecorded():
        return x.shape
