"""The ops and the tap tables on Triton: allocation and launch."""

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
from akm_triton.gaussian import trapezoid
from akm_triton.internals import in_graph, value_at_trace
from akm_triton.launch import choice
from akm_triton.launch.plan import Pass, Plan
from akm_triton.launch.problem import Device, Problem

INTERPRET: bool = triton.knobs.runtime.interpret


@functools.cache
def describe(device: torch.device) -> Device:
    if device.type != "cuda":
        return Device(f"{device.type} (interpreter)", 1, 90, 232_448)
    found = torch.cuda.get_device_properties(device)
    return Device(
        found.name,
        found.multi_processor_count,
        10 * found.major + found.minor,
        found.shared_memory_per_block_optin,  # type: ignore[attr-defined]
    )


class _Launcher(threading.local):
    instead: Callable[..., None] | None = None
    device: Device | None = None


_launcher = _Launcher()


@contextlib.contextmanager
def launching(instead: Callable[..., None], device: Device | None = None) -> Iterator[None]:
    """Call ``instead(kernel, *args, **constants)`` where this thread would launch a kernel, planned
    for ``device``."""
    before = _launcher.instead, _launcher.device
    _launcher.instead, _launcher.device = instead, device
    try:
        yield
    finally:
        _launcher.instead, _launcher.device = before


def _launch(kernel: Any, programs: int, x: Tensor, *args: Any, **constants: Any) -> None:
    """Run ``kernel`` on (x, *args), or leave a node for it in the graph that is being traced."""
    if _launcher.instead is not None:
        _launcher.instead(kernel, x, *args, **constants)
        return
    if in_graph(x):
        torch.library.wrap_triton(kernel)[(programs,)](x, *args, **constants)
        return
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        kernel[(programs,)](x, *args, **constants)


def _interpretable(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The interpreter computes bfloat16 on its bit patterns: give it float32 instead."""
    if not INTERPRET:
        return tensors
    return tuple(x.float() if x.dtype == torch.bfloat16 else x for x in tensors)


@functools.lru_cache(4096)
def _strides(strides: tuple[int, ...]) -> tuple[int, tuple[int, int, int, int]]:
    """(stride_n / unit, (unit, stride_c, stride_h, stride_w)): what Triton must know at compile
    time to make wide accesses, and the rest, which may vary with the batch."""
    n, c, h, w = strides
    unit = 16
    while n % unit:
        unit //= 2
    return n // unit, (unit, c, h, w)


def _rows(table: Tensor) -> tuple[Tensor, int, int]:
    """(table, stride over samples, stride over channels) of a table (1|C, R+1) or (N, C, R+1)."""
    table, shape = table.contiguous(), table.shape
    taps = shape[-1]
    per_sample = shape[1] * taps if len(shape) == 3 and shape[0] > 1 else 0
    return table, per_sample, taps if shape[-2] > 1 else 0


def _empty_like(z: Tensor) -> Tensor:
    """An output in the memory format of z: channels_last or contiguous, whatever z's strides."""
    last = z.is_contiguous(memory_format=torch.channels_last) and not z.is_contiguous()
    memory_format = torch.channels_last if last else torch.contiguous_format
    return torch.empty_like(z, memory_format=memory_format)


# What a launch is told beside its tensors, and how many programs and splits of the batch it has.
_Cut = tuple[Pass, Problem, int, int, dict[str, Any]]


def _cuts(op: str, z: Tensor, table: Tensor, border: str, plan: Plan | None) -> list[_Cut]:
    shape: Any = z.shape
    if in_graph(z):
        shape = (value_at_trace(shape[0]), *shape[1:])
    last = shape[1] > 1 and z.stride(1) == 1
    what = op, shape, table.shape[-1] - 1, border, z.element_size(), last, table.dim() == 3
    device = _launcher.device or describe(z.device)
    if plan is not None:
        problem = _problem(*what)
        return [_cut(step, problem, device) for step in plan]
    for observe in choice.observers:
        observe(_problem(*what), device, z.device, in_graph(z))
    return _chosen(choice.generation(), device, *what)


def _problem(op: str, shape: tuple[int, int, int, int], *others: Any) -> Problem:
    n, c, h, w = shape
    return Problem(op, n, c, h, w, *others)


@functools.lru_cache(4096)
def _chosen(generation: int, device: Device, *what: Any) -> list[_Cut]:
    problem = _problem(*what)
    return [_cut(step, problem, device) for step in choice.choose(problem, device).plan]


def _cut(step: Pass, problem: Problem, device: Device) -> _Cut:
    cfg, problem = step.config, step.problem(problem)
    splits = cfg.splits(problem, device)
    constants: dict[str, Any] = dict(
        H=problem.h, W=problem.w, RADIUS=problem.radius, BORDER=problem.border,
        PLANES=cfg.planes, BLOCK_H=cfg.block_h, SEGMENTS=cfg.segments,
        BLOCK_W=cfg.block_w, OUT_W=cfg.out_w, STEP_W=cfg.step_w, HALO=cfg.halo, STRIPS=cfg.strips,
        PRECISION="ieee" if INTERPRET or problem.half else cfg.precision,
        num_warps=cfg.warps, num_stages=cfg.stages,
    )  # fmt: skip
    if step.da or step.db:
        constants |= dict(NEED_DZ=step.dz)
        constants |= dict(NEED_DA=step.da and not step.transposed)
        constants |= dict(NEED_DB=step.db or step.transposed)
    return step, problem, cfg.programs(problem.c) * splits, splits, constants


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
    op: str, z: Tensor, tables: list[tuple[Tensor, Tensor]], border: str, adjoint: bool,
    plan: Plan | None,
) -> Tensor:  # fmt: skip
    """y = the sum over the one or two (a, b) of T(a) z T(b)ᵀ, or of its adjoint."""
    (x,) = _interpretable(z)
    y = _empty_like(x)
    if z.numel() > 0:
        op += "_adjoint" if adjoint else ""
        (cut,) = _cuts(op, x, tables[0][0], border, plan)
        _launch_blur(x, y, tables, adjoint, cut)
    return y.to(z.dtype)


