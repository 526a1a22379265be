"""The two ops, closed under differentiation, and the tap tables they take.

Everything is the multilinear form F(g, z; a, b) = <g, T(a) z T(b)ᵀ>. ``blur`` is ∂F/∂g (its adjoint
∂F/∂z), ``grad`` is ∂F/∂(z, a, b). F is linear in each argument, so a derivative of either op is the
same two ops with a cotangent in the place of the argument it differentiates: no order of derivative
needs a third.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from akm_triton.borders import SELF_ADJOINT
from akm_triton.gaussian import gaussian_taps


def _sum(*terms: Tensor | None) -> Tensor | None:
    present = [x for x in terms if x is not None]
    return sum(present[1:], present[0]) if present else None


class _Blur(Function):
    @staticmethod
    def forward(z: Tensor, a: Tensor, b: Tensor, border: str, adjoint: bool, backend: Any) -> Any:
        return backend.blur(z, a, b, border, adjoint)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.border, ctx.adjoint, ctx.backend = inputs[3:]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        z, a, b = ctx.saved_tensors
        rest = (ctx.border, ctx.backend)
        need_dz = ctx.needs_input_grad[0]
        if not any(ctx.needs_input_grad[1:3]):
            return blur(g, a, b, ctx.border, not ctx.adjoint, ctx.backend), *[None] * 5
        if not ctx.adjoint:
            dz, da, db = _Grad.apply(g, z, a, b, *rest, need_dz)
        else:  # <g, T(a)ᵀ z T(b)> = F(z, g)
            _, da, db = _Grad.apply(z, g, a, b, *rest, False)
            dz = blur(g, a, b, ctx.border, False, ctx.backend) if need_dz else None
        return dz, da, db, None, None, None


class _Grad(Function):
    @staticmethod
    def forward(
        g: Tensor, z: Tensor, a: Tensor, b: Tensor, border: str, backend: Any, need_dz: bool
    ) -> Any:
        if need_dz:
            return backend.blur_backward(g, z, a, b, border)
        return None, *backend.tap_grads(g, z, a, b, border)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.border, ctx.backend = inputs[4:6]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, vz: Any, va: Any, vb: Any) -> Any:
        g, z, a, b = ctx.saved_tensors
        rest = (ctx.border, ctx.backend)
        terms_g, terms_z, terms_a, terms_b = [], [], [], []
        if vz is not None:
            terms_g.append(blur(vz, a, b, ctx.border, False, ctx.backend))
            _, da, db = _Grad.apply(g, vz, a, b, *rest, False)
            terms_a.append(da)
            terms_b.append(db)
        for x, y in ((va, b), (a, vb)):
            if x is not None and y is not None:
                terms_g.append(blur(z, x, y, ctx.border, False, ctx.backend))
                terms_z.append(blur(g, x, y, ctx.border, True, ctx.backend))
        if va is not None or vb is not None:
            # ∂F/∂a sees b only and ∂F/∂b sees a only
            va = torch.zeros_like(a) if va is None else va
            vb = torch.zeros_like(b) if vb is None else vb
            _, da, db = _Grad.apply(g, z, va, vb, *rest, False)
            terms_a.append(da)
            terms_b.append(db)
        grads = (_sum(*terms) for terms in (terms_g, terms_z, terms_a, terms_b))
        return *grads, None, None, None


def blur(
    z: Tensor, a: Tensor, b: Tensor, border: str, adjoint: bool, backend: ModuleType
) -> Tensor:
    """T(a) z T(b)ᵀ, or its adjoint T(a)ᵀ z T(b): z (N, C, H, W); a, b (1|C, R+1) or (N, C, R+1)."""
    adjoint = adjoint and border not in SELF_ADJOINT
    result: Tensor = _Blur.apply(z, a, b, border, adjoint, backend)
    return result


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
    if hasattr(backend, "tables"):
        a, b = _FusedTables.apply(r, s, backend, *options)
    else:
        a, b = tables(r, s, *options)
    return blur(z, a, b, border, False, backend)
