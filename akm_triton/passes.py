"""A blur along some axes of signals, maps and volumes, as ops on maps that are views of them.

    (N, C, L)         is a map of one row, (N, C, 1, L)
    (N, C, D, H, W)   is blurred over (H, W) as maps (N, C·D, H, W), or (N·D, C, H, W) where
                      channels lie side by side; then over D as the rows of maps (N, C, D, H·W)

A pass reads its map once and writes it once: a signal has one pass, and a volume two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from akm_triton import axis_ops, ops

Axes = tuple[int, ...]
"""Of a tensor (N, C, …): 2 and more, in their order."""


def passes(axes: Axes, rank: int) -> list[Axes]:
    """Which axes are blurred together: of a map, or of the slices of a volume, both."""
    both = (rank - 2, rank - 1)
    if rank < 4 or not set(both) <= set(axes):
        return [(axis,) for axis in axes]
    return [both, *((axis,) for axis in axes if axis not in both)]


def blur(
    z: Tensor, taps: Sequence[Tensor], axes: Axes, stride: tuple[int, ...], border: str,
    backend: str, by_sample: bool,
) -> Tensor:  # fmt: skip
    """z (N, C, …) blurred along ``axes``, and of each of them every stride-th pixel kept.

    ``taps`` are those of each of ``passes``: (2, 1|C, R+1), or (2, N, C, R+1) with ``by_sample``;
    of a single axis the same without the 2.
    """
    step = dict(zip(axes, stride, strict=True))
    for which, t in zip(passes(axes, z.dim()), taps, strict=True):
        if len(which) == 2:
            z = _of_slices(
                z, t, by_sample, _pair(border, (step[which[0]], step[which[1]]), backend)
            )
        else:
            z = _along(z, t, which[0], step[which[0]], border, backend, by_sample)
    return z


_Function = Callable[[Tensor, Tensor], Tensor]
"""Of maps and their taps."""


def _pair(border: str, stride: tuple[int, int], backend: str) -> _Function:
    return lambda x, t: ops.blur_strided(x, t, border, stride, backend)


def _single(axis: int, border: str, stride: int, backend: str) -> _Function:
    return lambda x, a: axis_ops.blur_axis(x, a, axis, border, False, backend, stride)


def _along(
    z: Tensor, a: Tensor, axis: int, stride: int, border: str, backend: str, by_sample: bool
) -> Tensor:
    if axis == z.dim() - 1:
        y = _single(3, border, stride, backend)(as_map(z), a)
        return y.reshape(*z.shape[:-1], y.shape[-1]) if z.dim() != 4 else y
    f = _single(2, border, stride, backend)
    if axis == 2:
        y = f(z.flatten(3), a)
        return y.unflatten(3, z.shape[3:]) if z.dim() == 5 else y
    return _of_slices(z, a, by_sample, f)


def as_map(z: Tensor) -> Tensor:
    """(N, C, L), a signal, as a map of one row; a map as it is; (N, C, …, L) as maps whose rows
    are those of z."""
    return z.unsqueeze(2) if z.dim() == 3 else z.flatten(2, -2)


def _of_slices(z: Tensor, t: Tensor, by_sample: bool, f: _Function) -> Tensor:
    """f of maps, or of the slices (H, W) of volumes."""
    if z.dim() == 4:
        return f(z, t)
    n, c, depth = z.shape[:3]
    last = not z.is_contiguous() and z.movedim(1, -1).is_contiguous()
    if last or not isinstance(depth, int):  # a graph may hold symbols for N, and not for C
        if by_sample:
            t = _repeated(t, depth, t.dim() - 3)
        y = f(z.transpose(1, 2).flatten(0, 1), t).unflatten(0, (n, depth)).transpose(1, 2)
        return y if last else y.contiguous()
    if t.shape[-2] > 1:
        t = _repeated(t, depth, t.dim() - 2)
    return f(z.flatten(1, 2), t).unflatten(1, (c, depth))


def _repeated(t: Tensor, times: int, dim: int) -> Tensor:
    """Each entry of an axis so many times, one after another."""
    t = t.unsqueeze(dim + 1)
    return t.expand(*t.shape[: dim + 1], times, *t.shape[dim + 2 :]).flatten(dim, dim + 1)
