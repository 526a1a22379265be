"""The ops and the gated taps on Triton: what is allocated, and what is launched.

z is (N, C, H, W) with any strides; a and b are (1|C, R+1) or (N, C, R+1), centre tap first.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
import triton
from torch import Tensor

from akm_triton.backend import resident, streamed, tap_kernels
from akm_triton.backend.layout import empty_like
from akm_triton.gaussian import TERMS, bessel_rules
from akm_triton.launch import choice
from akm_triton.launch.device import Device, describe
from akm_triton.launch.plan import Grid, Plan, grids
from akm_triton.launch.problem import Problem
from akm_triton.tracing import in_graph, value_at_trace

INTERPRET: bool = triton.knobs.runtime.interpret


class _Interception(threading.local):
    instead: Callable[..., None] | None = None
    device: Device | None = None


_interception = _Interception()


def takes(z: Tensor) -> bool:
    """Whether kernels can be launched on z: on a GPU, or on the CPU where something stands in."""
    return z.is_cuda or INTERPRET or _interception.device is not None


@contextlib.contextmanager
def launching(
    instead: Callable[..., None] | None = None, device: Device | None = None
) -> Iterator[None]:
    """In this thread, call ``instead(kernel, *args, **constants)``, if given, in place of a launch,
    and plan for ``device``, if given, whose tensors those of the CPU may stand for."""
    before = _interception.instead, _interception.device
    _interception.instead, _interception.device = instead, device
    try:
        yield
    finally:
        _interception.instead, _interception.device = before


def _launch(kernel: Any, programs: int, x: Tensor, *args: Any, **constants: Any) -> None:
    """Run ``kernel`` on (x, *args), or leave a node for it in the graph that is being traced."""
    if _interception.instead is not None:
        _interception.instead(kernel, x, *args, **constants)
        return
    if in_graph(x):
        lift = torch.ops.aten.lift_fresh  # for tensors that come from outside the graph
        lifted = {k: lift(v) if isinstance(v, Tensor) else v for k, v in constants.items()}
        torch.library.wrap_triton(kernel)[(programs,)](x, *args, **lifted)
        return
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        kernel[(programs,)](x, *args, **constants)


def _grids(op: str, z: Tensor, taps: Tensor, border: str, plan: Plan | None) -> tuple[Grid, ...]:
    """The launches of an op: those of ``plan``, or else of what the chooser finds."""
    n, c, h, w = z.shape
    tracing = in_graph(z)
    problem = Problem(
        op, value_at_trace(n) if tracing else n, c, h, w, taps.shape[-1] - 1, border,
        z.element_size(), c > 1 and z.stride(1) == 1,  # dense or not, channels lie side by side
        taps.dim() == 3,
    )  # fmt: skip
    device = _interception.device or describe(z.device)
    if plan is not None:
        return grids(plan, problem, device)
    for observe in choice.observers:
        observe(problem, device, z.device, tracing)
    return choice.choose(problem, device).grids


def _float32_for_interpreter(x: Tensor) -> Tensor:
    """The interpreter computes bfloat16 on its bit patterns: it gets float32 instead."""
    return x.float() if INTERPRET and x.dtype == torch.bfloat16 else x


@functools.lru_cache(4096)
def _strides(strides: tuple[int, ...]) -> tuple[int, tuple[int, int, int, int]]:
    """(stride_n / unit, (unit, stride_c, stride_h, stride_w)): what Triton must know at compile
    time to make wide accesses, and the rest, which may vary with the batch."""
    n, c, h, w = strides
    unit = 16
    while n % unit:
        unit //= 2
    return n // unit, (unit, c, h, w)


def _taps(taps: Tensor) -> tuple[Tensor, int, int]:
    """(taps, stride over samples, stride over channels) of (1|C, R+1) or (N, C, R+1)."""
    taps, shape = taps.contiguous(), taps.shape
    row = shape[-1]
    per_sample = shape[1] * row if len(shape) == 3 and shape[0] > 1 else 0
    return taps, per_sample, row if shape[-2] > 1 else 0


# blur and blur_pair


def blur(
    z: Tensor, a: Tensor, b: Tensor, border: str, adjoint: bool, plan: Plan | None = None
) -> Tensor:
    """y = T(a) z T(b)ᵀ, or T(a)ᵀ z T(b): one launch, nothing allocated but y."""
    return _blur("blur", z, [(a, b)], border, adjoint, plan)


def blur_pair(
    z: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, border: str, adjoint: bool,
    plan: Plan | None = None,
) -> Tensor:  # fmt: skip
    """T(a) z T(d)ᵀ + T(c) z T(b)ᵀ, or its adjoint, a to d of one shape: one launch too."""
    return _blur("blur_pair", z, [(a, d), (c, b)], border, adjoint, plan)


def _blur(
    op: str, z: Tensor, taps: list[tuple[Tensor, Tensor]], border: str, adjoint: bool,
    plan: Plan | None,
) -> Tensor:  # fmt: skip
    """y = the sum over the one or two (a, b) of T(a) z T(b)ᵀ, or of its adjoint."""
    x = _float32_for_interpreter(z)
    y = empty_like(x)
    if z.numel() > 0:
        op += "_adjoint" if adjoint else ""
        (grid,) = _grids(op, x, taps[0][0], border, plan)
        _launch_blur(x, y, taps, adjoint, grid)
    return y.to(z.dtype)


def _launch_blur(
    z: Tensor, y: Tensor, taps: list[tuple[Tensor, Tensor]], adjoint: bool, grid: Grid
) -> None:
    (a, b), (c, d) = taps[0], taps[-1]
    _launch(
        (streamed if grid.streams else resident).blur_kernel, grid.programs,
        z, *_strides(z.stride()),
        y, *_strides(y.stride()),
        *_taps(a),
        *_taps(b),
        c.contiguous(), d.contiguous(),
        z.shape[0], grid.problem.c, grid.splits,
        ADJOINT=adjoint, PAIR=len(taps) > 1, **grid.constants,
    )  # fmt: skip


# blur_backward and tap_grads


def blur_backward(
    g: Tensor, z: Tensor, a: Tensor, b: Tensor, border: str, plan: Plan | None = None
) -> tuple[Tensor, Tensor]:
    """(∂F/∂z, [∂F/∂a, ∂F/∂b]) of F = <g, T(a) z T(b)ᵀ>, a and b of one shape: one launch where the
    tiles are small enough, and one for the sum of its partial gradients."""
    gx, zx = _float32_for_interpreter(g), _float32_for_interpreter(z)
    dz = empty_like(zx)
    grads = _grads("blur_backward", gx, zx, dz, a, b, border, plan)
    return dz.to(z.dtype), grads


def tap_grads(
    g: Tensor, z: Tensor, a: Tensor, b: Tensor, border: str, plan: Plan | None = None
) -> Tensor:
    """[∂F/∂a, ∂F/∂b] alone."""
    gx, zx = _float32_for_interpreter(g), _float32_for_interpreter(z)
    return _grads("tap_grads", gx, zx, zx, a, b, border, plan)


def _grads(
    op: str, g: Tensor, z: Tensor, dz: Tensor, a: Tensor, b: Tensor, border: str,
    plan: Plan | None,
) -> Tensor:  # fmt: skip
    """Write dz, where the op has it, and return the gradients of both taps, (2, *a.shape)."""
    make = torch.zeros if z.numel() == 0 else torch.empty
    grads = make((2, *a.shape), dtype=torch.float32, device=z.device)
    if z.numel() > 0:
        for grid in _grids(op, z, a, border, plan):
            if grid.launch.da or grid.launch.db:
                _launch_grad(g, z, dz, a, b, grads, grid)
            else:
                _launch_blur(g, dz, [(a, b)], True, grid)
    return grads


def _launch_grad(
    g: Tensor, z: Tensor, dz: Tensor, a: Tensor, b: Tensor, grads: Tensor, grid: Grid
) -> None:
    """Write dz and the gradients of the taps that the launch names."""
    launch, cfg, problem = grid.launch, grid.launch.config, grid.problem
    out = grads[0 if launch.da else 1 : 2 if launch.db else 1]
    shape = (len(out), grid.splits, cfg.strips * cfg.segments, problem.c, problem.radius + 1)
    complete = math.prod(shape) == out.numel()  # there are no partial gradients to sum
    partial = out if complete else torch.empty(shape, dtype=torch.float32, device=z.device)
    if launch.transposed:
        g, z, a, b = g.mT, z.mT, b, a
    dz = dz if launch.dz else z  # stands in for it, and is not written
    _launch(
        (streamed if grid.streams else resident).grad_kernel, grid.programs,
        g, *_strides(g.stride()),
        z, *_strides(z.stride()),
        dz, *_strides(dz.stride()),
        *_taps(a),
        *_taps(b),
        partial[0], partial[-1],
        z.shape[0], problem.c, grid.splits,
        **grid.constants,
    )  # fmt: skip
    if complete:
        return
    if out.dim() == 4:  # taps of each sample
        torch.sum(partial, 2, out=out)
    elif out.shape[1] > 1:
        torch.sum(partial, [1, 2], out=out)
    else:
        torch.sum(partial.flatten(1, 3), 1, keepdim=True, out=out)


# The gated taps. r and s of one shape, float32; without ``gated`` s is not read.


def gated_taps(
    r: Tensor, s: Tensor, gated: bool, max_radius: int, gaussian: str, truncate: float | None
) -> Tensor:
    """[a, b] = [sigmoid(s) k(|r|), k(|r|)], (2, *r.shape, R+1): one launch."""
    t = torch.empty((2, *r.shape, max_radius + 1), dtype=torch.float32, device=r.device)
    if r.numel() > 0:
        _launch(
            tap_kernels.gated_taps_kernel, r.numel(),
            r.contiguous(), s.contiguous(),
            t[0], t[1],
            **_window(r.device, gated, max_radius, gaussian, truncate),
        )  # fmt: skip
    return t


def gated_taps_grad(
    r: Tensor, s: Tensor, dt: Tensor,
    gated: bool, max_radius: int, gaussian: str, truncate: float | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(dr, ds) from the gradient of both taps, (2, *r.shape, R+1): one launch."""
    r, dt = r.contiguous(), dt.contiguous()
    dr, ds = torch.empty_like(r), torch.empty_like(r)
    if r.numel() > 0:
        _launch(
            tap_kernels.gated_taps_grad_kernel, r.numel(),
            r, s.contiguous(),
            dt[0], dt[1],
            dr, ds,
            **_window(r.device, gated, max_radius, gaussian, truncate),
        )  # fmt: skip
    return dr, ds


