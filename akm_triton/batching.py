"""vmap of the ops: a batched dimension folds into N, with a table for each sample where need be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def folded(
    op: Callable[..., Any], maps: int, tables: int, info: Any, dims: Any, *args: Any
) -> tuple[Any, Any]:
    """vmap rule of an op of so many maps, then so many pairs of tables: one call.

    An op of one map returns a map; one of two, perhaps a map and then the gradient of the tables.
    """
    size, count = info.batch_size, maps + tables
    x = [_fold(m, dim, size) for m, dim in zip(args[:maps], dims, strict=False)]
    pairs = list(zip(args[maps:count], dims[maps:count], strict=True))
    shared = maps == 1 and all(dim is None and t.dim() == 3 for t, dim in pairs)
    t = [pair if shared else _fold_tables(pair, dim, x[0], size) for pair, dim in pairs]
    out = op(*x, *t, *args[count:])
    if maps == 1:
        return out.unflatten(0, (size, -1)), 0
    if isinstance(out, tuple):
        dz, grads = out
        return (dz.unflatten(0, (size, -1)), _unfold_grad(grads, *pairs[0], size)), (0, 0)
    return _unfold_grad(out, *pairs[0], size), 0


def elementwise(
    op: Callable[..., Any], inputs: str, outputs: str, info: Any, dims: Any, *args: Any
) -> tuple[Any, Any]:
    """vmap rule of an op on every element of r: a batched dimension leads, in tables "t" after the
    axis that tells them apart."""
    count, size = len(inputs), info.batch_size
    leading = [_leading(x, d, size) for x, d in zip(args[:count], dims, strict=False)]
    tensors = [
        x.transpose(0, 1) if kind == "t" else x for kind, x in zip(inputs, leading, strict=True)
    ]
    out = op(*tensors, *args[count:])
    places = tuple(int(kind == "t") for kind in outputs)
    return (out, places) if isinstance(out, tuple) else (out, places[0])


def _leading(x: Tensor, dim: int | None, size: int) -> Tensor:
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def _fold(x: Tensor, dim: int | None, size: int) -> Tensor:
    """(N, C, H, W), batched or not, to (size·N, C, H, W)."""
    return _leading(x, dim, size).flatten(0, 1)


def _fold_tables(t: Tensor, dim: int | None, x: Tensor, size: int) -> Tensor:
    """(2, 1|C, R+1) or (2, N, C, R+1), batched or not, to (2, size·N, C, R+1) for x (size·N, …)."""
    t = _leading(t, dim, size)
    if t.dim() == 4:
        t = t[:, :, None]
    n, c = x.shape[0] // size, x.shape[1]
    return t.expand(size, 2, n, c, -1).transpose(0, 1).flatten(1, 2)


def _unfold_grad(grad: Tensor, t: Tensor, dim: int | None, size: int) -> Tensor:
    """(2, size·N, C, R+1) to (size, *shape of t)."""
    shape = _leading(t, dim, size).shape
    grad = grad.unflatten(1, (size, -1)).transpose(0, 1)
    return (grad.sum(2) if len(shape) == 4 else grad).sum_to_size(shape)
