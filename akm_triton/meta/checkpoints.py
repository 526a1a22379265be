"""Checkpoints from which a killed run continues."""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map_only

from akm_triton.files import replace_bytes
from akm_triton.meta.calling import remember

MARK = b"akm_triton sha256"
"""Stands between the archive, which torch.load reads as well, and its digest."""
SHA = 32
LAST = len(MARK) + SHA
FORMAT = 2
"""Files without a format are older, and have no digest."""
KEYS = {"parts", "random", "cuda", "more"}


def save_checkpoint(path: str | Path, parts: dict[str, Any], **extra: Any) -> None:
    """Write the state of ``parts`` and of PyTorch's random number generators to a file, with a
    digest. The generators of NumPy and of ``random`` are left to the caller.

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
        "format": FORMAT,
        "parts": {name: _state(part) for name, part in parts.items()},
        "random": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "more": extra,
    }
    file = io.BytesIO()
    torch.save(state, file)
    archive = file.getvalue()
    try:
        torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise TypeError(
            f"{path} is left as it was, because the new state could not be read again: {reason}"
        ) from error
    replace_bytes(Path(path), archive + MARK + hashlib.sha256(archive).digest())


def load_checkpoint(path: str | Path, parts: dict[str, Any]) -> dict[str, Any]:
    """Restore ``parts`` and PyTorch's random number generators from a file that
    ``save_checkpoint`` wrote.

    If a part refuses its state, its error is raised and everything is put back as it was.

    Returns:
        The ``extra`` values that were saved.

    Raises:
        ValueError: the file is damaged, or is no checkpoint.
        KeyError: the names of ``parts`` are not those that were saved.
    """
    state = _read(Path(path))
    if set(state["parts"]) != set(parts):
        raise KeyError(f"{path} holds {sorted(state['parts'])}, not {sorted(parts)}")
    on_this_machine = len(state["cuda"]) == torch.cuda.device_count()
    with contextlib.ExitStack() as undo:
        undo.callback(torch.set_rng_state, torch.get_rng_state())
        if torch.cuda.is_available():
            undo.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
        for part in parts.values():
            _put_back_after(undo, part)
        for name, part in parts.items():
            _load(part, state["parts"][name])
        torch.set_rng_state(state["random"])
        if state["cuda"] and on_this_machine:
            torch.cuda.set_rng_state_all(state["cuda"])
        undo.pop_all()  # nothing was refused
    extra: dict[str, Any] = state["more"]
    return extra


def _read(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    archive, mark, digest = content[:-LAST], content[-LAST:-SHA], content[-SHA:]
    marked = mark == MARK
    refusal = ValueError(f"{path} is damaged, or no checkpoint that save_checkpoint wrote")
    if marked and hashlib.sha256(archive).digest() != digest:
        raise refusal
    try:
        file = io.BytesIO(archive if marked else content)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of many types, where the bytes are no archive
        raise refusal from error
    ours = isinstance(state, dict) and state.keys() >= KEYS
    if not ours or (not marked and "format" in state):  # the mark itself is lost
        raise refusal
    return dict(state)


def _state(part: Any) -> Tensor | dict[str, Any]:
    return part.get_state() if isinstance(part, torch.Generator) else part.state_dict()


def _load(part: Any, state: Any) -> None:
    part.set_state(state) if isinstance(part, torch.Generator) else part.load_state_dict(state)


def _put_back_after(undo: contextlib.ExitStack, part: Any) -> None:
    """When ``undo`` is left, ``part`` gets back its values, and the objects that hold them."""
    if isinstance(part, nn.Module):
        undo.callback(remember(part))
        tensors = [x for x in (*part.parameters(), *part.buffers()) if not is_lazy(x)]
        undo.callback(_copy, [(x, _on_cpu(x)) for x in tensors])
        return
    if hasattr(part, "__dict__"):
        undo.callback(vars(part).update, dict(vars(part)))
    undo.callback(_load, part, tree_map_only(Tensor, _on_cpu, _state(part)))


def _on_cpu(x: Tensor) -> Tensor:
    return x.detach().to("cpu", copy=True)


@torch.no_grad()
def _copy(pairs: list[tuple[Tensor, Tensor]]) -> None:
    for x, values in pairs:
        x.copy_(values)
