"""How each kernel is called: its arguments, in its order, for maps of given shapes and strides."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from akm_triton.backend import axis, kernels, sliding
from akm_triton.backend.launcher import Launcher, Pointer
from akm_triton.backend.layout import tap_strides
from akm_triton.backend.prepared import prepare, prepared
from akm_triton.gaussian import TERMS, bessel_rules
from akm_triton.launch.axis import SCRATCH, Axis, Step
from akm_triton.launch.plan import Grid
from akm_triton.launch.sliding import Sliding


def _strides(x: Tensor) -> tuple[int, tuple[int, int, int, int]]:
    """(stride_n / unit, (unit, stride_c, stride_h, stride_w)): what Triton must know at compile
    time to make wide accesses, and the rest, which may vary with the batch."""
    n, c, h, w = x.stride()
    unit = 16
    while n % unit:
        unit //= 2
    return n // unit, (unit, c, h, w)


def blur_launch(z: Tensor, y: Tensor, t: Tensor, grid: Grid) -> Launcher:
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


def grad_launch(g: Tensor, z: Tensor, dz: Tensor, t: Tensor, count: int, grid: Grid) -> Launcher:
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


def axis_launch(
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


def taps_launch(
    kernel: Any, tensors: tuple[Tensor, ...],
    gated: bool, max_radius: int, gaussian: str, truncate: float | None,
) -> Launcher:  # fmt: skip
    """Of contiguous tensors shaped as r, and of taps, of which the kernel takes both."""
    r = tensors[0]
    # a kernel takes long to hash, its function does not
    key = kernel.fn, gated, max_radius, gaussian, truncate, r.shape, *[x.dtype for x in tensors]
    launch: Launcher | None = prepared(r, *key)
    if launch is None:
        arguments: list[Pointer] = []
        for i, x in enumerate(tensors):
            taps = x.dim() > r.dim()
            arguments += [Pointer(i, 0), Pointer(i, 1)] if taps else [Pointer(i)]
        window = _window(r.device, gated, max_radius, gaussian, truncate)
        launch = prepare(Launcher(kernel, r.numel(), tuple(arguments), window), r, *key)
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
