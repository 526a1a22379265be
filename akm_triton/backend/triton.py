"""The ops and the gated taps on Triton: what is allocated, and what is launched.

z is (N, C, H, W) with any strides; the taps t = [a, b] are (2, 1|C, R+1) or (2, N, C, R+1), centre
tap first. What a call needs but its tensors is prepared once for its shapes and options.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from akm_triton.backend import axis, kernels, sliding, tap_kernels
from akm_triton.backend import torch as torch_backend
from akm_triton.backend.launcher import (
    INTERPRET,
    Launcher,
    Pointer,
    interception,
    launching,
    takes,
)
from akm_triton.backend.layout import Stride, empty_like, tap_strides
from akm_triton.borders import SELF_ADJOINT
from akm_triton.gaussian import TERMS, bessel_rules
from akm_triton.launch import choice
from akm_triton.launch.axis import AXES, SCRATCH, Axis, Step, steps
from akm_triton.launch.device import describe
from akm_triton.launch.plan import Grid, Plan, grids
from akm_triton.launch.problem import Problem
from akm_triton.launch.rule import one_axis
from akm_triton.launch.sliding import Sliding
from akm_triton.tracing import in_graph, value_at_trace

__all__ = [
    "INTERPRET", "axis_backward", "axis_grads", "blur", "blur_axis", "blur_backward", "blur_pair",
    "gated_taps", "gated_taps_grad", "gated_taps_grad_grad", "launching", "modulate", "takes",
    "tap_grads",
]  # fmt: skip

MOST_PREPARED = 4096

_Made = TypeVar("_Made")
_Launch = Callable[..., object]
"""Of the tensors of a call."""


def _prepared(x: Tensor, *key: Hashable) -> Any:
    """What ``_prepare`` kept for this key and the device of x; None where there is nothing."""
    if interception.instead is not None or in_graph(x):
        return None
    return choice.prepared.get((interception.device or x.device, key))


def _prepare(made: _Made, x: Tensor, *key: Hashable) -> _Made:
    """Keep what was made for calls on the device of x; the key has all else it was made of."""
    if interception.instead is None and not in_graph(x):
        if len(choice.prepared) >= MOST_PREPARED:
            choice.prepared.clear()
        choice.prepared[interception.device or x.device, key] = made
    return made


def _problem(op: str, z: Tensor, t: Tensor, border: str, stride: Stride = (1, 1)) -> Problem:
    n, c, h, w = z.shape
    return Problem(
        op, value_at_trace(n) if in_graph(z) else n, c, h, w, t.shape[-1] - 1, border,
        z.element_size(), c > 1 and z.stride(1) == 1,  # dense or not, channels lie side by side
        t.dim() == 4, stride,
    )  # fmt: skip


def _grids(
    op: str, z: Tensor, t: Tensor, border: str, plan: Plan | None, stride: Stride = (1, 1)
) -> tuple[Grid, ...]:
    """The launches of an op: those of ``plan``, or else of what the chooser finds."""
    problem, device = _problem(op, z, t, border, stride), interception.device or describe(z.device)
    return choice.choose(problem, device).grids if plan is None else grids(plan, problem, device)


def _observe(problem: Problem, z: Tensor) -> None:
    """Tell those who listen to what is chosen, before it is."""
    device = interception.device or describe(z.device)
    for observe in choice.observers:
        observe(problem, device, z.device, in_graph(z))


def _float32_for_interpreter(x: Tensor) -> Tensor:
    """The interpreter computes bfloat16 on its bit patterns: it gets float32 instead."""
    return x.float() if INTERPRET and x.dtype == torch.bfloat16 else x


def _back(y: Tensor, z: Tensor) -> Tensor:
    return y.to(z.dtype) if INTERPRET else y


def _strides(x: Tensor) -> tuple[int, tuple[int, int, int, int]]:
    """(stride_n / unit, (unit, stride_c, stride_h, stride_w)): what Triton must know at compile
    time to make wide accesses, and the rest, which may vary with the batch."""
    n, c, h, w = x.stride()
    unit = 16
    while n % unit:
        unit //= 2
    return n // unit, (unit, c, h, w)


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
) -> _Launch:
    if plan is None and choice.observers:
        _observe(_problem(op, z, t, border, stride), z)
    key = op, border, plan, stride, z.shape, z.stride(), z.dtype, t.shape, t.dtype
    launch: _Launch | None = _prepared(z, *key)
    if launch is None:
        grids = _grids(op, z, t, border, plan, stride)
        if len(grids) == 1:
            launch = _prepare(_blur_launch(z, y, t, grids[0]), z, *key)
        else:
            launch = _prepare(_blur_by_axes(z, y, t, grids), z, *key)
    return launch


def _blur_launch(z: Tensor, y: Tensor, t: Tensor, grid: Grid) -> Launcher:
    """Of (z, y, t), or of (z, y, t, v) for the sum over (a, d) and (c, b)."""
    other = 3 if grid.problem.pair else 2
    maps_and_taps = (
        Pointer(0), *_strides(z),
        Pointer(1), *_strides(y),
        Pointer(2, 0), *tap_strides(t.shape[1:]),
        Pointer(other, 1), *tap_strides(t.shape[1:]),
    )  # fmt: skip
    c = grid.problem.c
    if isinstance(grid.launch.config, Sliding):
        return Launcher(
            sliding.sliding_blur_kernel, grid.programs, (*maps_and_taps, c), grid.constants
        )
    more = Pointer(other, 0), Pointer(2, 1), c, grid.share, grid.extra
    return Launcher(kernels.blur_kernel, grid.programs, (*maps_and_taps, *more), grid.constants)


def _blur_by_axes(z: Tensor, y: Tensor, t: Tensor, grids: tuple[Grid, ...]) -> _Launch:
    """Of (z, y, t): a launch for each axis, with a map between them."""
    u = _scratch(z)
    down, across = steps(grids[0].problem)
    first = _axis_launch((z, u), t, down, grids[0])
    last = _axis_launch((u, y), t, across, grids[1])

    def both(z: Tensor, y: Tensor, t: Tensor) -> None:
        u = empty_like(z)
        first(z, u, t)
        last(u, y, t)

    return both


def _scratch(z: Tensor) -> Tensor:
    """What ``empty_like`` returns, without memory."""
    return empty_like(torch.empty_strided(z.shape, z.stride(), dtype=z.dtype, device="meta"))


def _axis_launch(
    maps: tuple[Tensor, ...], t: Tensor, step: Step, grid: Grid, tables: tuple[int, int] = (0, 1)
) -> Launcher:
    """Of the maps (g, dz) and t, or of (g, z, dz), t and partial gradients. Of t, rows and columns
    have these tables."""
    cfg, problem = grid.launch.config, grid.problem
    assert isinstance(cfg, Axis)
    turned, gradient = cfg.turns(problem), bool(step.z)
    arguments: list[Any] = []
    for i, x in enumerate(maps):
        n, (unit, c, h, w) = _strides(x)
        arguments += Pointer(i), n, (unit, c, w, h) if turned else (unit, c, h, w)
    for table in tables if cfg.axis == "rows" else tables[::-1]:
        arguments += Pointer(len(maps), table), *tap_strides(t.shape[1:])
    if gradient:
        arguments.append(Pointer(len(maps) + 1, 0))
    kernel = {
        (True, False): axis.down_blur_kernel, (False, False): axis.across_blur_kernel,
        (True, True): axis.down_grad_kernel, (False, True): axis.across_grad_kernel,
    }[cfg.down(problem), gradient]  # fmt: skip
    scaled = maps[0].dtype == torch.float16
    scratch = dict(TO=scaled and step.dz in SCRATCH, FROM=scaled and step.g in SCRATCH)
    return Launcher(kernel, grid.programs, (*arguments, problem.c), grid.constants | scratch)


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
        _observe(_problem(op, z, t, border), z)
    key = op, border, plan, z.shape, z.stride(), z.dtype, g.stride(), g.dtype, t.shape, t.dtype
    gradients: _Step | None = _prepared(z, *key)
    if gradients is None:
        grids = _grids(op, z, t, border, plan)
        by_axes = isinstance(grids[0].launch.config, Axis)
        made = _grads_by_axes if by_axes else _grads_by_maps
        gradients = _prepare(made(g, z, dz, t, grids), z, *key)
    return gradients(g, z, dz, t, None)


def _grads_by_maps(g: Tensor, z: Tensor, dz: Tensor, t: Tensor, grids: tuple[Grid, ...]) -> _Step:
    """Each launch of (g, z, dz)."""
    each = [_grad_step(g, z, dz, t, grid) for grid in grids]
    if len(each) == 1:
        return each[0]

    def all_of_them(g: Tensor, z: Tensor, dz: Tensor, t: Tensor, grads: Tensor | None) -> Tensor:
        grads = torch.empty(t.shape, dtype=torch.float32, device=z.device)
        for step in each:
            step(g, z, dz, t, grads)
        return grads

    return all_of_them


def _grads_by_axes(g: Tensor, z: Tensor, dz: Tensor, t: Tensor, grids: tuple[Grid, ...]) -> _Step:
    """Launches of one axis each, through the maps u and v."""
    which = steps(grids[0].problem)
    maps = {"g": g, "z": z, "u": _scratch(z), "v": _scratch(z), "dz": dz}
    each = [
        _axis_step(maps[step.g], maps.get(step.z, z), maps[step.dz], t, step, grid)
        for step, grid in zip(which, grids, strict=True)
    ]

    def in_turn(g: Tensor, z: Tensor, dz: Tensor, t: Tensor, grads: Tensor | None) -> Tensor:
        grads = torch.empty(t.shape, dtype=torch.float32, device=z.device)
        maps = {"g": g, "z": z, "u": empty_like(z), "v": empty_like(z), "dz": dz}
        for step, run in zip(which, each, strict=True):
            run(maps[step.g], maps.get(step.z, z), maps[step.dz], t, grads)
        return grads

    return in_turn


def _axis_step(g: Tensor, z: Tensor, dz: Tensor, t: Tensor, step: Step, grid: Grid) -> _Step:
    if not step.z:
        return _map_step(_axis_launch((g, dz), t, step, grid))
    return _summed(_axis_launch((g, z, dz), t, step, grid), t, grid)


_Step = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(g, z, dz, t, grads) to the gradients that a launch computes, in grads if that is given."""


