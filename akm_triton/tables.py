"""σ and s → tap tables: in plain torch, or as ops that take one launch for each order.

The two tables t = [sigmoid(s) k(|r|), k(|r|)], (2, *r.shape, R+1), are a few numbers a channel, but
dozens of small operators, and a hundred in the second order, which costs more than the blur. The
ops are for the Triton path; from the third order on their derivatives are plain torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from akm_triton import backend, batching
from akm_triton.gaussian import gaussian_taps, tap_derivatives
from akm_triton.internals import in_export
from akm_triton.registration import register

Maybe = Tensor | None


def tables(
    r: Tensor, s: Tensor, gated: bool, max_radius: int, gaussian: str, truncate: float | None
) -> Tensor:
    """[a, b] = [sigmoid(s) k(|r|), k(|r|)], or [k, k] without the gate, in plain torch."""
    k = gaussian_taps(r, max_radius, gaussian=gaussian, truncate=truncate)
    return torch.stack([torch.sigmoid(s.to(k))[..., None] * k if gated else k, k])


def _kernel(function: str) -> Callable[..., Any]:
    return lambda *args: getattr(_backend(), function)(*args)


@functools.cache
def _backend() -> Any:
    return backend.get("triton")


def _decomposes(*args: Any) -> bool:
    return not (in_export() or _backend().INTERPRET)


# Derivatives. Let D_v t be that of the tables along v = (vr, vs). ``tables_grad`` is the gradient
# of <dt, t> by r and s; ``tables_grad_grad`` that of <dt, D_v t>, and D_v t itself.


def _tables_vjp(needs: Any, tensors: Any, *rest: Any) -> tuple[Maybe, ...]:
    *options, dt = rest
    dr, ds = _fused_grad(*tensors, dt, *options)
    return dr, ds if options[0] else None


def _tables_jvp(tangents: Any, tensors: Any, *options: Any) -> Tensor:
    r, s = tensors
    none = r.new_zeros((2, *r.shape, options[1] + 1))
    along: Tensor = _fused_grad_grad(r, s, none, *_or_zeros(tangents, r), *options)[2]
    return along


def _grad_vjp(needs: Any, tensors: Any, *rest: Any) -> tuple[Maybe, ...]:
    *options, vr, vs = rest
    r, s, dt = tensors
    dr, ds, along = _fused_grad_grad(r, s, dt, *_or_zeros((vr, vs), r), *options)
    return dr, ds if options[0] else None, along


def _grad_jvp(tangents: Any, tensors: Any, *options: Any) -> tuple[Tensor, ...]:
    (vr, vs, vt), (r, s, dt) = tangents, tensors
    found = _fused_grad_grad(r, s, dt, *_or_zeros((vr, vs), r), *options)[:2]
    if vt is None:
        return tuple(found)
    return tuple(x + y for x, y in zip(found, _fused_grad(r, s, vt, *options), strict=True))


def _grad_grad_vjp(needs: Any, tensors: Any, *rest: Any) -> tuple[Maybe, ...]:
    *options, cr, cs, ct = rest
    r, s, dt, vr, vs = tensors
    cr, cs = _or_zeros((cr, cs), r)
    dr, ds, along = _third(r, s, dt, (vr, vs), (cr, cs), *options)
    dvr, dvs, _ = _fused_grad_grad(r, s, dt, cr, cs, *options)
    if ct is not None:
        more_r, more_s, _ = _fused_grad_grad(r, s, ct, vr, vs, *options)
        more_vr, more_vs = _fused_grad(r, s, ct, *options)
        dr, ds, dvr, dvs = dr + more_r, ds + more_s, dvr + more_vr, dvs + more_vs
    gated = options[0]
    return dr, ds if gated else None, along, dvr, dvs if gated else None


def _grad_grad_jvp(tangents: Any, tensors: Any, *options: Any) -> tuple[Tensor, ...]:
    r, s, dt, vr, vs = tensors
    tr, ts, tt, wr, ws = tangents
    dr, ds, along = _third(r, s, dt, (vr, vs), _or_zeros((tr, ts), r), *options)
    more = _fused_grad_grad(r, s, dt, *_or_zeros((wr, ws), r), *options)
    dr, ds, along = dr + more[0], ds + more[1], along + more[2]
    if tt is not None:
        more = _fused_grad_grad(r, s, tt, vr, vs, *options)
        dr, ds = dr + more[0], ds + more[1]
    return dr, ds, along


def _third(
    r: Tensor, s: Tensor, dt: Tensor, v: Any, c: Any,
    gated: bool, max_radius: int, gaussian: str, truncate: float | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(the gradient of <dt, D_c D_v t> by r and s, D_c D_v t), in plain torch."""
    k = tap_derivatives(r, max_radius, gaussian, truncate)
    if gated:
        g = torch.sigmoid(s)
        slope = g * (1 - g)
        gate = [g, slope, slope * (1 - 2 * g), slope * (1 - 6 * slope)]
    else:
        gate = [torch.ones_like(s), *[torch.zeros_like(s)] * 3]
    (vr, vs), (cr, cs) = v, c

    def second(i: int, j: int) -> Tensor:
        """∂ⁱ∂ʲ by r and s of D_c D_v sigmoid(s) k(|r|)."""
        parts = ((cr * vr, i + 2, j), (cr * vs + cs * vr, i + 1, j + 1), (cs * vs, i, j + 2))
        return sum((w * gate[m])[..., None] * k[n] for w, n, m in parts)

    def ungated(i: int) -> Tensor:
        return (cr * vr)[..., None] * k[i + 2]

    da, db = dt.unbind(0)
    dr = (da * second(1, 0) + db * ungated(1)).sum(-1)
    return dr, (da * second(0, 1)).sum(-1), torch.stack([second(0, 0), ungated(0)])


