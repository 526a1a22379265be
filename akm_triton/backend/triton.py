"""The ops and the gated taps on Triton: what is allocated, and what is launched.

z is (N, C, H, W) with any strides; the taps t = [a, b] are (2, 1|C, R+1) or (2, N, C, R+1), centre
tap first. What a call needs but its tensors is prepared once for its shapes and options.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from akm_triton.backend import tap_kernels
from akm_triton.backend import torch as torch_backend
from akm_triton.backend.bindings import axis_launch, blur_launch, taps_launch
from akm_triton.backend.launcher import INTERPRET, Launcher, launching, takes
from akm_triton.backend.layout import Stride, along, empty_like, format_as
from akm_triton.backend.margins import add_margins, adds_once
from akm_triton.backend.prepared import device_of, grids_of, observe, prepare, prepared, problem_of
from akm_triton.backend.sequences import Blur, Gradients, blur_by_axes, grads_by_axes, grads_by_maps
from akm_triton.borders import SELF_ADJOINT
from akm_triton.launch import choice
from akm_triton.launch.axis import AXES, Axis, Step
from akm_triton.launch.plan import Plan, grids
from akm_triton.launch.rule import one_axis

__all__ = [
    "INTERPRET", "axis_backward", "axis_grads", "blur", "blur_axis", "blur_backward", "blur_pair",
    "gated_taps", "gated_taps_grad", "gated_taps_grad_grad", "launching", "modulate", "takes",
    "tap_grads",
]  # fmt: skip


def _float32_for_interpreter(x: Tensor) -> Tensor:
    """The interpreter computes bfloat16 on its bit patterns: it gets float32 instead."""
    return x.float() if INTERPRET and x.dtype == torch.bfloat16 else x


def _back(y: Tensor, z: Tensor) -> Tensor:
    return y.to(z.dtype) if INTERPRET else y


# blur and blur_pair


def blur(
    z: Tensor, t: Tensor, border: str, adjoint: bool, plan: Plan | None = None,
    stride: Stride = (1, 1),
) -> Tensor:  # fmt: skip
    """y = T(a) z T(b)ᵀ, or T(a)ᵀ z T(b): one launch, nothing allocated but y, or one for each axis
    and a map between them. Of y only the rows and columns are written that ``stride`` keeps."""
    return _blur("blur_adjoint" if adjoint else "blur", z, (t.contiguous(),), border, plan, stride)


def blur_pair(
    z: Tensor, t: Tensor, v: Tensor, border: str, adjoint: bool, plan: Plan | None = None
) -> Tensor:
    """T(a) z T(d)ᵀ + T(c) z T(b)ᵀ, or its adjoint, with v = [c, d]: one launch too."""
    op = "blur_pair_adjoint" if adjoint else "blur_pair"
    return _blur(op, z, (t.contiguous(), v.contiguous()), border, plan)


def _blur(
    op: str, z: Tensor, taps: tuple[Tensor, ...], border: str, plan: Plan | None,
    stride: Stride = (1, 1),
) -> Tensor:  # fmt: skip
    x = _float32_for_interpreter(z)
    y = empty_like(x, stride)
    if z.numel() > 0:
        _blur_launcher(op, x, y, taps[0], border, plan, stride)(x, y, *taps)
    return _back(y, z)


def _blur_launcher(
    op: str, z: Tensor, y: Tensor, t: Tensor, border: str, plan: Plan | None, stride: Stride
) -> Blur:
    if plan is None and choice.observers:
        observe(problem_of(op, z, t, border, stride), z)
    key = op, border, plan, stride, z.shape, z.stride(), z.dtype, t.shape, t.dtype
    launch: Blur | None = prepared(z, *key)
    if launch is None:
        grids = grids_of(op, z, t, border, plan, stride)
        if len(grids) == 1:
            launch = prepare(blur_launch(z, y, t, grids[0]), z, *key)
        else:
            launch = prepare(blur_by_axes(z, y, t, grids), z, *key)
    return launch


# blur_backward and tap_grads


def blur_backward(
    g: Tensor, z: Tensor, t: Tensor, border: str, plan: Plan | None = None
) -> tuple[Tensor, Tensor]:
    """(∂F/∂z, [∂F/∂a, ∂F/∂b]) of F = <g, T(a) z T(b)ᵀ>: one launch where the tiles are small
    enough, and one for the sum of its partial gradients."""
    gx, zx = _float32_for_interpreter(g), _float32_for_interpreter(z)
    dz = empty_like(zx)
    grads = _grads("blur_backward", gx, zx, dz, t.contiguous(), border, plan)
    return _back(dz, z), grads


def tap_grads(g: Tensor, z: Tensor, t: Tensor, border: str, plan: Plan | None = None) -> Tensor:
    """[∂F/∂a, ∂F/∂b] alone."""
    gx, zx = _float32_for_interpreter(g), _float32_for_interpreter(z)
    return _grads("tap_grads", gx, zx, zx, t.contiguous(), border, plan)


def _grads(
    op: str, g: Tensor, z: Tensor, dz: Tensor, t: Tensor, border: str, plan: Plan | None
) -> Tensor:
    """Write dz, where the op has it, and return the gradients of both taps, shaped as t."""
    if z.numel() == 0:
        return torch.zeros(t.shape, dtype=torch.float32, device=z.device)
    if plan is None and choice.observers:
        observe(problem_of(op, z, t, border), z)
    key = op, border, plan, z.shape, z.stride(), z.dtype, g.stride(), g.dtype, t.shape, t.dtype
    gradients: Gradients | None = prepared(z, *key)
    if gradients is None:
        grids = grids_of(op, z, t, border, plan)
        by_axes = isinstance(grids[0].launch.config, Axis)
        made = grads_by_axes if by_axes else grads_by_maps
        gradients = prepare(made(g, z, dz, t, grids), z, *key)
    return gradients(g, z, dz, t, None)


# One axis alone. Taps are (1|C, R+1) or (N, C, R+1), ``dim`` is 2, down the rows, or 3, along them.


def blur_axis(
    z: Tensor, a: Tensor, dim: int, border: str, adjoint: bool, stride: int = 1
) -> Tensor:
    """T(a) along an axis, or its adjoint: one launch, nothing allocated but the result. Where the
    border makes the adjoint another operator, a few small products of PyTorch are added. What
    ``stride`` does not keep is dropped afterwards."""
    if stride > 1:
        whole = blur_axis(z, a, dim, border, adjoint)
        down, across = along(dim, stride)
        return format_as(z, whole[:, :, ::down, ::across])
    if adjoint and border not in SELF_ADJOINT:
        if not adds_once(z.shape[dim], a.shape[-1] - 1):
            return torch_backend.blur_axis(z, a, dim, border, adjoint)
        y = blur_axis(z, a, dim, "zeros", False)
        add_margins(y, z, a, dim, border)
        return y
    x = _float32_for_interpreter(z)
    y = empty_like(x)
    if z.numel() > 0:
        t = a.contiguous()[None]
        _one_axis("blur", (x, y), t, dim, border).launch(x, y, t)
    return _back(y, z)


def axis_grads(g: Tensor, z: Tensor, radius: int, dim: int, border: str, by_sample: bool) -> Tensor:
    """∂F/∂a of F = <g, T(a) z>, (C, R+1) or (N, C, R+1): a launch, and the sum of its parts."""
    shape = (1, z.shape[0], z.shape[1], radius + 1) if by_sample else (1, 1, radius + 1)
    none = torch.empty(1, dtype=torch.float32, device=z.device).expand(shape)  # taps are not read
    # of all borders: what a tap is multiplied by is found around z
    gx, zx = _float32_for_interpreter(g), _float32_for_interpreter(z)
    return _axis_grads(zx, gx, zx, none, dim, border, False)


def axis_backward(g: Tensor, z: Tensor, a: Tensor, dim: int, border: str) -> tuple[Tensor, Tensor]:
    """(∂F/∂z, ∂F/∂a), by one launch where T is symmetric."""
    if border not in SELF_ADJOINT:
        grads = axis_grads(g, z, a.shape[-1] - 1, dim, border, a.dim() == 3)
        return blur_axis(g, a, dim, border, True), grads.sum_to_size(a.shape)
    gx, zx = _float32_for_interpreter(g), _float32_for_interpreter(z)
    dz = empty_like(zx)
    grads = _axis_grads(gx, zx, dz, a.contiguous()[None], dim, border, True)
    return _back(dz, z), grads.sum_to_size(a.shape)


def _axis_grads(
    g: Tensor, z: Tensor, dz: Tensor, t: Tensor, dim: int, border: str, need_dz: bool
) -> Tensor:
    n, c, radius = z.shape[0], z.shape[1], t.shape[-1] - 1
    by_sample = t.dim() == 4
    if z.numel() == 0:
        return torch.zeros((n, c, radius + 1) if by_sample else (c, radius + 1), device=z.device)
    op = "blur_backward" if need_dz else "tap_grads"
    launch, parts = _one_axis(op, (g, z, dz), t, dim, border)
    partial = torch.empty(parts, dtype=torch.float32, device=z.device)
    launch(g, z, dz, t, partial[None])
    return partial.view(n, -1, c, radius + 1).sum(1) if by_sample else partial.sum((0, 1))


class _OneAxis(NamedTuple):
    launch: Launcher
    parts: tuple[int, ...]
    """The shape of partial gradients."""


def _one_axis(op: str, maps: tuple[Tensor, ...], t: Tensor, dim: int, border: str) -> _OneAxis:
    """The launch of an op of one axis: its tiles are those of the rule, which nothing tunes."""
    z = maps[0]
    key = "axis", op, dim, border, t.shape, *[(x.shape, x.stride(), x.dtype) for x in maps]
    made: _OneAxis | None = prepared(z, *key)
    if made is None:
        problem, device = problem_of(op, z, t, border), device_of(z)
        outputs = {"blur": ("dz",), "blur_backward": ("dz", "da"), "tap_grads": ("da",)}[op]
        step = Step(AXES[dim - 2], outputs, "g", "z" if "da" in outputs else "", "dz")
        (grid,) = grids((one_axis(step, problem, device),), problem, device)
        parts = grid.splits, grid.strips, problem.c, problem.radius + 1
        made = prepare(_OneAxis(axis_launch(maps, t, step, grid, (0, 0)), parts), z, *key)
    return made


# The gated taps. r and s of one shape, float32; without ``gated`` s is not read.


def gated_taps(
    r: Tensor, s: Tensor, gated: bool, max_radius: int, gaussian: str, truncate: float | None
) -> Tensor:
    """[a, b] = [sigmoid(s) k(|r|), k(|r|)], (2, *r.shape, R+1): one launch."""
    t = torch.empty((2, *r.shape, max_radius + 1), dtype=torch.float32, device=r.device)
    if r.numel() > 0:
        tensors = r.contiguous(), s.contiguous(), t
        launch = taps_launch(
            tap_kernels.gated_taps_kernel, tensors, gated, max_radius, gaussian, truncate
        )
        launch(*tensors)
    return t


def modulate(
    z: Tensor, r: Tensor, s: Tensor, border: str,
    gated: bool, max_radius: int, gaussian: str, truncate: float | None, stride: Stride,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(y, t): ``gated_taps`` and then ``blur`` of a map that is not empty, prepared together."""
    window = gated, max_radius, gaussian, truncate
    if INTERPRET:
        t = gated_taps(r, s, *window)
        return blur(z, t, border, False, stride=stride), t
    r, s, y = r.contiguous(), s.contiguous(), empty_like(z, stride)
    t = torch.empty((2, *r.shape, max_radius + 1), dtype=torch.float32, device=r.device)
    key = (
        "modulate", border, window, stride, z.shape, z.stride(), z.dtype, r.shape, r.dtype, s.dtype,
    )  # fmt: skip
    both = None if choice.observers else prepared(z, *key)
    if both is None:
        taps = taps_launch(tap_kernels.gated_taps_kernel, (r, s, t), *window)
        both = prepare((taps, _blur_launcher("blur", z, y, t, border, None, stride)), z, *key)
    both[0](r, s, t)
    both[1](z, y, t)
    return y, t


