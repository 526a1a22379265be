"""vmap of the ops: a batched dimension goes into N, with taps for each sample where need be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def into_batch(
    op: Callable[..., Any], info: Any, in_dims: Any, *args: Any, maps: int, taps: int, lead: int = 1
) -> tuple[Any, Any]:
    """vmap rule of an op of so many maps, then so many taps: one call of the op.

    Taps have so many leading axes before samples and channels: one for the two tables of a map,
    none where there is one table. An op of one map returns a map. An op of two returns the gradient
    of the taps, perhaps after a map.
    """
    size, count = info.batch_size, maps + taps
    x = [_map_into_batch(m, dim, size) for m, dim in zip(args[:maps], in_dims, strict=False)]
    pairs = list(zip(args[maps:count], in_dims[maps:count], strict=True))
    # without gradients of taps, taps that all samples share may stay as they are
    shared = maps == 1 and all(dim is None and t.dim() == 2 + lead for t, dim in pairs)
    t = [pair if shared else _taps_into_batch(pair, dim, x[0], size, lead) for pair, dim in pairs]
    out = op(*x, *t, *args[count:])
    if maps == 1:
        return out.unflatten(0, (size, -1)), 0
    if isinstance(out, tuple):
        dz, grads = out
        grads = _grad_out_of_batch(grads, *pairs[0], size, lead)
        return (dz.unflatten(0, (size, -1)), grads), (0, 0)
    return _grad_out_of_batch(out, *pairs[0], size, lead), 0


def sums_into_batch(
    op: Callable[..., Any], info: Any, in_dims: Any, g: Tensor, z: Tensor, *options: Any
) -> tuple[Tensor, int]:
    """vmap rule of an op of two maps whose last option but one is whether each sample gets its own
    sums, (N, C, R+1), or all samples one, (C, R+1)."""
    size = info.batch_size
    x = [_map_into_batch(m, dim, size) for m, dim in zip((g, z), in_dims, strict=False)]
    *others, by_sample, backend = options
    sums = op(*x, *others, True, backend).unflatten(0, (size, -1))
    return (sums if by_sample else sums.sum(1)), 0


def elementwise(
    op: Callable[..., Any], info: Any, in_dims: Any, *args: Any, tensors: int
) -> tuple[Any, Any]:
    """vmap rule of an op on every element of its first argument, r.

    The batched dimension leads, but in taps, (2, *r.shape, R+1), it follows the axis of length 2.
    """
    dims = in_dims[:tensors]
    scalar = args[0].dim() - (dims[0] is not None)  # dimensions of r without the batched one
    batched = []
    for x, dim in zip(args[:tensors], dims, strict=True):
        is_taps = x.dim() - (dim is not None) > scalar
        lead = _leading(x, dim, info.batch_size)
        batched.append(lead.transpose(0, 1) if is_taps else lead)
    out = op(*batched, *args[tensors:])
    if isinstance(out, tuple):
        return out, tuple(int(y.dim() > scalar + 1) for y in out)
    return out, int(out.dim() > scalar + 1)


def _leading(x: Tensor, dim: int | None, size: int) -> Tensor:
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def _map_into_batch(x: Tensor, dim: int | None, size: int) -> Tensor:
    """(N, C, H, W), batched or not, to (size·N, C, H, W)."""
    return _leading(x, dim, size).flatten(0, 1)


def _taps_into_batch(t: Tensor, dim: int | None, x: Tensor, size: int, lead: int) -> Tensor:
    """(…, 1|C, R+1) or (…, N, C, R+1), batched or not, to (…, size·N, C, R+1) for x (size·N, …)."""
    t = _leading(t, dim, size)
    if t.dim() == 3 + lead:
        t = t.unsqueeze(-3)
    n, c = x.shape[0] // size, x.shape[1]
    return t.expand(*t.shape[:-3], n, c, -1).movedim(0, lead).flatten(lead, lead + 1)


def _grad_out_of_batch(grad: Tensor, t: Tensor, dim: int | None, size: int, lead: int) -> Tensor:
    """(…, size·N, C, R+1) to (size, *shape of t)."""
    shape = _leading(t, dim, size).shape
    grad = grad.unflatten(lead, (size, -1)).movedim(lead, 0)
    return (grad.sum(1 + lead) if len(shape) == 3 + lead else grad).sum_to_size(shape)
