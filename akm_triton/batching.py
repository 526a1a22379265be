"""vmap of the ops: a batched dimension folds into N, with a table for each sample where need be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def blur(
    op: Callable[..., Any], info: Any, dims: Any, z: Tensor, a: Tensor, b: Tensor, *options: Any
) -> tuple[Tensor, int]:
    """vmap rule of an op (z, a, b) → y; one launch."""
    size = info.batch_size
    x = _fold(z, dims[0], size)
    if dims[1] is not None or dims[2] is not None or a.dim() + b.dim() > 4:
        a, b = (_fold_table(t, dim, x, size) for t, dim in ((a, dims[1]), (b, dims[2])))
    return op(x, a, b, *options).unflatten(0, (size, -1)), 0


def grads(
    op: Callable[..., Any], info: Any, dims: Any,
    g: Tensor, z: Tensor, a: Tensor, b: Tensor, *options: Any,
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:  # fmt: skip
    """vmap rule of an op (g, z, a, b) → (*maps, ∂F/∂a, ∂F/∂b); one launch."""
    size = info.batch_size
    x, y = _fold(g, dims[0], size), _fold(z, dims[1], size)
    ta, tb = (_fold_table(t, dim, x, size) for t, dim in ((a, dims[2]), (b, dims[3])))
    *maps, da, db = op(x, y, ta, tb, *options)
    found = [m.unflatten(0, (size, -1)) for m in maps]
    found += [_unfold_grad(da, a, dims[2], size), _unfold_grad(db, b, dims[3], size)]
    return tuple(found), (0,) * len(found)


def _leading(x: Tensor, dim: int | None, size: int) -> Tensor:
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def _fold(x: Tensor, dim: int | None, size: int) -> Tensor:
    """(N, C, H, W), batched or not, to (size·N, C, H, W)."""
    return _leading(x, dim, size).flatten(0, 1)


def _fold_table(table: Tensor, dim: int | None, x: Tensor, size: int) -> Tensor:
    """A table, batched or not, to (size·N, C, R+1) for x (size·N, C, H, W)."""
    table = _leading(table, dim, size)
    if table.dim() == 3:
        table = table[:, None]
    return table.expand(size, x.shape[0] // size, x.shape[1], -1).flatten(0, 1)


def _unfold_grad(grad: Tensor, table: Tensor, dim: int | None, size: int) -> Tensor:
    """(size·N, C, R+1) to (size, *shape of the table)."""
    shape = _leading(table, dim, size).shape
    grad = grad.unflatten(0, (size, -1))
    if len(shape) == 3:
        return grad.sum(1).sum_to_size(shape)
    return grad.sum_to_size(shape)