def _launch_blur(
    z: Tensor, y: Tensor, tables: list[tuple[Tensor, Tensor]], adjoint: bool, cut: _Cut
) -> None:
    (a, b), (c, d) = tables[0], tables[-1]
    step, problem, programs, splits, constants = cut
    kernels = streamed if step.config.streams(problem) else resident
    _launch(
        kernels.blur_kernel, programs,
        z, *_strides(z.stride()),
        y, *_strides(y.stride()),
        *_rows(a),
        *_rows(b),
        c.contiguous(), d.contiguous(),
        z.shape[0], problem.c, splits,
        ADJOINT=adjoint, PAIR=len(tables) > 1, **constants,
    )  # fmt: skip


def blur_backward(
    g: Tensor, z: Tensor, a: Tensor, b: Tensor, border: str, plan: Plan | None = None
) -> tuple[Tensor, Tensor]:
    """(∂F/∂z, [∂F/∂a, ∂F/∂b]) of F = <g, T(a) z T(b)ᵀ>, a and b of one shape: one launch where the
    tiles are small enough, and one for the sum of its partials."""
    gx, zx = _interpretable(g, z)
    dz = _empty_like(zx)
    grads = _grads("blur_backward", gx, zx, dz, a, b, border, plan)
    return dz.to(z.dtype), grads


def tap_grads(
    g: Tensor, z: Tensor, a: Tensor, b: Tensor, border: str, plan: Plan | None = None
) -> Tensor:
    """[∂F/∂a, ∂F/∂b] alone."""
    gx, zx = _interpretable(g, z)
    return _grads("tap_grads", gx, zx, zx, a, b, border, plan)


def _grads(
    op: str, g: Tensor, z: Tensor, dz: Tensor, a: Tensor, b: Tensor, border: str,
    plan: Plan | None,
) -> Tensor:  # fmt: skip
    """Write dz, where the op has it, and return the gradients of both tables, (2, *a.shape)."""
    tables = torch.zeros if z.numel() == 0 else torch.empty
    grads = tables((2, *a.shape), dtype=torch.float32, device=z.device)
    if z.numel() > 0:
        for cut in _cuts(op, z, a, border, plan):
            step = cut[0]
            if step.da or step.db:
                _launch_grad(g, z, dz, a, b, grads, cut)
            else:
                _launch_blur(g, dz, [(a, b)], True, cut)
    return grads


