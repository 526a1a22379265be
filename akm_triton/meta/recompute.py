"""Activation checkpointing for inner steps: keep the inputs of a step, and compute the step again
in the backward pass.

``torch.utils.checkpoint`` relies on hooks on saved tensors, which ``torch.func.grad`` refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

T = TypeVar("T")


def recomputed(function: Callable[..., T], *args: Any) -> T:
    """``function(*args)``, for which only the arguments are kept until the backward pass.

    Arguments and result are tensors, or tuples, lists and dicts of them. Both runs of the function
    use the same random numbers and the same autocast. The result can be differentiated once. Other
    leaves that it depends on, such as the parameters of a learned loss, get their gradient in
    ``.grad`` by ``backward()``; ``torch.autograd.grad`` does not see them.
    """
    tensors, structure = tree_flatten(args)
    result_structure: list[TreeSpec] = []

    def flat_function(*tensors: Tensor) -> tuple[Tensor, ...]:
        results, spec = tree_flatten(function(*tree_unflatten(tensors, structure)))
        result_structure[:] = [spec]
        return tuple(results)

    results = _Recomputed.apply(flat_function, *tensors)
    result: T = tree_unflatten(results, result_structure[0])
    return result


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.function = function
        ctx.save_for_backward(*tensors)
        ctx.devices = sorted({x.get_device() for x in tensors if x.is_cuda})
        ctx.cpu_rng = torch.get_rng_state()
        ctx.cuda_rng = [torch.cuda.get_rng_state(device) for device in ctx.devices]
        device_type = tensors[0].device.type
        dtype = torch.get_autocast_dtype(device_type)
        ctx.autocast = device_type, dtype, torch.is_autocast_enabled(device_type)
        ctx.set_materialize_grads(False)
        return function(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = [x.detach().requires_grad_(x.requires_grad) for x in ctx.saved_tensors]
        with torch.random.fork_rng(ctx.devices), torch.enable_grad(), torch.autocast(*ctx.autocast):
            torch.set_rng_state(ctx.cpu_rng)
            for device, state in zip(ctx.devices, ctx.cuda_rng, strict=True):
                torch.cuda.set_rng_state(state, device)
            results = ctx.function(*tensors)
        pairs = [
            (y, g)
            for y, g in zip(results, cotangents, strict=True)
            if g is not None and y.requires_grad
        ]
        if not pairs:
            return None, *[None] * len(tensors)
        torch.autograd.backward([y for y, _ in pairs], [g for _, g in pairs])
        return None, *(x.grad for x in tensors)
