"""The outer loop on several processes, and across a crash."""

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


def broadcast(module: nn.Module) -> None:
    """Give every process the parameters and buffers of the first; nothing without a group.

    Example:
        >>> broadcast(torch.nn.Linear(2, 1))
    """
    if dist.is_available() and dist.is_initialized():
        for x in (*module.parameters(), *module.buffers()):
            dist.broadcast(x.detach(), 0)


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter], tasks: int = 1) -> None:
    r"""Average the gradients of all processes, between ``backward`` and the optimizer's step.

    .. math:: \mathrm{grad} = \sum_i n_i \, \mathrm{grad}_i \,/\, \sum_i n_i

    Each process takes tasks of its own; the result is what one process with all of them would have,
    also where their numbers differ. One collective for each dtype and device; nothing without a
    process group. A parameter without a gradient on every process keeps none.

    Args:
        parameters: the same on every process, in the same order.
        tasks: n_i, how many tasks this process averaged over.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> model(torch.ones(4, 2)).mean().backward()
        >>> average_gradients(model.parameters(), tasks=4)  # alone: as it was
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    groups: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
    for p in parameters:
        if p.requires_grad:
            groups.setdefault((p.dtype, p.device), []).append(p)
    for (dtype, device), group in groups.items():
        there = torch.tensor([p.grad is not None for p in group], dtype=dtype, device=device)
        count = torch.tensor([float(tasks)], dtype=dtype, device=device)
        grads = [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in group]
        whole = torch.cat([*(tasks * g for g in grads), there, count])
        dist.all_reduce(whole)
        sizes = [p.numel() for p in group]
        *means, found, total = whole.split([*sizes, len(group), 1])
        for p, mean, somewhere in zip(group, means, found.tolist(), strict=True):
            p.grad = (mean / total).reshape(p.shape) if somewhere else None


def save_checkpoint(path: str | Path, parts: dict[str, Any], **more: Any) -> None:
    """Write the state of ``parts`` and of torch's random numbers, whole or not at all. The random
    numbers of NumPy and of ``random`` are the caller's.

    Args:
        path: replaced atomically: killed at any moment, it holds the old state or the new one.
        parts: name to module, optimizer, scheduler or anything with ``state_dict``, or to
            ``torch.Generator``.
        more: numbers, strings, tensors, and lists and dicts of them: what ``load_checkpoint``
            returns.

    Raises:
        TypeError: what could not be read again, such as NumPy's numbers; nothing is written.

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
        "more": more,
    }
    file = io.BytesIO()
    torch.save(state, file)
    try:
        torch.load(io.BytesIO(file.getvalue()), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise TypeError(
            f"{path} is left as it was: what it holds could not be read: {reason}"
        ) from error
    replace_bytes(Path(path), file.getvalue())


def load_checkpoint(path: str | Path, parts: dict[str, Any]) -> dict[str, Any]:
    """Put what ``save_checkpoint`` wrote back into ``parts`` and into torch's random numbers.

    Returns:
        What was given as ``more``.

    Raises:
        KeyError: parts other than those that were saved.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    if set(state["parts"]) != set(parts):
        raise KeyError(f"{path} holds {sorted(state['parts'])}, asked for {sorted(parts)}")
    for name, part in parts.items():
        saved = state["parts"][name]
        part.set_state(saved) if isinstance(part, torch.Generator) else part.load_state_dict(saved)
    torch.set_rng_state(state["random"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    more: dict[str, Any] = state["more"]
    return more


def _state(part: Any) -> Tensor | dict[str, Any]:
    return part.get_state() if isinstance(part, torch.Generator) else part.state_dict()