def _grad_step(g: Tensor, z: Tensor, dz: Tensor, t: Tensor, grid: Grid) -> _Step:
    launch = grid.launch
    if not (launch.da or launch.db):
        return _map_step(_blur_launch(g, dz, t, grid))
    return _summed(_grad_launch(g, z, dz, t, launch.da + launch.db, grid), t, grid)


def _summed(gradients: Launcher, t: Tensor, grid: Grid) -> _Step:
    """The step of a launch of (g, z, dz, t, partial gradients), and of the sum of these."""
    launch, problem = grid.launch, grid.problem
    which = slice(0 if launch.da else 1, 2 if launch.db else 1)
    count = which.stop - which.start
    shape = (count, grid.splits, grid.strips, problem.c, problem.radius + 1)
    whole = (count, *t.shape[1:])
    complete = math.prod(shape) == math.prod(whole)  # there are no partial gradients to sum

    def step(g: Tensor, z: Tensor, dz: Tensor, t: Tensor, grads: Tensor | None) -> Tensor:
        out = None if grads is None else grads[which]
        if complete:
            out = t.new_empty(whole) if out is None else out
            gradients(g, z, dz, t, out)
            return out
        partial = t.new_empty(shape)
        gradients(g, z, dz, t, partial)
        if t.dim() == 4:  # taps of each sample
            return torch.sum(partial.view(count, problem.n, -1, *whole[2:]), 2, out=out)
        if t.shape[1] > 1:
            return torch.sum(partial, (1, 2), out=out)
        return torch.sum(partial.flatten(1, 3), 1, keepdim=True, out=out)

    return step