def _launch_grad(
    g: Tensor, z: Tensor, dz: Tensor, a: Tensor, b: Tensor, grads: Tensor, cut: _Cut
) -> None:
    """Run one pass, which writes dz and the gradients of the tables that it names."""
    step, problem, programs, splits, constants = cut
    cfg = step.config
    out = grads[0 if step.da else 1 : 2 if step.db else 1]
    shape = (len(out), splits, cfg.strips * cfg.segments, problem.c, problem.radius + 1)
    whole = math.prod(shape) == out.numel()  # no partials to sum
    partial = out if whole else torch.empty(shape, dtype=torch.float32, device=z.device)
    if step.transposed:
        g, z, a, b = g.mT, z.mT, b, a
    written = dz if step.dz else z  # z is not written
    kernels = streamed if cfg.streams(problem) else resident
    _launch(
        kernels.grad_kernel, programs,
        g, *_strides(g.stride()),
        z, *_strides(z.stride()),
        written, *_strides(written.stride()),
        *_rows(a),
        *_rows(b),
        partial[0], partial[-1],
        z.shape[0], problem.c, splits,
        **constants,
    )  # fmt: skip
    if whole:
        return
    if out.dim() == 4:  # tables of the sample
        torch.sum(partial, 2, out=out)
    elif out.shape[1] > 1:
        torch.sum(partial, [1, 2], out=out)
    else:
        torch.sum(partial.flatten(1, 3), 1, keepdim=True, out=out)


def _window(
    r: Tensor, gated: bool, max_radius: int, gaussian: str, truncate: float | None
) -> dict[str, Any]:
    """The arguments of the kernels that begin with tap_kernels.gaussian_window."""
    bend, waves = trapezoid(max_radius, torch.float32, r.device)
    if in_graph(r):
        bend, waves = torch.ops.aten.lift_fresh(bend), torch.ops.aten.lift_fresh(waves)
    return dict(
        bend_ptr=bend, waves_ptr=waves, NODES=bend.numel(),
        RADIUS=max_radius, DISCRETE=gaussian == "discrete", TRUNCATE=truncate or 0.0,
        GATED=gated, num_warps=4,
    )  # fmt: skip


# The tap tables. r and s of one shape, float32; without ``gated`` s is not read.


def tables(
    r: Tensor, s: Tensor, gated: bool, max_radius: int, gaussian: str, truncate: float | None
) -> Tensor:
    """[a, b] = [sigmoid(s) k(|r|), k(|r|)], (2, *r.shape, R+1): one launch."""
    t = torch.empty((2, *r.shape, max_radius + 1), dtype=torch.float32, device=r.device)
    if r.numel() > 0:
        _launch(
            tap_kernels.tables_kernel, r.numel(),
            r.contiguous(), s.contiguous(),
            t[0], t[1],
            **_window(r, gated, max_radius, gaussian, truncate),
        )  # fmt: skip
    return t


def tables_grad(
    r: Tensor, s: Tensor, dt: Tensor,
    gated: bool, max_radius: int, gaussian: str, truncate: float | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(dr, ds) from the gradient of both tables, (2, *r.shape, R+1): one launch."""
    r, dt = r.contiguous(), dt.contiguous()
    dr, ds = torch.empty_like(r), torch.empty_like(r)
    if r.numel() > 0:
        _launch(
            tap_kernels.tables_grad_kernel, r.numel(),
            r, s.contiguous(),
            dt[0], dt[1],
            dr, ds,
            **_window(r, gated, max_radius, gaussian, truncate),
        )  # fmt: skip
    return dr, ds


def tables_grad_grad(
    r: Tensor, s: Tensor, dt: Tensor, vr: Tensor, vs: Tensor,
    gated: bool, max_radius: int, gaussian: str, truncate: float | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradient of ⟨vr, dr⟩ + ⟨vs, ds⟩, of ``tables_grad``, by (r, s, dt): one launch."""
    r, dt = r.contiguous(), dt.contiguous()
    r_bar, s_bar, t_bar = torch.empty_like(r), torch.empty_like(r), torch.empty_like(dt)
    if r.numel() > 0:
        _launch(
            tap_kernels.tables_grad_grad_kernel, r.numel(),
            r, s.contiguous(),
            dt[0], dt[1],
            vr.contiguous(), vs.contiguous(),
            r_bar, s_bar,
            t_bar[0], t_bar[1],
            **_window(r, gated, max_radius, gaussian, truncate),
        )  # fmt: skip
    return r_bar, s_bar, t_bar
