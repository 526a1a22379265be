"""The ops, closed under differentiation, and the tap tables they take.

With tables t = [a, b], everything is the form F(g, z; t) = <g, T(a) z T(b)ᵀ>, linear in g, z, a and
b. ``blur`` is ∂F/∂g (its adjoint ∂F/∂z), ``tap_grads`` is ∂F/∂t, ``blur_backward`` is ∂F/∂(z, t),
and ``blur_pair``, T(a) z T(d)ᵀ + T(c) z T(b)ᵀ, is the derivative of ``blur`` by t along v = [c, d].
A derivative of any of them, forward or reverse, is the same ops with a tangent or a cotangent in
the place of what it differentiates: no order of derivative needs another.

Shapes: maps (N, C, H, W); t and v (2, 1|C, R+1) or (2, N, C, R+1), centre tap first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from akm_triton import backend as backends
from akm_triton import batching, tables
from akm_triton.backend.layout import format_as
from akm_triton.borders import SELF_ADJOINT
from akm_triton.internals import in_export, unobserved
from akm_triton.registration import register

Maybe = Tensor | None


def blur(z: Tensor, t: Tensor, border: str, adjoint: bool, backend: str) -> Tensor:
    """T(a) z T(b)ᵀ, or its adjoint T(a)ᵀ z T(b)."""
    result: Tensor = _blur(z, t, border, adjoint and border not in SELF_ADJOINT, backend)
    return result


def blur_pair(z: Tensor, t: Tensor, v: Tensor, border: str, adjoint: bool, backend: str) -> Tensor:
    """T(a) z T(d)ᵀ + T(c) z T(b)ᵀ, or its adjoint."""
    result: Tensor = _blur_pair(z, t, v, border, adjoint and border not in SELF_ADJOINT, backend)
    return result


def _sum(*terms: Maybe) -> Maybe:
    present = [x for x in terms if x is not None]
    return sum(present[1:], present[0]) if present else None


_backend = functools.cache(backends.get)


def _kernel(function: str, maps: int, pairs: int) -> Callable[..., Any]:
    """Call the function of the backend that the last argument names, on so many maps, then so many
    pairs of tables, each pair apart, then the options."""

    def run(*args: Any) -> Any:
        count = maps + pairs
        apart = [table for pair in args[maps:count] for table in pair.unbind(0)]
        return getattr(_backend(args[-1]), function)(*args[:maps], *apart, *args[count:-1])

    return run


def _decomposes(z: Tensor, *args: Any) -> bool:
    if not all(isinstance(size, int) for size in z.shape[2:]):
        return False  # tiles and matrices have constant sizes
    backend = args[-1]
    return backend == "torch" or not (in_export() or _backend(backend).INTERPRET)


def _like(z: Tensor) -> Tensor:
    return format_as(z, torch.empty_like(z))


# Reverse mode: (needs_grad, tensors, *options, *cotangents) to the gradients.


def _blur_vjp(
    needs: Any, tensors: Any, border: str, adjoint: bool, backend: str, g: Maybe
) -> tuple[Maybe, ...]:
    z, t = tensors
    if g is None:
        return None, None
    if all(needs) and not adjoint:
        fused: tuple[Tensor, ...] = blur_backward(g, z, t, border, backend)
        return fused
    dz = blur(g, t, border, not adjoint, backend) if needs[0] else None
    left, right = (z, g) if adjoint else (g, z)  # <g, T(a)ᵀ z T(b)> = F(z, g)
    return dz, tap_grads(left, right, t, border, backend) if needs[1] else None


def _blur_pair_vjp(
    needs: Any, tensors: Any, border: str, adjoint: bool, backend: str, g: Maybe
) -> tuple[Maybe, ...]:
    z, t, v = tensors
    if g is None:
        return None, None, None
    dz = blur_pair(g, t, v, border, not adjoint, backend) if needs[0] else None
    left, right = (z, g) if adjoint else (g, z)
    dt = tap_grads(left, right, v, border, backend) if needs[1] else None
    dv = tap_grads(left, right, t, border, backend) if needs[2] else None
    return dz, dt, dv


def _blur_backward_vjp(
    needs: Any, tensors: Any, border: str, backend: str, vz: Maybe, vt: Maybe
) -> tuple[Maybe, ...]:
    g, z, t = tensors
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
    return _sum(*dg), _sum(*dz), _sum(*dt)


def _tap_grads_vjp(
    needs: Any, tensors: Any, border: str, backend: str, vt: Maybe
) -> tuple[Maybe, ...]:
    return _blur_backward_vjp(needs, tensors, border, backend, None, vt)


# Forward mode: (tangents, tensors, *options) to the tangents of the results.


def _blur_jvp(tangents: Any, tensors: Any, border: str, adjoint: bool, backend: str) -> Maybe:
    (dz, dt), (z, t) = tangents, tensors
    options = border, adjoint, backend
    return _sum(
        None if dz is None else blur(dz, t, *options),
        None if dt is None else blur_pair(z, t, dt, *options),
    )


def _blur_pair_jvp(tangents: Any, tensors: Any, *options: Any) -> Maybe:
    (dz, dt, dv), (z, t, v) = tangents, tensors
    varied = ((dz, t, v), (z, dt, v), (z, t, dv))
    return _sum(*(blur_pair(*x, *options) for x in varied if all(y is not None for y in x)))


def _tap_grads_jvp(tangents: Any, tensors: Any, *options: Any) -> Maybe:
    (dg, dz, dt), (g, z, t) = tangents, tensors
    varied = ((dg, z, t), (g, dz, t), (g, z, dt))
    return _sum(*(tap_grads(*x, *options) for x in varied if all(y is not None for y in x)))


def _blur_backward_jvp(
    tangents: Any, tensors: Any, border: str, backend: str
) -> tuple[Tensor, Maybe]:
    (g, z, t), (dg, _, dt) = tensors, tangents
    adjoint = border not in SELF_ADJOINT
    tz = _blur_jvp((dg, dt), (g, t), border, adjoint, backend)
    tz = torch.zeros_like(z) if tz is None else tz
    return tz, _tap_grads_jvp(tangents, tensors, border, backend)


_OPTIONS = "str border, bool adjoint, str backend"
_blur: Callable[..., Any] = register(
    f"blur_r1(Tensor z, Tensor t, {_OPTIONS}) -> Tensor",
    _kernel("blur", 1, 1),
    fake=lambda z, *others: _like(z),
    backward=_blur_vjp,
    jvp=_blur_jvp,
    vmap=lambda *args: batching.folded(_blur, 1, 1, *args),
    decomposes=_decomposes,
)
_blur_pair: Callable[..., Any] = register(
    f"blur_pair_r1(Tensor z, Tensor t, Tensor v, {_OPTIONS}) -> Tensor",
    _kernel("blur_pair", 1, 2),
    fake=lambda z, *others: _like(z),
    backward=_blur_pair_vjp,
    jvp=_blur_pair_jvp,
    vmap=lambda *args: batching.folded(_blur_pair, 1, 2, *args),
    decomposes=_decomposes,
)
blur_backward: Callable[..., Any] = register(
    "blur_backward_r1(Tensor g, Tensor z, Tensor t, str border, str backend) -> (Tensor, Tensor)",
    _kernel("blur_backward", 2, 1),
    fake=lambda g, z, t, *options: (_like(z), torch.empty_like(t)),
    backward=_blur_backward_vjp,
    jvp=_blur_backward_jvp,
    vmap=lambda *args: batching.folded(blur_backward, 2, 1, *args),
    decomposes=_decomposes,
)
tap_grads: Callable[..., Any] = register(
    "tap_grads_r1(Tensor g, Tensor z, Tensor t, str border, str backend) -> Tensor",
    _kernel("tap_grads", 2, 1),
    fake=lambda g, z, t, *options: torch.empty_like(t),
    backward=_tap_grads_vjp,
    jvp=_tap_grads_jvp,
    vmap=lambda *args: batching.folded(tap_grads, 2, 1, *args),
    decomposes=_decomposes,
)


def modulate(
    z: Tensor, r: Tensor, s: Tensor | None, border: str, backend: ModuleType, *options: Any
) -> Tensor:
    """sigmoid(s) · (G(|r|) ∗ z); r and s (1|C,) or (N, C), of one shape; options of the taps."""
    arguments = r, r if s is None else s, s is not None, *options
    fuses = hasattr(backend, "tables")
    if unobserved(z, *arguments[:2]):
        t = (backend.tables if fuses else tables.tables)(*arguments)
        y: Tensor = backend.blur(z, *t.unbind(0), border, False)
        return y
    t = (tables.fused if fuses else tables.tables)(*arguments)
    return blur(z, t, border, False, backend.__name__.rpartition(".")[2])