def gated_taps_grad_grad(
    r: Tensor, s: Tensor, dt: Tensor, vr: Tensor, vs: Tensor,
    gated: bool, max_radius: int, gaussian: str, truncate: float | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradient of <vr, dr> + <vs, ds>, of ``gated_taps_grad``, by (r, s, dt): one launch."""
    r, dt = r.contiguous(), dt.contiguous()
    r_bar, s_bar, t_bar = torch.empty_like(r), torch.empty_like(r), torch.empty_like(dt)
    if r.numel() > 0:
        _launch(
            tap_kernels.gated_taps_grad_grad_kernel, r.numel(),
            r, s.contiguous(),
            dt[0], dt[1],
            vr.contiguous(), vs.contiguous(),
            r_bar, s_bar,
            t_bar[0], t_bar[1],
            **_window(r.device, gated, max_radius, gaussian, truncate),
        )  # fmt: skip
    return r_bar, s_bar, t_bar


@functools.lru_cache(256)
def _window(
    device: torch.device, gated: bool, max_radius: int, gaussian: str, truncate: float | None
) -> dict[str, Any]:
    """The arguments of the kernels that begin with tap_kernels.taps_and_derivatives."""
    rules = bessel_rules(max_radius, torch.float32, device)
    return dict(
        cos_minus_one_ptr=rules.cos_minus_one, cosines_ptr=rules.cosines, series_ptr=rules.series,
        NODES=rules.cos_minus_one.numel(), TERMS=TERMS, SWITCH=rules.switch,
        RADIUS=max_radius, DISCRETE=gaussian == "discrete", TRUNCATE=truncate or 0.0,
        GATED=gated, num_warps=4,
    )  # fmt: skip
