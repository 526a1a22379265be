"""What a task is: a support set to adapt to and a query set to be judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

Examples = tuple[Tensor, Tensor]
"""(x, y): inputs and targets, a row an example."""

Episode = tuple[Examples, Examples]
"""(support, query)."""

Episodes = Sequence[Episode] | Episode
"""Tasks one by one, or the same four tensors with a first axis for the tasks."""

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""(what the model puts out, targets) to a scalar."""


def gather(episodes: Episodes, vectorize: bool | None) -> tuple[list[Episode], bool]:
    """Check the episodes; then those of each task, and False, or one with a first axis for tasks,
    and True. They are stacked where their shapes agree (``vectorize=None``), always (True, or a
    ``ValueError``) or never (False)."""
    if len(episodes) == 0:
        raise ValueError("episodes is empty; at least one task is needed")
    if isinstance(episodes[0][0], Tensor):
        whole = cast(Episode, episodes)
        apart = [_take(whole, i) for i in range(_count(whole))]
        _check("task 0", *apart[0])  # the others have its shapes
        return (apart, False) if vectorize is False else ([whole], True)
    apart = list(cast(Sequence[Episode], episodes))
    for number, episode in enumerate(apart):
        if len(episode) != 2:
            raise ValueError(f"task {number} must be ((x, y), (x_query, y_query))")
        _check(f"task {number}", *episode)
    alike = all(_kind(episode) == _kind(apart[0]) for episode in apart)
    if vectorize and not alike:
        raise ValueError("vectorize=True needs tasks of the same shapes; these differ")
    if vectorize is False or not alike:
        return apart, False
    return [_stack(apart)], True


def check_examples(name: str, examples: Examples) -> None:
    """Refuse what is no set of examples, by name."""
    if len(examples) != 2 or not all(isinstance(part, Tensor) for part in examples):
        raise TypeError(f"{name} must be a pair of tensors (x, y)")
    x, y = examples
    if x.dim() == 0 or y.dim() == 0 or len(x) != len(y):
        raise ValueError(
            f"{name} must have as many targets as inputs, got shapes {tuple(x.shape)} "
            f"and {tuple(y.shape)}"
        )
    if len(x) == 0:
        raise ValueError(f"{name} is empty")


def highest_label(*examples: Examples) -> int | None:
    """The highest class named, or None where targets are no classes. Reads the device once."""
    labels = [y for _, y in examples if not (y.is_floating_point() or y.is_complex())]
    return int(torch.stack([y.max() for y in labels]).max()) if labels else None


def _check(where: str, support: Examples, query: Examples) -> None:
    check_examples(f"the support set of {where}", support)
    check_examples(f"the query set of {where}", query)
    for name, s, q in zip(("inputs", "targets"), support, query, strict=True):
        if s.shape[1:] != q.shape[1:] or s.dtype != q.dtype or s.device != q.device:
            raise ValueError(
                f"{where}: query {name} must be as the support's, {_describe(s)} each, "
                f"got {_describe(q)}"
            )


def _describe(x: Tensor) -> str:
    return f"{tuple(x.shape[1:])} {str(x.dtype).removeprefix('torch.')} on {x.device}"


def _count(whole: Episode) -> int:
    sizes = [len(x) if isinstance(x, Tensor) and x.dim() else 0 for part in whole for x in part]
    if min(sizes) < 1 or len(set(sizes)) > 1:
        raise ValueError(f"stacked episodes need one first axis of tasks, got sizes {sizes}")
    for x, _ in whole:
        if x.is_floating_point() and x.dim() < 3:
            raise ValueError(
                "stacked inputs must be (tasks, examples, …), got shape "
                f"{tuple(x.shape)}; one task alone is given as [episode]"
            )
    return sizes[0]


def _take(whole: Episode, i: int) -> Episode:
    (xs, ys), (xq, yq) = whole
    return (xs[i], ys[i]), (xq[i], yq[i])


def _kind(episode: Episode) -> list[object]:
    return [(x.shape, x.dtype, x.device) for part in episode for x in part]


def _stack(apart: list[Episode]) -> Episode:
    def pile(part: int, which: int) -> Tensor:
        return torch.stack([episode[part][which] for episode in apart])

    return (pile(0, 0), pile(0, 1)), (pile(1, 0), pile(1, 1))
