"""The ops, closed under differentiation. Each has its kernel, its derivatives and its definition in
one block.

With taps t = [a, b], everything is the form F(g, z; t) = <g, T(a) z T(b)ᵀ>, linear in g, z, a and
b. ``blur`` is ∂F/∂g (its adjoint ∂F/∂z), ``tap_grads`` is ∂F/∂t, ``blur_backward`` is ∂F/∂(z, t),
and ``blur_pair``, T(a) z T(d)ᵀ + T(c) z T(b)ᵀ, is the derivative of ``blur`` by t along v = [c, d].
A derivative of any of them, forward or reverse, is the same ops with a tangent or a cotangent in
the place of what it differentiates, so these four ops suffice for derivatives of any order.

``blur_strided`` is a blur of which a stride keeps some rows and columns. Its derivatives are those
of the blur, of a cotangent with zeros where nothing was kept, so they are these four ops too.

Shapes: maps (N, C, H, W); t and v (2, 1|C, R+1) or (2, N, C, R+1), centre tap first. A vjp takes
which gradients are needed, the op's arguments and its cotangents; a jvp takes tangents and the op's
arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from akm_triton import backend as backends
from akm_triton import batching
from akm_triton.autograd import define
from akm_triton.backend.layout import (
    Stride,
    empty_like,
    format_as,
    has_constant_size,
    is_channels_last,
    kept_shape,
)
from akm_triton.borders import SELF_ADJOINT
from akm_triton.gated_taps import Grads, Needs
from akm_triton.tracing import in_export


def sum_of(*terms: Tensor | None) -> Tensor | None:
    """The sum of those that are there."""
    present = [x for x in terms if x is not None]
    return sum(present[1:], present[0]) if present else None


def _empty_map(z: Tensor) -> Tensor:
    return format_as(z, torch.empty_like(z))


def _decomposes(z: Tensor, *args: Any) -> bool:
    if not has_constant_size(z):
        return False  # tiles and matrices have constant sizes
    name = args[-1]
    # the CPU's kernels are not PyTorch's operations: a graph holds what ``torch`` does
    return name in ("cpu", "torch") or not (in_export() or backends.get(name).INTERPRET)


# blur


def _blur_kernel(z: Tensor, t: Tensor, border: str, adjoint: bool, backend: str) -> Tensor:
    name = backend if has_constant_size(z) else "torch"
    y: Tensor = backends.get(name).blur(z, t, border, adjoint)
    return y


def _blur_decomposes(z: Tensor, t: Tensor, border: str, adjoint: bool, backend: str) -> bool:
    if has_constant_size(z):
        return _decomposes(z, backend)
    # into convolutions: the op is faster, but an exported program may have to run without Python
    return torch.compiler.is_exporting() and not adjoint


def blur_vjp(
    needs: Needs, z: Tensor, t: Tensor, border: str, adjoint: bool, backend: str, g: Tensor | None
) -> Grads:
    if g is None:
        return None, None
    if all(needs) and not adjoint:
        grads: Grads = blur_backward(g, z, t, border, backend)
        return grads
    dz = blur(g, t, border, not adjoint, backend) if needs[0] else None
    left, right = (z, g) if adjoint else (g, z)  # <g, T(a)ᵀ z T(b)> = F(z, g)
    return dz, tap_grads(left, right, t, border, backend) if needs[1] else None


def _blur_jvp(
    tangents: Grads, z: Tensor, t: Tensor, border: str, adjoint: bool, backend: str
) -> Tensor | None:
    dz, dt = tangents
    return sum_of(
        None if dz is None else blur(dz, t, border, adjoint, backend),
        None if dt is None else blur_pair(z, t, dt, border, adjoint, backend),
    )


_blur = define(
    "blur_r1(Tensor z, Tensor t, str border, bool adjoint, str backend) -> Tensor",
    _blur_kernel,
    fake=lambda z, *others: _empty_map(z),
    vjp=blur_vjp,
    jvp=_blur_jvp,
    vmap=partial(batching.into_batch, maps=1, taps=1),
    decomposes=_blur_decomposes,
    maps=1,
    passes=2,
)


def blur(z: Tensor, t: Tensor, border: str, adjoint: bool, backend: str) -> Tensor:
    """T(a) z T(b)ᵀ, or its adjoint T(a)ᵀ z T(b)."""
    y: Tensor = _blur(z, t, border, adjoint and border not in SELF_ADJOINT, backend)
    return y


# blur_strided


def spread(g: Tensor, size: Sequence[int], stride: Stride) -> Tensor:
    """Maps of this size, (H, W), that are g where the stride keeps a row and a column, and else 0:
    the adjoint of keeping them. In the memory format of g."""
    last = is_channels_last(g)
    x = g.permute(0, 2, 3, 1) if last else g  # slice_backward returns contiguous tensors
    first = 1 if last else 2
    for dim, (length, step) in enumerate(zip(size, stride, strict=True), first):
        shape = [*x.shape[:dim], length, *x.shape[dim + 1 :]]
        x = torch.ops.aten.slice_backward(x, shape, dim, 0, length, step)
    return x.permute(0, 3, 1, 2) if last else x


def _blur_strided_kernel(
    z: Tensor, t: Tensor, border: str, down: int, across: int, backend: str
) -> Tensor:
    name = backend if has_constant_size(z) else "torch"
    y: Tensor = backends.get(name).blur(z, t, border, False, stride=(down, across))
    return y


def _blur_strided_decomposes(
    z: Tensor, t: Tensor, border: str, down: int, across: int, backend: str
) -> bool:
    return _blur_decomposes(z, t, border, False, backend)


def _blur_strided_fake(
    z: Tensor, t: Tensor, border: str, down: int, across: int, backend: str
) -> Tensor:
    return empty_like(z, (down, across))


def _blur_strided_pixels(
    z: Tensor, t: Tensor, border: str, down: int, across: int, backend: str
) -> int:
    """Kept rows of all columns, then kept rows of kept columns."""
    n, c, rows, columns = kept_shape(z, (down, across))
    return n * c * rows * (z.shape[3] + columns)


def _blur_strided_vjp(
    needs: Needs, z: Tensor, t: Tensor, border: str, down: int, across: int, backend: str,
    g: Tensor | None,
) -> Grads:  # fmt: skip
    spread_g = None if g is None else spread(g, z.shape[2:], (down, across))
    return blur_vjp(needs, z, t, border, False, backend, spread_g)


def _blur_strided_jvp(
    tangents: Grads, z: Tensor, t: Tensor, border: str, down: int, across: int, backend: str
) -> Tensor | None:
    dz, dt = tangents
    along = None if dt is None else blur_pair(z, t, dt, border, False, backend)
    return sum_of(
        None if dz is None else _blur_strided(dz, t, border, down, across, backend),
        None if along is None else along[..., ::down, ::across],
    )


_blur_strided = define(
    "blur_strided_r1(Tensor z, Tensor t, str border, int down, int across, str backend) -> Tensor",
    _blur_strided_kernel,
    fake=_blur_strided_fake,
    vjp=_blur_strided_vjp,
    jvp=_blur_strided_jvp,
    vmap=partial(batching.into_batch, maps=1, taps=1),
    decomposes=_blur_strided_decomposes,
    maps=1,
    passes=_blur_strided_pixels,
)


def blur_strided(z: Tensor, t: Tensor, border: str, stride: Stride, backend: str) -> Tensor:
    """The rows and columns of T(a) z T(b)ᵀ that the stride keeps; the others are not computed."""
    if stride == (1, 1):
        return blur(z, t, border, False, backend)
    y: Tensor = _blur_strided(z, t, border, *stride, backend)
    return y


# blur_pair


def _blur_pair_kernel(
    z: Tensor, t: Tensor, v: Tensor, border: str, adjoint: bool, backend: str
) -> Tensor:
    y: Tensor = backends.get(backend).blur_pair(z, t, v, border, adjoint)
    return y


def _blur_pair_vjp(
    needs: Needs, z: Tensor, t: Tensor, v: Tensor, border: str, adjoint: bool, backend: str,
    g: Tensor | None,
) -> Grads:  # fmt: skip
    if g is None:
        return None, None, None
    left, right = (z, g) if adjoint else (g, z)
    return (
        blur_pair(g, t, v, border, not adjoint, backend) if needs[0] else None,
        tap_grads(left, right, v, border, backend) if needs[1] else None,
        tap_grads(left, right, t, border, backend) if needs[2] else None,
    )


def _blur_pair_jvp(
    tangents: Grads, z: Tensor, t: Tensor, v: Tensor, border: str, adjoint: bool, backend: str
) -> Tensor | None:
    dz, dt, dv = tangents
    options = border, adjoint, backend
    return sum_of(
        None if dz is None else blur_pair(dz, t, v, *options),
        None if dt is None else blur_pair(z, dt, v, *options),
        None if dv is None else blur_pair(z, t, dv, *options),
    )


_blur_pair = define(
    "blur_pair_r1(Tensor z, Tensor t, Tensor v, str border, bool adjoint, str backend) -> Tensor",
    _blur_pair_kernel,
    fake=lambda z, *others: _empty_map(z),
    vjp=_blur_pair_vjp,
    jvp=_blur_pair_jvp,
    vmap=partial(batching.into_batch, maps=1, taps=2),
    decomposes=_decomposes,
    maps=1,
    passes=4,
)


def blur_pair(z: Tensor, t: Tensor, v: Tensor, border: str, adjoint: bool, backend: str) -> Tensor:
    """T(a) z T(d)ᵀ + T(c) z T(b)ᵀ, or its adjoint."""
    y: Tensor = _blur_pair(z, t, v, border, adjoint and border not in SELF_ADJOINT, backend)
    return y


# tap_grads: [∂F/∂a, ∂F/∂b]


def _tap_grads_kernel(g: Tensor, z: Tensor, t: Tensor, border: str, backend: str) -> Tensor:
    grads: Tensor = backends.get(backend).tap_grads(g, z, t, border)
    return grads


def _tap_grads_vjp(
    needs: Needs, g: Tensor, z: Tensor, t: Tensor, border: str, backend: str, vt: Tensor | None
) -> Grads:
    return _blur_backward_vjp(needs, g, z, t, border, backend, None, vt)


def _tap_grads_jvp(
    tangents: Grads, g: Tensor, z: Tensor, t: Tensor, border: str, backend: str
) -> Tensor | None:
    dg, dz, dt = tangents
    return sum_of(
        None if dg is None else tap_grads(dg, z, t, border, backend),
        None if dz is None else tap_grads(g, dz, t, border, backend),
        None if dt is None else tap_grads(g, z, dt, border, backend),
    )


tap_grads = define(
    "tap_grads_r1(Tensor g, Tensor z, Tensor t, str border, str backend) -> Tensor",
    _tap_grads_kernel,
    fake=lambda g, z, t, *options: torch.empty_like(t),
    vjp=_tap_grads_vjp,
    jvp=_tap_grads_jvp,
    vmap=partial(batching.into_batch, maps=2, taps=1),
    decomposes=_decomposes,
    maps=2,
    passes=4,
)


# blur_backward: (∂F/∂z, [∂F/∂a, ∂F/∂b])


def _blur_backward_kernel(
    g: Tensor, z: Tensor, t: Tensor, border: str, backend: str
) -> tuple[Tensor, Tensor]:
    grads: tuple[Tensor, Tensor] = backends.get(backend).blur_backward(g, z, t, border)
    return grads


def _blur_backward_vjp(
    needs: Needs, g: Tensor, z: Tensor, t: Tensor, border: str, backend: str,
    vz: Tensor | None, vt: Tensor | None,
) -> Grads:  # fmt: skip
    dg, dz, dt = [], [], []
    if vz is not None:
        if needs[0]:
            dg.append(blur(vz, t, border, False, backend))
        if needs[2]:
            dt.append(tap_grads(g, vz, t, border, backend))
    if vt is not None:
        if needs[0]:
            dg.append(blur_pair(z, t, vt, border, False, backend))
        if needs[1]:
            dz.append(blur_pair(g, t, vt, border, True, backend))
        if needs[2]:
            dt.append(tap_grads(g, z, vt, border, backend))
    return sum_of(*dg), sum_of(*dz), sum_of(*dt)


def _blur_backward_jvp(
    tangents: Grads, g: Tensor, z: Tensor, t: Tensor, border: str, backend: str
) -> tuple[Tensor, Tensor | None]:
    dg, _, dt = tangents
    adjoint = border not in SELF_ADJOINT
    tz = _blur_jvp((dg, dt), g, t, border, adjoint, backend)
    tz = torch.zeros_like(z) if tz is None else tz
    return tz, _tap_grads_jvp(tangents, g, z, t, border, backend)


blur_backward = define(
    "blur_backward_r1(Tensor g, Tensor z, Tensor t, str border, str backend) -> (Tensor, Tensor)",
    _blur_backward_kernel,
    fake=lambda g, z, t, *options: (_empty_map(z), torch.empty_like(t)),
    vjp=_blur_backward_vjp,
    jvp=_blur_backward_jvp,
    vmap=partial(batching.into_batch, maps=2, taps=1),
    decomposes=_decomposes,
    maps=2,
    passes=5,
)