def _or_zeros(values: Any, like: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.zeros_like(like) if x is None else x for x in values)


_OPTIONS = "bool gated, int max_radius, str gaussian, float? truncate"
_fused: Callable[..., Any] = register(
    f"tables_r1(Tensor r, Tensor s, {_OPTIONS}) -> Tensor",
    _kernel("tables"),
    fake=lambda r, s, gated, radius, *options: r.new_empty((2, *r.shape, radius + 1)),
    backward=_tables_vjp,
    jvp=_tables_jvp,
    vmap=lambda *args: batching.elementwise(_fused, "rs", "t", *args),
    decomposes=_decomposes,
)
_fused_grad: Callable[..., Any] = register(
    f"tables_grad_r1(Tensor r, Tensor s, Tensor dt, {_OPTIONS}) -> (Tensor, Tensor)",
    _kernel("tables_grad"),
    fake=lambda r, *others: (_like(r), _like(r)),
    backward=_grad_vjp,
    jvp=_grad_jvp,
    vmap=lambda *args: batching.elementwise(_fused_grad, "rst", "rs", *args),
    decomposes=_decomposes,
)
_fused_grad_grad: Callable[..., Any] = register(
    f"tables_grad_grad_r1(Tensor r, Tensor s, Tensor dt, Tensor vr, Tensor vs, {_OPTIONS})"
    " -> (Tensor, Tensor, Tensor)",
    _kernel("tables_grad_grad"),
    fake=lambda r, s, dt, *others: (_like(r), _like(r), _like(dt)),
    backward=_grad_grad_vjp,
    jvp=_grad_grad_jvp,
    vmap=lambda *args: batching.elementwise(_fused_grad_grad, "rstrs", "rst", *args),
    decomposes=_decomposes,
)


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def fused(r: Tensor, s: Tensor, *options: Any) -> Tensor:
    """``tables`` on the Triton kernels: r and s of one shape, float32."""
    t: Tensor = _fused(r, s, *options)
    return t
