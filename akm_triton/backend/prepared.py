"""What a call of an op needs but its tensors: found once for its shapes and options, and kept."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, TypeVar

from torch import Tensor

from akm_triton.backend.launcher import interception
from akm_triton.backend.layout import Stride
from akm_triton.launch import choice
from akm_triton.launch.device import Device, describe
from akm_triton.launch.plan import Grid, Plan, grids
from akm_triton.launch.problem import Problem
from akm_triton.tracing import in_graph, value_at_trace

MOST_PREPARED = 4096

_Made = TypeVar("_Made")


def prepared(x: Tensor, *key: Hashable) -> Any:
    """What ``prepare`` kept for this key and the device of x; None where there is nothing."""
    if interception.instead is not None or in_graph(x):
        return None
    return choice.prepared.get((interception.device or x.device, key))


def prepare(made: _Made, x: Tensor, *key: Hashable) -> _Made:
    """Keep what was made for calls on the device of x; the key has all else it was made of."""
    if interception.instead is None and not in_graph(x):
        if len(choice.prepared) >= MOST_PREPARED:
            choice.prepared.clear()
        choice.prepared[interception.device or x.device, key] = made
    return made


def device_of(z: Tensor) -> Device:
    return interception.device or describe(z.device)


def problem_of(op: str, z: Tensor, t: Tensor, border: str, stride: Stride = (1, 1)) -> Problem:
    n, c, h, w = z.shape
    return Problem(
        op, value_at_trace(n) if in_graph(z) else n, c, h, w, t.shape[-1] - 1, border,
        z.element_size(), c > 1 and z.stride(1) == 1,  # dense or not, channels lie side by side
        t.dim() == 4, stride,
    )  # fmt: skip


def grids_of(
    op: str, z: Tensor, t: Tensor, border: str, plan: Plan | None, stride: Stride = (1, 1)
) -> tuple[Grid, ...]:
    """The launches of an op: those of ``plan``, or else of what the chooser finds."""
    problem, device = problem_of(op, z, t, border, stride), device_of(z)
    return choice.choose(problem, device).grids if plan is None else grids(plan, problem, device)


def observe(problem: Problem, z: Tensor) -> None:
    """Tell those who listen to what is chosen, before it is."""
    for observer in choice.observers:
        observer(problem, device_of(z), z.device, in_graph(z))
