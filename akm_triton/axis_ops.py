"""The ops along one axis of a map, closed under differentiation as those of ops.py are.

With taps a, and T = T(a) down the rows or along the columns, everything is the form
F(g, z; a) = <g, T(a) z>, linear in g, z and a. ``blur_axis`` is ∂F/∂g (its adjoint ∂F/∂z),
``axis_grads`` is ∂F/∂a, in which a does not occur, and ``axis_backward`` is ∂F/∂(z, a). The
derivative of ``blur_axis`` by a along v is ``blur_axis`` with v, so these three suffice for
derivatives of any order. The other axis costs nothing: each op is one product, which reads each map
and writes each map once. A stride keeps some of what ``blur_axis`` makes; its derivatives are those
of the blur, of a cotangent with zeros where nothing was kept.

Shapes: maps (N, C, H, W); ``axis`` 2, down each column, or 3, along each row; taps (1|C, R+1) or
(N, C, R+1), centre tap first.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from akm_triton import backend as backends
from akm_triton import batching
from akm_triton.autograd import define
from akm_triton.backend.layout import along, empty_like, has_constant_size, kept_shape
from akm_triton.borders import SELF_ADJOINT
from akm_triton.gated_taps import Grads, Needs
from akm_triton.ops import spread, sum_of
from akm_triton.tracing import in_export


def _implementation(op: str, backend: str) -> Any:
    """The op of a backend, or that of ``torch`` where the backend has none."""
    own = getattr(backends.get(backend), op, None)
    return getattr(backends.get("torch"), op) if own is None else own


def _decomposes(op: str, z: Tensor, *args: Any) -> bool:
    if not has_constant_size(z):
        return False  # tiles and matrices have constant sizes
    if args[-1] != "triton" or not hasattr(backends.get("triton"), op):
        return True
    return not (in_export() or backends.get("triton").INTERPRET)


# blur_axis


def _blur_axis_kernel(
    z: Tensor, a: Tensor, axis: int, stride: int, border: str, adjoint: bool, backend: str
) -> Tensor:
    name = backend if has_constant_size(z) else "torch"
    y: Tensor = _implementation("blur_axis", name)(z, a, axis, border, adjoint, stride)
    return y


def _blur_axis_decomposes(
    z: Tensor, a: Tensor, axis: int, stride: int, border: str, adjoint: bool, backend: str
) -> bool:
    if has_constant_size(z):
        return _decomposes("blur_axis", z, backend)
    # as for ``blur``: an exported program may have to run without Python
    return torch.compiler.is_exporting() and not adjoint


def blur_axis_vjp(
    needs: Needs, z: Tensor, a: Tensor, axis: int, border: str, adjoint: bool, backend: str,
    g: Tensor | None,
) -> Grads:  # fmt: skip
    if g is None:
        return None, None
    if all(needs) and not adjoint:
        grads: Grads = axis_backward(g, z, a, axis, border, backend)
        return grads
    dz = blur_axis(g, a, axis, border, not adjoint, backend) if needs[0] else None
    left, right = (z, g) if adjoint else (g, z)  # <g, T(a)ᵀ z> = F(z, g)
    return dz, taps_grad(left, right, a, axis, border, backend) if needs[1] else None


def _blur_axis_vjp(
    needs: Needs, z: Tensor, a: Tensor, axis: int, stride: int, border: str, adjoint: bool,
    backend: str, g: Tensor | None,
) -> Grads:  # fmt: skip
    if g is not None and stride > 1:
        g = spread(g, z.shape[2:], along(axis, stride))
    return blur_axis_vjp(needs, z, a, axis, border, adjoint, backend, g)


def _blur_axis_jvp(
    tangents: Grads, z: Tensor, a: Tensor, axis: int, stride: int, border: str, adjoint: bool,
    backend: str,
) -> Tensor | None:  # fmt: skip
    dz, da = tangents
    return sum_of(
        None if dz is None else blur_axis(dz, a, axis, border, adjoint, backend, stride),
        None if da is None else blur_axis(z, da, axis, border, adjoint, backend, stride),
    )


def _blur_axis_fake(z: Tensor, a: Tensor, axis: int, stride: int, *options: Any) -> Tensor:
    return empty_like(z, along(axis, stride))


def _blur_axis_pixels(z: Tensor, a: Tensor, axis: int, stride: int, *options: Any) -> int:
    return math.prod(kept_shape(z, along(axis, stride)))


_blur_axis = define(
    "blur_axis_r2(Tensor z, Tensor a, int axis, int stride, str border, bool adjoint, str backend)"
    " -> Tensor",
    _blur_axis_kernel,
    fake=_blur_axis_fake,
    vjp=_blur_axis_vjp,
    jvp=_blur_axis_jvp,
    vmap=partial(batching.into_batch, maps=1, taps=1, lead=0),
    decomposes=_blur_axis_decomposes,
    maps=1,
    lead=0,
    passes=_blur_axis_pixels,
)


def blur_axis(
    z: Tensor, a: Tensor, axis: int, border: str, adjoint: bool, backend: str, stride: int = 1
) -> Tensor:
    """T(a) along an axis, or its adjoint T(a)ᵀ; of this axis what ``stride`` keeps."""
    adjoint = adjoint and border not in SELF_ADJOINT
    y: Tensor = _blur_axis(z, a, axis, stride, border, adjoint, backend)
    return y


# axis_grads: ∂F/∂a, of each channel, and where it is asked for of each sample


def _axis_grads_kernel(
    g: Tensor, z: Tensor, radius: int, axis: int, border: str, by_sample: bool, backend: str
) -> Tensor:
    kernel = _implementation("axis_grads", backend)
    grads: Tensor = kernel(g, z, radius, axis, border, by_sample)
    return grads


def _axis_grads_fake(
    g: Tensor, z: Tensor, radius: int, axis: int, border: str, by_sample: bool, backend: str
) -> Tensor:
    dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
    return z.new_empty((*z.shape[0 if by_sample else 1 : 2], radius + 1), dtype=dtype)


def _axis_grads_vjp(
    needs: Needs, g: Tensor, z: Tensor, radius: int, axis: int, border: str, by_sample: bool,
    backend: str, va: Tensor | None,
) -> Grads:  # fmt: skip
    if va is None:
        return None, None
    return (
        blur_axis(z, va, axis, border, False, backend) if needs[0] else None,
        blur_axis(g, va, axis, border, True, backend) if needs[1] else None,
    )


def _axis_grads_jvp(tangents: Grads, g: Tensor, z: Tensor, *options: Any) -> Tensor | None:
    dg, dz = tangents
    return sum_of(
        None if dg is None else axis_grads(dg, z, *options),
        None if dz is None else axis_grads(g, dz, *options),
    )


axis_grads = define(
    "axis_grads_r1(Tensor g, Tensor z, int radius, int axis, str border, bool by_sample,"
    " str backend) -> Tensor",
    _axis_grads_kernel,
    fake=_axis_grads_fake,
    vjp=_axis_grads_vjp,
    jvp=_axis_grads_jvp,
    vmap=batching.sums_into_batch,
    decomposes=partial(_decomposes, "axis_grads"),
    maps=2,
    lead=0,
    passes=1,
)


def taps_grad(g: Tensor, z: Tensor, a: Tensor, axis: int, border: str, backend: str) -> Tensor:
    """∂F/∂a in the shape and dtype of a."""
    grads: Tensor = axis_grads(g, z, a.shape[-1] - 1, axis, border, a.dim() == 3, backend)
    return grads.sum_to_size(a.shape).to(a.dtype)


# axis_backward: (∂F/∂z, ∂F/∂a)


def _axis_backward_kernel(
    g: Tensor, z: Tensor, a: Tensor, axis: int, border: str, backend: str
) -> tuple[Tensor, Tensor]:
    kernel = _implementation("axis_backward", backend)
    grads: tuple[Tensor, Tensor] = kernel(g, z, a, axis, border)
    return grads


def _axis_backward_vjp(
    needs: Needs, g: Tensor, z: Tensor, a: Tensor, axis: int, border: str, backend: str,
    vz: Tensor | None, va: Tensor | None,
) -> Grads:  # fmt: skip
    dg, dz, da = [], None, None
    if vz is not None:
        if needs[0]:
            dg.append(blur_axis(vz, a, axis, border, False, backend))
        if needs[2]:
            da = taps_grad(g, vz, a, axis, border, backend)
    if va is not None:
        if needs[0]:
            dg.append(blur_axis(z, va, axis, border, False, backend))
        if needs[1]:
            dz = blur_axis(g, va, axis, border, True, backend)
    return sum_of(*dg), dz, da


def _axis_backward_jvp(
    tangents: Grads, g: Tensor, z: Tensor, a: Tensor, axis: int, border: str, backend: str
) -> tuple[Tensor, Tensor]:
    dg, dz, da = tangents
    adjoint = border not in SELF_ADJOINT
    dz_along = _blur_axis_jvp((dg, da), g, a, axis, 1, border, adjoint, backend)
    grads = sum_of(
        None if dg is None else taps_grad(dg, z, a, axis, border, backend),
        None if dz is None else taps_grad(g, dz, a, axis, border, backend),
    )
    return (
        torch.zeros_like(z) if dz_along is None else dz_along,
        torch.zeros_like(a) if grads is None else grads,
    )


axis_backward = define(
    "axis_backward_r1(Tensor g, Tensor z, Tensor a, int axis, str border, str backend)"
    " -> (Tensor, Tensor)",
    _axis_backward_kernel,
    fake=lambda g, z, a, *options: (empty_like(z), torch.empty_like(a)),
    vjp=_axis_backward_vjp,
    jvp=_axis_backward_jvp,
    vmap=partial(batching.into_batch, maps=2, taps=1, lead=0),
    decomposes=partial(_decomposes, "axis_backward"),
    maps=2,
    lead=0,
    passes=2,
)