def _map_step(blur: Launcher) -> _Step:
    def step(g: Tensor, z: Tensor, dz: Tensor, t: Tensor, grads: Tensor | None) -> Tensor:
        blur(g, dz, t)
        return t  # there are none

    return step


def _grad_launch(g: Tensor, z: Tensor, dz: Tensor, t: Tensor, count: int, grid: Grid) -> Launcher:
    """Of (g, z, dz, t, partial), with partial gradients of so many taps."""
    written = (Pointer(2), *_strides(dz)) if grid.launch.dz else (Pointer(1), *_strides(z))
    arguments = (
        Pointer(0), *_strides(g),
        Pointer(1), *_strides(z),
        *written,
        Pointer(3, 0), *tap_strides(t.shape[1:]),
        Pointer(3, 1), *tap_strides(t.shape[1:]),
        Pointer(4, 0), Pointer(4, count - 1),
        grid.problem.c,
    )  # fmt: skip
    if isinstance(grid.launch.config, Sliding):
        return Launcher(sliding.sliding_grad_kernel, grid.programs, arguments, grid.constants)
    shares = grid.share, grid.extra
    return Launcher(kernels.grad_kernel, grid.programs, (*arguments, *shares), grid.constants)


# One axis alone. Taps are (1|C, R+1) or (N, C, R+1), ``dim`` is 2, down the rows, or 3, along them.


