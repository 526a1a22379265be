"""Which examples of the support set each inner step sees."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from akm_triton.meta.episodes import Examples


def mini_batches(
    support: Examples, size: int | None, steps: int, at_once: bool
) -> Iterator[Examples]:
    """For each step the whole support set or, with a ``size``, as many examples of it, of each task
    its own: in an order that ``torch.manual_seed`` decides, and none twice before all came once.

    Raises:
        ValueError: there are fewer examples than ``size``.
    """
    if size is None:
        for _ in range(steps):
            yield support
        return
    x, y = support
    tasks, count = (len(x), x.shape[1]) if at_once else (1, len(x))
    if size > count:
        raise ValueError(
            f"inner_batch must be at most the number of support examples, {count}, got {size}"
        )
    passes = -(-steps * size // count)
    orders = [torch.cat([torch.randperm(count) for _ in range(passes)]) for _ in range(tasks)]
    chosen = torch.stack(orders)[:, : steps * size].view(tasks, steps, size).to(x.device)
    task = torch.arange(tasks, device=x.device)[:, None]
    for step in range(steps):
        which = chosen[:, step]
        yield (x[task, which], y[task, which]) if at_once else (x[which[0]], y[which[0]])
