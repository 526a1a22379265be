"""Episodes: a task has a support set to adapt to and a query set to be evaluated on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

Examples = tuple[Tensor, Tensor]
"""(x, y): inputs and targets, one row for each example."""

Episode = tuple[Examples, Examples]
"""(support, query)."""

Episodes = Sequence[Episode] | Episode
"""A sequence of tasks; or stacked, the same four tensors with a first axis for tasks."""


def gather(episodes: Episodes, vectorize: bool | None) -> tuple[list[Episode], Episode | None]:
    """Check the episodes, and return them in two forms: as a list of tasks and stacked.

    The stacked form is None where the tasks have to go one by one: ``vectorize`` is False, or it is
    None and the shapes differ.
    """
    if not _is_sequence(episodes):
        hint = "; give list(episodes)" if isinstance(episodes, Iterator) else ""
        raise TypeError(f"episodes must be a sequence of tasks, got {_describe(episodes)}{hint}")
    if len(episodes) == 0:
        raise ValueError("episodes is empty; at least one task is needed")
    one_by_one = vectorize is not None and not vectorize
    first = episodes[0]
    if _is_sequence(first) and len(first) and isinstance(first[0], Tensor):
        stacked = cast(Episode, episodes)
        tasks = _unstack(stacked)
        _check_task(0, tasks[0])  # the others have the same shapes
        return tasks, None if one_by_one else stacked
    tasks = list(cast(Sequence[Episode], episodes))
    for number, task in enumerate(tasks):
        _check_task(number, task)
    same_shapes = all(_layout(task) == _layout(tasks[0]) for task in tasks)
    if vectorize and not same_shapes:
        raise ValueError("vectorize=True needs tasks of the same shapes; these differ")
    if one_by_one or not same_shapes:
        return tasks, None
    return tasks, (_stack([s for s, _ in tasks]), _stack([q for _, q in tasks]))


def check_examples(name: str, examples: Examples) -> None:
    """Refuse anything but a pair of tensors with as many targets as inputs, at least one."""
    if not _is_pair(examples) or not all(isinstance(x, Tensor) for x in examples):
        raise TypeError(f"{name} must be a pair of tensors (x, y), got {_describe(examples)}")
    x, y = examples
    if x.dim() == 0 or y.dim() == 0 or len(x) != len(y):
        raise ValueError(
            f"{name} must have as many targets as inputs, got shapes {tuple(x.shape)} "
            f"and {tuple(y.shape)}"
        )
    if len(x) == 0:
        raise ValueError(f"{name} is empty")


def highest_label(sets: Iterable[Examples]) -> int | None:
    """The highest class label, or None where no targets are labels. Reads the device once."""
    labels = [y for _, y in sets if not (y.is_floating_point() or y.is_complex())]
    return int(torch.stack([y.max() for y in labels]).max()) if labels else None


def _check_task(number: int, task: Episode) -> None:
    if not _is_pair(task):
        raise ValueError(
            f"task {number} must be ((x, y), (x_query, y_query)), got {_describe(task)}"
        )
    support, query = task
    check_examples(f"the support set of task {number}", support)
    check_examples(f"the query set of task {number}", query)
    for name, s, q in zip(("inputs", "targets"), support, query, strict=True):
        if s.shape[1:] != q.shape[1:] or s.dtype != q.dtype or s.device != q.device:
            raise ValueError(
                f"task {number}: query {name} must be like the support {name}, "
                f"{_describe_row(s)} each, got {_describe_row(q)}"
            )


def _is_sequence(x: object) -> bool:
    return hasattr(x, "__len__") and hasattr(x, "__getitem__") and not isinstance(x, Mapping | str)


def _is_pair(x: Any) -> bool:
    return _is_sequence(x) and len(x) == 2


def _describe(x: Any) -> str:
    return f"{type(x).__name__} of {len(x)}" if hasattr(x, "__len__") else type(x).__name__


def _describe_row(x: Tensor) -> str:
    return f"{tuple(x.shape[1:])} {str(x.dtype).removeprefix('torch.')} on {x.device}"


def _layout(task: Episode) -> list[object]:
    return [(x.shape, x.dtype, x.device) for examples in task for x in examples]


def _unstack(stacked: Episode) -> list[Episode]:
    if not (_is_pair(stacked) and _is_pair(stacked[0]) and _is_pair(stacked[1])):
        raise ValueError("stacked episodes must be ((x, y), (x_query, y_query))")
    tensors = [x for examples in stacked for x in examples]
    sizes = [len(x) if isinstance(x, Tensor) and x.dim() else 0 for x in tensors]
    if min(sizes) < 1 or len(set(sizes)) > 1:
        raise ValueError(f"stacked episodes need one first axis of tasks, got sizes {sizes}")
    for x, _ in stacked:
        if x.is_floating_point() and x.dim() < 3:
            raise ValueError(
                "stacked inputs must be (tasks, examples, …), got shape "
                f"{tuple(x.shape)}; one task alone is given as [episode]"
            )
    (xs, ys), (xq, yq) = stacked
    return [((xs[i], ys[i]), (xq[i], yq[i])) for i in range(sizes[0])]


def _stack(sets: list[Examples]) -> Examples:
    return torch.stack([x for x, _ in sets]), torch.stack([y for _, y in sets])
