"""σ and s → the taps of both axes, in plain torch, or as ops of a kernel launch each for the value,
its gradient and the gradient of that. The gate is multiplied into the taps a, so it costs nothing.

The taps t = [sigmoid(s) k(|r|), k(|r|)], (2, *r.shape, R+1), are a few numbers per channel, but
dozens of small operators, and a hundred at second order, which cost more than the blur. The ops are
for the Triton path; from the third order on their derivatives are plain torch.

D_v t below is the derivative of t along v = (vr, vs). ``_grad`` is the gradient of <dt, t> by r and
s; ``_grad_grad`` is that of <dt, D_v t> by r and s, and D_v t itself.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from akm_triton import backend, batching
from akm_triton.autograd import define
from akm_triton.gaussian import gaussian_taps, tap_derivatives
from akm_triton.tracing import in_export

Grads = tuple[Tensor | None, ...]
Needs = tuple[bool, ...]
_OPTIONS = "bool gated, int max_radius, str gaussian, float? truncate"


def plain(
    r: Tensor, s: Tensor, gated: bool, max_radius: int, gaussian: str, truncate: float | None
) -> Tensor:
    """[a, b] = [sigmoid(s) k(|r|), k(|r|)], or [k, k] without the gate, in plain torch."""
    k = gaussian_taps(r, max_radius, gaussian=gaussian, truncate=truncate)
    return torch.stack([torch.sigmoid(s.to(k))[..., None] * k if gated else k, k])


def plain_vjp(
    r: Tensor, s: Tensor, gated: bool, max_radius: int, gaussian: str, truncate: float | None,
    dt: Tensor,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """The gradient of <dt, plain(r, s)> by r and s, in plain torch: differentiable again."""
    k, slope = tap_derivatives(r, max_radius, gaussian, truncate, most=1)
    da, db = dt
    if not gated:
        return ((da + db) * slope).sum(-1), None
    g = torch.sigmoid(s)
    return ((g[..., None] * da + db) * slope).sum(-1), g * (1 - g) * (da * k).sum(-1)


def _decomposes(*args: Any) -> bool:
    return not (in_export() or backend.get("triton").INTERPRET)


def _empty(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _or_zeros(*values: Tensor | None, like: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.zeros_like(like) if x is None else x for x in values)


def launched(
    r: Tensor, s: Tensor, gated: bool, max_radius: int, gaussian: str, truncate: float | None
) -> Tensor:
    """``plain`` in one launch, past the dispatcher: without derivatives."""
    taps: Tensor = backend.get("triton").gated_taps(r, s, gated, max_radius, gaussian, truncate)
    return taps


def _fake(r: Tensor, s: Tensor, gated: bool, max_radius: int, *options: Any) -> Tensor:
    return r.new_empty((2, *r.shape, max_radius + 1))


def vjp(
    needs: Needs, r: Tensor, s: Tensor, gated: bool, max_radius: int, gaussian: str,
    truncate: float | None, dt: Tensor,
) -> Grads:  # fmt: skip
    dr, ds = _grad(r, s, dt, gated, max_radius, gaussian, truncate)
    return dr, ds if gated else None


def _jvp(
    tangents: Grads, r: Tensor, s: Tensor, gated: bool, max_radius: int, gaussian: str,
    truncate: float | None,
) -> Tensor:  # fmt: skip
    none = r.new_zeros((2, *r.shape, max_radius + 1))
    v = _or_zeros(*tangents, like=r)
    along: Tensor = _grad_grad(r, s, none, *v, gated, max_radius, gaussian, truncate)[2]
    return along


fused = define(
    f"gated_taps_r1(Tensor r, Tensor s, {_OPTIONS}) -> Tensor",
    launched,
    fake=_fake,
    vjp=vjp,
    jvp=_jvp,
    vmap=partial(batching.elementwise, tensors=2),
    decomposes=_decomposes,
)
"""``plain`` as an op on the Triton kernels: r and s of one shape, float32."""


def _grad_kernel(
    r: Tensor, s: Tensor, dt: Tensor, gated: bool, max_radius: int, gaussian: str,
    truncate: float | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    grads: tuple[Tensor, Tensor] = backend.get("triton").gated_taps_grad(
        r, s, dt, gated, max_radius, gaussian, truncate
    )
    return grads


def _grad_vjp(
    needs: Needs, r: Tensor, s: Tensor, dt: Tensor, gated: bool, max_radius: int, gaussian: str,
    truncate: float | None, vr: Tensor | None, vs: Tensor | None,
) -> Grads:  # fmt: skip
    v = _or_zeros(vr, vs, like=r)
    dr, ds, along = _grad_grad(r, s, dt, *v, gated, max_radius, gaussian, truncate)
    return dr, ds if gated else None, along


def _grad_jvp(
    tangents: Grads, r: Tensor, s: Tensor, dt: Tensor, gated: bool, max_radius: int,
    gaussian: str, truncate: float | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    options = gated, max_radius, gaussian, truncate
    vr, vs, vt = tangents
    dr, ds, _ = _grad_grad(r, s, dt, *_or_zeros(vr, vs, like=r), *options)
    if vt is not None:
        more_r, more_s = _grad(r, s, vt, *options)
        dr, ds = dr + more_r, ds + more_s
    return dr, ds


_grad = define(
    f"gated_taps_grad_r1(Tensor r, Tensor s, Tensor dt, {_OPTIONS}) -> (Tensor, Tensor)",
    _grad_kernel,
    fake=lambda r, *others: (_empty(r), _empty(r)),
    vjp=_grad_vjp,
    jvp=_grad_jvp,
    vmap=partial(batching.elementwise, tensors=3),
    decomposes=_decomposes,
)


def _grad_grad_kernel(
    r: Tensor, s: Tensor, dt: Tensor, vr: Tensor, vs: Tensor, gated: bool, max_radius: int,
    gaussian: str, truncate: float | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    grads: tuple[Tensor, Tensor, Tensor] = backend.get("triton").gated_taps_grad_grad(
        r, s, dt, vr, vs, gated, max_radius, gaussian, truncate
    )
    return grads


def _grad_grad_vjp(
    needs: Needs, r: Tensor, s: Tensor, dt: Tensor, vr: Tensor, vs: Tensor, gated: bool,
    max_radius: int, gaussian: str, truncate: float | None,
    cr: Tensor | None, cs: Tensor | None, ct: Tensor | None,
) -> Grads:  # fmt: skip
    options = gated, max_radius, gaussian, truncate
    cr, cs = _or_zeros(cr, cs, like=r)
    dr, ds, along = _third(r, s, dt, (vr, vs), (cr, cs), *options)
    dvr, dvs, _ = _grad_grad(r, s, dt, cr, cs, *options)
    if ct is not None:
        more_r, more_s, _ = _grad_grad(r, s, ct, vr, vs, *options)
        more_vr, more_vs = _grad(r, s, ct, *options)
        dr, ds, dvr, dvs = dr + more_r, ds + more_s, dvr + more_vr, dvs + more_vs
    return dr, ds if gated else None, along, dvr, dvs if gated else None


def _grad_grad_jvp(
    tangents: Grads, r: Tensor, s: Tensor, dt: Tensor, vr: Tensor, vs: Tensor, gated: bool,
    max_radius: int, gaussian: str, truncate: float | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    options = gated, max_radius, gaussian, truncate
    tr, ts, tt, wr, ws = tangents
    terms = [
        _third(r, s, dt, (vr, vs), _or_zeros(tr, ts, like=r), *options),
        _grad_grad(r, s, dt, *_or_zeros(wr, ws, like=r), *options),
    ]
    dr, ds, along = (x + y for x, y in zip(*terms, strict=True))
    if tt is not None:
        more_r, more_s, _ = _grad_grad(r, s, tt, vr, vs, *options)
        dr, ds = dr + more_r, ds + more_s
    return dr, ds, along


_grad_grad = define(
    f"gated_taps_grad_grad_r1(Tensor r, Tensor s, Tensor dt, Tensor vr, Tensor vs, {_OPTIONS})"
    " -> (Tensor, Tensor, Tensor)",
    _grad_grad_kernel,
    fake=lambda r, s, dt, *others: (_empty(r), _empty(r), _empty(dt)),
    vjp=_grad_grad_vjp,
    jvp=_grad_grad_jvp,
    vmap=partial(batching.elementwise, tensors=5),
    decomposes=_decomposes,
)


def _third(
    r: Tensor, s: Tensor, dt: Tensor, v: tuple[Tensor, Tensor], c: tuple[Tensor, ...],
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

    def vertical(i: int, j: int) -> Tensor:
        """∂ⁱ∂ʲ by r and s of D_c D_v sigmoid(s) k(|r|)."""
        terms = ((cr * vr, i + 2, j), (cr * vs + cs * vr, i + 1, j + 1), (cs * vs, i, j + 2))
        return torch.stack([(w * gate[m])[..., None] * k[n] for w, n, m in terms]).sum(0)

    def horizontal(i: int) -> Tensor:
        """∂ⁱ by r of D_c D_v k(|r|)."""
        return (cr * vr)[..., None] * k[i + 2]

    da, db = dt.unbind(0)
    dr = (da * vertical(1, 0) + db * horizontal(1)).sum(-1)
    return dr, (da * vertical(0, 1)).sum(-1), torch.stack([vertical(0, 0), horizontal(0)])
