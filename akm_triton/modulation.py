"""``modulate`` from checked arguments: the taps, then the blur, by the shortest way that a call
allows. Maps with one σ for both axes, and one axis of signals or maps, have the shortest.

Registered ops differentiate, transform, trace and batch in every way that PyTorch knows, and a call
of one takes longer on the host than its kernel on a GPU, or than a small map on a CPU. Ordinary
inference and ordinary training need none of it: there the kernels are called directly, in training
from one node of autograd.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from akm_triton import axis_ops, flops, gated_taps, ops, passes, sharding
from akm_triton import backend as backends
from akm_triton.backend.layout import Stride
from akm_triton.borders import SELF_ADJOINT
from akm_triton.gated_taps import Grads
from akm_triton.tracing import in_onnx_trace, is_plain, is_recorded, untracked


def modulate(
    z: Tensor, r: Tensor, s: Tensor | None, border: str, backend: str,
    max_radius: int, gaussian: str, truncate: float | None, stride: Stride,
) -> Tensor:  # fmt: skip
    """sigmoid(s) · (G(|r|) ∗ z) of maps, or without s the blur alone, of the rows and columns that
    ``stride`` keeps; r and s (1|C,) or (N, C), of one shape."""
    gated, s = s is not None, r if s is None else s
    window = gated, max_radius, gaussian, truncate
    plain = is_plain(z, r, s)
    if plain and backend != "torch":
        if is_recorded(z, r, s):
            y: Tensor = _Modulate.apply(z, r, s, (backend, border, window, stride))
            return y
        return backends.get(backend).modulate(z, r, s, border, *window, stride)[0]
    sharding.prepare(z)
    t = _taps_of(backend)(r, s, *window)
    if plain and not is_recorded(z, t) and not torch.is_autocast_enabled(z.device.type):
        with untracked():
            y = backends.get(backend).blur(z, t, border, False, stride=stride)
        return y
    _prepare()
    return ops.blur_strided(z, t, border, stride, backend)


def modulate_along(
    z: Tensor, axes: passes.Axes, r: Tensor | list[Tensor], s: Tensor | None, border: str,
    backend: str, max_radius: int, gaussian: str, truncate: float | None, stride: tuple[int, ...],
) -> Tensor:  # fmt: skip
    """The same of signals, maps or volumes (N, C, …), along some axes from 2 on: by one r, or by
    one for each axis, of one shape with s."""
    gated, order = s is not None, passes.passes(axes, z.dim())
    isotropic = isinstance(r, Tensor)
    if isinstance(r, Tensor):
        by_sample, s = r.dim() == 2, r if s is None else s
        single = stride == (1,) and z.dim() <= 4 and backend != "torch"
        if single and is_plain(z, r, s):
            options = backend, border, (gated, max_radius, gaussian, truncate), axes[0] - z.dim()
            if is_recorded(z, r, s):
                y: Tensor = _ModulateAxis.apply(z, r, s, options)
                return y
            return _modulate_axis(z, r, s, *options)[0]
    else:
        by_sample = r[0].dim() == 2
        r = torch.stack([r[axes.index(axis)] for which in order for axis in which])
        if s is None:
            s = r
        else:  # the gate is in the taps of the first axis; a gate of infinity is 1
            s = torch.stack([s, *[torch.full_like(s, math.inf)] * (len(axes) - 1)])
    sharding.prepare(z)
    window = gated, max_radius, gaussian, truncate
    if backend == "cpu" and is_plain(z, r, s):
        t = _Taps.apply(r, s, window)
    else:
        t = _taps_of(backend)(r, s, *window)
    if isotropic:
        taps = [t if len(which) == 2 else t[min(i, 1)] for i, which in enumerate(order)]
    else:
        taps, first = [], 0
        for which in order:
            taps.append(t[0, first : first + 2] if len(which) == 2 else t[0, first])
            first += len(which)
    _prepare()
    return passes.blur(z, taps, axes, stride, border, backend, by_sample)


def _taps_of(backend: str) -> Any:
    return gated_taps.fused if backend == "triton" else gated_taps.plain


def _prepare() -> None:
    """For a call of the ops."""
    if not torch.compiler.is_compiling():
        if in_onnx_trace():
            raise NotImplementedError(
                "torch.onnx.export(..., dynamo=False) has no operators for akm_triton: export with "
                "dynamo=True, PyTorch's default"
            )
        flops.prepare()  # in inference mode no other code of ours comes before a counter


_Window = tuple[bool, int, str, float | None]
"""gated, max_radius, gaussian, truncate"""


def _backward(
    needs: tuple[bool, bool], g: Tensor, z: Tensor, r: Tensor, s: Tensor, t: Tensor, backend: str,
    border: str, window: _Window,
) -> Grads:  # fmt: skip
    """(dz, dr, ds) by bare kernels; ``needs`` is whether those of z, and those of r or s."""
    kernels = backends.get(backend)
    if needs == (True, False):
        return kernels.blur(g, t, border, border not in SELF_ADJOINT), None, None
    grads: Grads = kernels.modulate_backward(g, z, r, s, t, border, needs[0], *window)
    return grads


def _differentiable_backward(
    needs: tuple[bool, bool], g: Tensor, z: Tensor, r: Tensor, s: Tensor, t: Tensor, backend: str,
    border: str, window: _Window,
) -> Grads:  # fmt: skip
    """The same by registered ops."""
    if torch.is_grad_enabled():  # the taps of the forward know nothing of r and s
        t = _taps_of(backend)(r, s, *window)
    dz, dt = ops.blur_vjp(needs, z, t, border, False, backend, g)
    if dt is None:
        return dz, None, None
    return dz, *_taps_vjp(backend, r, s, window, dt)


class _Taps(torch.autograd.Function):
    """The taps of plain tensors on the CPU as one node."""

    @staticmethod
    def forward(ctx: Any, r: Tensor, s: Tensor, window: _Window) -> Tensor:
        ctx.save_for_backward(r, s)
        ctx.window = window
        t: Tensor = backends.get("cpu").gated_taps(r, s, *window)
        return t

    @staticmethod
    def backward(ctx: Any, dt: Tensor) -> Grads:
        r, s = ctx.saved_tensors
        window: _Window = ctx.window
        bare = is_plain(dt, r, s) and not is_recorded(dt, r, s)
        if bare:
            dr, ds = backends.get("cpu").gated_taps_grad(r, s, dt, *window)
        else:
            dr, ds = gated_taps.plain_vjp(r, s, *window, dt)
        return dr, ds if window[0] else None, None


class _Modulate(torch.autograd.Function):
    """Taps and blur by kernels as one node, which keeps z, r, s and the taps."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, r: Tensor, s: Tensor, options: tuple[str, str, _Window, Stride]
    ) -> Tensor:
        backend, border, window, ctx.stride = options
        y: Tensor
        y, t = backends.get(backend).modulate(z, r, s, border, *window, ctx.stride)
        ctx.save_for_backward(z, r, s, t)
        ctx.set_materialize_grads(False)
        ctx.options = backend, border, window
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Grads:
        if g is None:
            return None, None, None, None
        z, r, s, t = ctx.saved_tensors
        if ctx.stride != (1, 1):
            g = ops.spread(g, z.shape[2:], ctx.stride)
        needs_z, needs_r, needs_s, _ = ctx.needs_input_grad
        # else this backward is differentiated again, or batched, or traced
        bare = is_plain(g, z, r, s) and not is_recorded(g, z, r, s)
        backward = _backward if bare else _differentiable_backward
        dz, dr, ds = backward((needs_z, needs_r or needs_s), g, z, r, s, t, *ctx.options)
        gated = ctx.options[2][0]
        return dz, dr, ds if gated else None, None


