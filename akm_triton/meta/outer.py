"""The outer loop on several processes, and checkpoints from which a killed run continues."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from akm_triton.files import replace_bytes
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


def save_checkpoint(path: str | Path, parts: dict[str, Any], **extra: Any) -> None:
    """Write the state of ``parts`` and of PyTorch's random number generators to a file. The
    generators of NumPy and of ``random`` are left to the caller.

    Args:
        path: replaced atomically: if the process is killed at any moment, the file holds the old
            state or the new one.
        parts: names and modules, optimizers, schedulers, anything else with a ``state_dict``, or
            ``torch.Generator`` objects.
        extra: numbers, strings, tensors, and lists and dicts of them; ``load_checkpoint`` returns
            them.

    Raises:
        TypeError: a value could not be read again, such as a NumPy number; nothing is written.

    Example:
        >>> import tempfile, torch
        >>> model = torch.nn.Linear(2, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_checkpoint(f"{folder}/last.pt", {"model": model}, iteration=7)
        ...     load_checkpoint(f"{folder}/last.pt", {"model": model})
        {'iteration': 7}
    """
    state = {
        "parts": {name: _state(part) for name, part in parts.items()},
        "random": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "more": extra,
    }
    file = io.BytesIO()
    torch.save(state, file)
    try:
        torch.load(io.BytesIO(file.getvalue()), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise TypeError(
            f"{path} is left as it was, because the new state could not be read again: {reason}"
        ) from error
    replace_bytes(Path(path), file.getvalue())


def load_checkpoint(path: str | Path, parts: dict[str, Any]) -> dict[str, Any]:
    """Restore ``parts`` and PyTorch's random number generators from a file that
    ``save_checkpoint`` wrote.

    Returns:
        The ``extra`` values that were saved.

    Raises:
        KeyError: the names of ``parts`` are not those that were saved.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    if set(state["parts"]) != set(parts):
        raise KeyError(f"{path} holds {sorted(state['parts'])}, not {sorted(parts)}")
    for name, part in parts.items():
        saved = state["parts"][name]
        part.set_state(saved) if isinstance(part, torch.Generator) else part.load_state_dict(saved)
    torch.set_rng_state(state["random"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    extra: dict[str, Any] = state["more"]
    return extra


def _state(part: Any) -> Tensor | dict[str, Any]:
    return part.get_state() if isinstance(part, torch.Generator) else part.state_dict()