def blur_axis(z: Tensor, a: Tensor, dim: int, border: str, adjoint: bool) -> Tensor:
    """T(a) along an axis, or its adjoint: one launch, nothing allocated but the result. Where the
    border makes the adjoint another operator, plain torch."""
    if adjoint and border not in SELF_ADJOINT:
        return torch_backend.blur_axis(z, a, dim, border, adjoint)
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
    made: _OneAxis | None = _prepared(z, *key)
    if made is None:
        problem, device = _problem(op, z, t, border), interception.device or describe(z.device)
        outputs = {"blur": ("dz",), "blur_backward": ("dz", "da"), "tap_grads": ("da",)}[op]
        step = Step(AXES[dim - 2], outputs, "g", "z" if "da" in outputs else "", "dz")
        (grid,) = grids((one_axis(step, problem, device),), problem, device)
        parts = grid.splits, grid.strips, problem.c, problem.radius + 1
        made = _prepare(_OneAxis(_axis_launch(maps, t, step, grid, (0, 0)), parts), z, *key)
    return made


# The gated taps. r and s of one shape, float32; without ``gated`` s is not read.


def gated_taps(
    r: Tensor, s: Tensor, gated: bool, max_radius: int, gaussian: str, truncate: float | None
) -> Tensor:
    """[a, b] = [sigmoid(s) k(|r|), k(|r|)], (2, *r.shape, R+1): one launch."""
    t = torch.empty((2, *r.shape, max_radius + 1), dtype=torch.float32, device=r.device)
    if r.numel() > 0:
        tensors = r.contiguous(), s.contiguous(), t
        launch = _taps_launch(
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
    both = None if choice.observers else _prepared(z, *key)
    if both is None:
        taps = _taps_launch(tap_kernels.gated_taps_kernel, (r, s, t), *window)
        both = _prepare((taps, _blur_launcher("blur", z, y, t, border, None, stride)), z, *key)
    both[0](r, s, t)
    both[1](z, y, t)
    return y, t


def gated_taps_grad(
    r: Tensor, s: Tensor, dt: Tensor,
    gated: bool, max_radius: int, gaussian: str, truncate: float | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(dr, ds) from the gradient of both taps, (2, *r.shape, R+1): one launch."""
    r = r.contiguous()
    dr, ds = torch.empty_like(r), torch.empty_like(r)
    if r.numel() > 0:
        tensors = r, s.contiguous(), dt.contiguous(), dr, ds
        launch = _taps_launch(
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
        launch = _taps_launch(
            tap_kernels.gated_taps_grad_grad_kernel, tensors, gated, max_radius, gaussian, truncate
        )
        launch(*tensors)
    return r_bar, s_bar, t_bar


def _taps_launch(
    kernel: Any, tensors: tuple[Tensor, ...],
    gated: bool, max_radius: int, gaussian: str, truncate: float | None,
) -> Launcher:  # fmt: skip
    """Of contiguous tensors shaped as r, and of taps, of which the kernel takes both."""
    r = tensors[0]
    # a kernel takes long to hash, its function does not
    key = kernel.fn, gated, max_radius, gaussian, truncate, r.shape, *[x.dtype for x in tensors]
    launch: Launcher | None = _prepared(r, *key)
    if launch is None:
        arguments: list[Pointer] = []
        for i, x in enumerate(tensors):
            taps = x.dim() > r.dim()
            arguments += [Pointer(i, 0), Pointer(i, 1)] if taps else [Pointer(i)]
        window = _window(r.device, gated, max_radius, gaussian, truncate)
        launch = _prepare(Launcher(kernel, r.numel(), tuple(arguments), window), r, *key)
    return launch


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