# One axis of signals or maps, -1 or -2.


def _modulate_axis(
    z: Tensor, r: Tensor, s: Tensor, backend: str, border: str, window: _Window, axis: int
) -> tuple[Tensor, Tensor]:
    """(y, t) by bare kernels."""
    kernels = backends.get(backend)
    t = kernels.gated_taps(r, s, *window)
    with untracked():
        y = kernels.blur_axis(passes.as_map(z), t[0], 4 + axis, border, False)
        return y.squeeze(2) if z.dim() == 3 else y, t


def _axis_backward(
    needs: tuple[bool, bool], g: Tensor, z: Tensor, a: Tensor, backend: str, border: str, axis: int
) -> tuple[Tensor | None, Tensor | None]:
    """(dz, da) of maps by bare kernels."""
    kernels = backends.get(backend)
    if needs == (True, False):
        return kernels.blur_axis(g, a, axis, border, border not in SELF_ADJOINT), None
    if needs == (False, True):
        da = kernels.axis_grads(g, z, a.shape[-1] - 1, axis, border, a.dim() == 3)
        return None, da.sum_to_size(a.shape)
    grads: tuple[Tensor, Tensor] = kernels.axis_backward(g, z, a, axis, border)
    return grads


class _ModulateAxis(torch.autograd.Function):
    """As ``_Modulate``."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, r: Tensor, s: Tensor, options: tuple[str, str, _Window, int]
    ) -> Tensor:
        y, t = _modulate_axis(z, r, s, *options)
        ctx.save_for_backward(z, r, s, t)
        ctx.set_materialize_grads(False)
        ctx.options = options
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Grads:
        if g is None:
            return None, None, None, None
        z, r, s, t = ctx.saved_tensors
        backend, border, window, axis = ctx.options
        needs_z, needs_r, needs_s, _ = ctx.needs_input_grad
        needs, bare = (needs_z, needs_r or needs_s), is_plain(g, z, r, s)
        if torch.is_grad_enabled():  # the taps of the forward know nothing of r and s
            bare, t = False, _taps_of(backend)(r, s, *window)
        maps, gated = (passes.as_map(g), passes.as_map(z)), window[0]
        if bare:
            dz, da = _axis_backward(needs, *maps, t[0], backend, border, 4 + axis)
        else:
            dz, da = axis_ops.blur_axis_vjp(
                needs, maps[1], t[0], 4 + axis, border, False, backend, maps[0]
            )
        if dz is not None and z.dim() == 3:
            dz = dz.squeeze(2)
        if da is None:
            return dz, None, None, None
        dt = torch.stack([da, torch.zeros_like(da)])
        if bare:
            dr, ds = backends.get(backend).gated_taps_grad(r, s, dt, *window)
        else:
            dr, ds = _taps_vjp(backend, r, s, window, dt)
        return dz, dr, ds if gated else None, None


def _taps_vjp(backend: str, r: Tensor, s: Tensor, window: _Window, dt: Tensor) -> Grads:
    """(dr, ds) by registered ops, and on the CPU by plain torch for what is small."""
    if backend == "triton":
        return gated_taps.vjp((True, True), r, s, *window, dt)
    return gated_taps.plain_vjp(r, s, *window, dt)
