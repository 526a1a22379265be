"""The outer loop on several processes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn

from akm_triton.meta.options import read_integer


def broadcast(module: nn.Module) -> None:
    """Copy the parameters and buffers of the first process to all others. Does nothing without a
    process group.

    Example:
        >>> broadcast(torch.nn.Linear(2, 1))
    """
    if dist.is_available() and dist.is_initialized():
        for x in (*module.parameters(), *module.buffers()):
            dist.broadcast(x.detach(), 0)


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter], tasks: int = 1) -> None:
    r"""Average the gradients of all processes, weighted by their numbers of tasks. Call it between
    ``backward`` and the optimizer's step.

    .. math:: \mathrm{grad} = \sum_i n_i \, \mathrm{grad}_i \,/\, \sum_i n_i

    Each process takes its own tasks. The result is the gradient that one process with all tasks
    would have, even if the numbers of tasks differ; half precision is summed in float32. Takes one
    collective for each dtype and device, and does nothing without a process group. A parameter that
    has a gradient on no process gets none; where only some processes have one, the others count as
    zero.

    Args:
        parameters: the same on every process, in the same order.
        tasks: n_i, the number of tasks whose mean loss this process differentiated.

    Raises:
        TypeError, ValueError: ``tasks`` is not an integer, or is negative.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> model(torch.ones(4, 2)).mean().backward()
        >>> average_gradients(model.parameters(), tasks=4)  # without a group: unchanged
    """
    if read_integer("tasks", tasks) < 0:
        raise ValueError(f"tasks must not be negative, got {tasks}")
    if not (dist.is_available() and dist.is_initialized()):
        return
    groups: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
    for p in parameters:
        if p.requires_grad:
            groups.setdefault((p.dtype, p.device), []).append(p)
    for (dtype, device), group in groups.items():
        wide = torch.promote_types(dtype, torch.float32)  # 32 times 3000 overflows in float16
        has_grad = torch.tensor([p.grad is not None for p in group], dtype=wide, device=device)
        count = torch.tensor([float(tasks)], dtype=wide, device=device)
        grads = [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in group]
        packed = torch.cat([*(tasks * g.to(wide) for g in grads), has_grad, count])
        dist.all_reduce(packed)
        sizes = [p.numel() for p in group]
        *sums, holders, total = packed.split([*sizes, len(group), 1])
        for p, grad_sum, processes in zip(group, sums, holders.tolist(), strict=True):
            p.grad = (grad_sum / total).to(dtype).reshape(p.shape) if processes else None


def waits_for_every_gradient() -> bool:
    """Whether a ``DistributedDataParallel`` calls us that needs a gradient for each parameter:
    without one it fails in its next forward, or averages none with ``static_graph``."""
    if not (dist.is_available() and dist.is_initialized() and torch.is_grad_enabled()):
        return False
    ask = getattr(nn.parallel.DistributedDataParallel, "_get_active_ddp_module", None)
    wrapper = ask() if ask else None
    return wrapper is not None and (wrapper.static_graph or not wrapper.find_unused_parameters)