def modulate_backward(
    g: Tensor, z: Tensor, r: Tensor, s: Tensor, t: Tensor, border: str, of_map: bool,
    gated: bool, max_radius: int, gaussian: str, truncate: float | None,
) -> tuple[Tensor | None, Tensor, Tensor]:  # fmt: skip
    """(dz or None, dr, ds), with the taps t of ``modulate``."""
    dz = None
    if of_map:
        dz, dt = blur_backward(g, z, t, border)
    else:
        dt = tap_grads(g, z, t, border)
    return dz, *gated_taps_grad(r, s, dt, gated, max_radius, gaussian, truncate)


def gated_taps_grad(
    r: Tensor, s: Tensor, dt: Tensor,
    gated: bool, max_radius: int, gaussian: str, truncate: float | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(dr, ds) from the gradient of both taps, (2, *r.shape, R+1): one launch."""
    r = r.contiguous()
    dr, ds = torch.empty_like(r), torch.empty_like(r)
    if r.numel() > 0:
        tensors = r, s.contiguous(), dt.contiguous(), dr, ds
        launch = taps_launch(
            tap_kernels.gated_taps_grad_kernel, tensors, gated, max_radius, gaussian, truncate
        )
        launch(*tensors)
    return dr, ds


def gated_taps_grad_grad(
    r: Tensor, s: Tensor, dt: Tensor, vr: Tensor, vs: Tensor,
    gated: bool, max_radius: int, gaussian: str, truncate: float | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradient of <vr, dr> + <vs, ds>, of ``gated_taps_grad``, by (r, s, dt): one launch."""
    r, dt = r.contiguous(), dt.contiguous()
    r_bar, s_bar, t_bar = torch.empty_like(r), torch.empty_like(r), torch.empty_like(dt)
    if r.numel() > 0:
        tensors = r, s.contiguous(), dt, vr.contiguous(), vs.contiguous(), r_bar, s_bar, t_bar
        launch = taps_launch(
            tap_kernels.gated_taps_grad_grad_kernel, tensors, gated, max_radius, gaussian, truncate
        )
        launch(*tensors)
    return r_bar, s_bar, t_bar
