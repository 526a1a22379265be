"""Checkpointing of inner steps: keep what goes into one, compute the rest again in the backward.

``torch.utils.checkpoint`` works by hooks on saved tensors, which ``torch.func.grad`` refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Function = Callable[..., tuple[Tensor, ...]]


def recomputed(function: Function, *tensors: Tensor) -> tuple[Tensor, ...]:
    """``function(*tensors)``, of which nothing but the tensors is kept for the backward.

    Random numbers and autocast are the same in both runs. The result is differentiable once. Other
    leaves that it depends on, such as a learned loss's, get their gradient by ``backward()``, in
    ``.grad``; ``torch.autograd.grad`` does not see them.
    """
    out: tuple[Tensor, ...] = _Recomputed.apply(function, *tensors)
    return out


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Function, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.function = function
        ctx.save_for_backward(*tensors)
        ctx.devices = sorted({x.get_device() for x in tensors if x.is_cuda})
        ctx.random = torch.get_rng_state(), [torch.cuda.get_rng_state(i) for i in ctx.devices]
        kind = tensors[0].device.type
        ctx.autocast = kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        ctx.set_materialize_grads(False)
        return function(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = [x.detach().requires_grad_(x.requires_grad) for x in ctx.saved_tensors]
        with torch.random.fork_rng(ctx.devices), torch.enable_grad(), torch.autocast(*ctx.autocast):
            host, others = ctx.random
            torch.set_rng_state(host)
            for device, state in zip(ctx.devices, others, strict=True):
                torch.cuda.set_rng_state(state, device)
            out = ctx.function(*tensors)
        pairs = [(y, g) for y, g in zip(out, cotangents, strict=True) if g is not None]
        pairs = [(y, g) for y, g in pairs if y.requires_grad]
        if not pairs:
            return None, *[None] * len(tensors)
        torch.autograd.backward([y for y, _ in pairs], [g for _, g in pairs])
        return None, *(x.grad for x in tensors)
