"""The ops, closed under differentiation, and the tap tables they take.

Everything is the multilinear form F(g, z; a, b) = <g, T(a) z T(b)ᵀ>. ``blur`` is ∂F/∂g (its adjoint
∂F/∂z), ``tap_grads`` is ∂F/∂(a, b), and ``blur_backward`` both at once. F is linear in each
argument, so a derivative of any of them, forward or reverse, is the same ops with a tangent or a
cotangent in the place of the argument it differentiates: no order of derivative needs another.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from akm_triton import batching
from akm_triton.backend.layout import format_as
from akm_triton.borders import SELF_ADJOINT
from akm_triton.gaussian import gaussian_taps
from akm_triton.internals import in_export, in_transform
from akm_triton.registration import register

Maybe = Tensor | None


def blur(z: Tensor, a: Tensor, b: Tensor, border: str, adjoint: bool, backend: str) -> Tensor:
    """T(a) z T(b)ᵀ, or its adjoint T(a)ᵀ z T(b): z (N, C, H, W); a, b (1|C, R+1) or (N, C, R+1)."""
    adjoint = adjoint and border not in SELF_ADJOINT
    result: Tensor = _blur(z, a, b, border, adjoint, backend)
    return result


def _sum(*terms: Maybe) -> Maybe:
    present = [x for x in terms if x is not None]
    return sum(present[1:], present[0]) if present else None


def _or_zeros(x: Maybe, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if x is None else x


def _backend(name: str) -> ModuleType:
    return import_module(f"akm_triton.backend.{name}")


def _run(function: str, *args: Any) -> Any:
    """Call the function of the backend that the last argument names."""
    return getattr(_backend(args[-1]), function)(*args[:-1])


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
    z, a, b = tensors
    if g is None:
        return None, None, None
    if not any(needs[1:]):
        return blur(g, a, b, border, not adjoint, backend), None, None
    if needs[0] and not adjoint:
        fused: tuple[Tensor, ...] = _blur_backward(g, z, a, b, border, backend)
        return fused
    left, right = (z, g) if adjoint else (g, z)  # <g, T(a)ᵀ z T(b)> = F(z, g)
    da, db = _tap_grads(left, right, a, b, border, backend)
    return blur(g, a, b, border, not adjoint, backend) if needs[0] else None, da, db


def _blur_backward_vjp(
    needs: Any, tensors: Any, border: str, backend: str, vz: Maybe, va: Maybe, vb: Maybe
) -> tuple[Maybe, ...]:
    g, z, a, b = tensors
    terms: list[list[Maybe]] = [[], [], [], []]
    if vz is not None:
        terms[0].append(blur(vz, a, b, border, False, backend))
        da, db = _tap_grads(g, vz, a, b, border, backend)
        terms[2].append(da)
        terms[3].append(db)
    for x, y in ((va, b), (a, vb)):
        if x is not None and y is not None:
            terms[0].append(blur(z, x, y, border, False, backend))
            terms[1].append(blur(g, x, y, border, True, backend))
    if va is not None or vb is not None:
        # ∂F/∂a sees b only and ∂F/∂b sees a only
        da, db = _tap_grads(g, z, _or_zeros(va, a), _or_zeros(vb, b), border, backend)
        terms[2].append(da)
        terms[3].append(db)
    return tuple(_sum(*term) for term in terms)


def _tap_grads_vjp(
    needs: Any, tensors: Any, border: str, backend: str, va: Maybe, vb: Maybe
) -> tuple[Maybe, ...]:
    return _blur_backward_vjp(needs, tensors, border, backend, None, va, vb)


# Forward mode: (tangents, tensors, *options) to the tangents of the results.


def _blur_jvp(tangents: Any, tensors: Any, border: str, adjoint: bool, backend: str) -> Maybe:
    z, a, b = tensors
    dz, da, db = tangents
    varied = ((dz, a, b), (z, da, b), (z, a, db))
    return _sum(
        *(
            blur(*args, border, adjoint, backend)
            for args in varied
            if all(x is not None for x in args)
        )
    )


def _tap_grads_jvp(tangents: Any, tensors: Any, border: str, backend: str) -> tuple[Tensor, ...]:
    """∂F/∂a is linear in (g, z, b) and ∂F/∂b in (g, z, a)."""
    g, z, a, b = tensors
    dg, dz, da, db = tangents
    ta, tb = torch.zeros_like(a), torch.zeros_like(b)
    varied = [(dg, z, a, b), (g, dz, a, b)]
    if da is not None or db is not None:
        varied.append((g, z, _or_zeros(da, a), _or_zeros(db, b)))
    for args in varied:
        if all(x is not None for x in args):
            more_a, more_b = _tap_grads(*args, border, backend)
            ta, tb = ta + more_a, tb + more_b
    return ta, tb


def _blur_backward_jvp(
    tangents: Any, tensors: Any, border: str, backend: str
) -> tuple[Tensor, ...]:
    (g, z, a, b), (dg, _, da, db) = tensors, tangents
    tz = _blur_jvp((dg, da, db), (g, a, b), border, border not in SELF_ADJOINT, backend)
    return _or_zeros(tz, z), *_tap_grads_jvp(tangents, tensors, border, backend)


_MAPS = "Tensor g, Tensor z, Tensor a, Tensor b, str border, str backend"
_blur: Callable[..., Any] = register(
    "blur_r1(Tensor z, Tensor a, Tensor b, str border, bool adjoint, str backend) -> Tensor",
    partial(_run, "blur"),
    fake=lambda z, a, b, *options: _like(z),
    backward=_blur_vjp,
    jvp=_blur_jvp,
    vmap=lambda *args: batching.blur(_blur, *args),
    decomposes=_decomposes,
)
_blur_backward: Callable[..., Any] = register(
    f"blur_backward_r1({_MAPS}) -> (Tensor, Tensor, Tensor)",
    partial(_run, "blur_backward"),
    fake=lambda g, z, a, b, *options: (_like(z), torch.empty_like(a), torch.empty_like(b)),
    backward=_blur_backward_vjp,
    jvp=_blur_backward_jvp,
    vmap=lambda *args: batching.grads(_blur_backward, *args),
    decomposes=_decomposes,
)
_tap_grads: Callable[..., Any] = register(
    f"tap_grads_r1({_MAPS}) -> (Tensor, Tensor)",
    partial(_run, "tap_grads"),
    fake=lambda g, z, a, b, *options: (torch.empty_like(a), torch.empty_like(b)),
    backward=_tap_grads_vjp,
    jvp=_tap_grads_jvp,
    vmap=lambda *args: batching.grads(_tap_grads, *args),
    decomposes=_decomposes,
)


def tables(
    r: Tensor, s: Tensor | None, max_radius: int, gaussian: str, truncate: float | None
) -> tuple[Tensor, Tensor]:
    """(a, b) = (sigmoid(s) k(|r|), k(|r|)) with shape r.shape + (R+1,), in plain torch."""
    k = gaussian_taps(r, max_radius, gaussian=gaussian, truncate=truncate)
    a = k if s is None else torch.sigmoid(s.to(k))[..., None] * k
    return a, k


class _FusedTables(Function):
    """``tables`` in one launch forward and one backward."""

    @staticmethod
    def forward(r: Tensor, s: Any, backend: Any, *options: Any) -> Any:
        return backend.tables(r, s, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        r, s, ctx.backend, *ctx.options = inputs
        ctx.save_for_backward(r, s)

    @staticmethod
    def backward(ctx: Any, da: Tensor, db: Tensor) -> Any:
        r, s = ctx.saved_tensors
        if torch.is_grad_enabled():  # a higher order is wanted: differentiate the torch form
            of = [x for x in (r, s) if x is not None and x.requires_grad]
            found = iter(
                torch.autograd.grad(
                    tables(r, s, *ctx.options), of, (da, db), create_graph=True, allow_unused=True
                )
            )
            dr, ds = (next(found) if x is not None and x.requires_grad else None for x in (r, s))
        else:
            dr, ds = ctx.backend.tables_grad(r, s, da, db, *ctx.options)
        return dr, ds, None, *[None] * len(ctx.options)


def modulate(
    z: Tensor, r: Tensor, s: Tensor | None, border: str, backend: ModuleType, *options: Any
) -> Tensor:
    """sigmoid(s) · (G(|r|) ∗ z); r, s of one shape (1|C,) or (N, C); options as ``tables``."""
    if hasattr(backend, "tables") and not in_transform():
        a, b = _FusedTables.apply(r, s, backend, *options)
    else:
        a, b = tables(r, s, *options)
    return blur(z, a, b, border, False, backend.__name__.rpartition(".")[2])
