"""Ops of several launches: one for each axis, or for some of the gradients, with their sums."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from akm_triton.backend.bindings import axis_launch, blur_launch, grad_launch
from akm_triton.backend.launcher import Launcher
from akm_triton.backend.layout import empty_like
from akm_triton.launch.axis import Step, steps
from akm_triton.launch.plan import Grid

Blur = Callable[..., object]
"""Launches of the tensors of a call."""
Gradients = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(g, z, dz, t, grads) to the gradients that a launch computes, in grads if that is given."""


def blur_by_axes(z: Tensor, y: Tensor, t: Tensor, grids: tuple[Grid, ...]) -> Blur:
    """Of (z, y, t): a launch for each axis, with a map between them."""
    u = _scratch(z)
    down, across = steps(grids[0].problem)
    first = axis_launch((z, u), t, down, grids[0])
    last = axis_launch((u, y), t, across, grids[1])

    def both(z: Tensor, y: Tensor, t: Tensor) -> None:
        u = empty_like(z)
        first(z, u, t)
        last(u, y, t)

    return both


def grads_by_maps(
    g: Tensor, z: Tensor, dz: Tensor, t: Tensor, grids: tuple[Grid, ...]
) -> Gradients:
    """Of launches that each read g and z, and write dz or gradients of taps."""
    each = [_grad_step(g, z, dz, t, grid) for grid in grids]
    if len(each) == 1:
        return each[0]

    def all_of_them(g: Tensor, z: Tensor, dz: Tensor, t: Tensor, grads: Tensor | None) -> Tensor:
        grads = torch.empty(t.shape, dtype=torch.float32, device=z.device)
        for step in each:
            step(g, z, dz, t, grads)
        return grads

    return all_of_them


def grads_by_axes(
    g: Tensor, z: Tensor, dz: Tensor, t: Tensor, grids: tuple[Grid, ...]
) -> Gradients:
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


def _axis_step(g: Tensor, z: Tensor, dz: Tensor, t: Tensor, step: Step, grid: Grid) -> Gradients:
    if not step.z:
        return _map_step(axis_launch((g, dz), t, step, grid))
    return _summed(axis_launch((g, z, dz), t, step, grid), t, grid)


def _grad_step(g: Tensor, z: Tensor, dz: Tensor, t: Tensor, grid: Grid) -> Gradients:
    launch = grid.launch
    if not (launch.da or launch.db):
        return _map_step(blur_launch(g, dz, t, grid))
    return _summed(grad_launch(g, z, dz, t, launch.da + launch.db, grid), t, grid)


def _summed(gradients: Launcher, t: Tensor, grid: Grid) -> Gradients:
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


def _map_step(blur: Launcher) -> Gradients:
    def step(g: Tensor, z: Tensor, dz: Tensor, t: Tensor, grads: Tensor | None) -> Tensor:
        blur(g, dz, t)
        return t  # there are none

    return step


def _scratch(z: Tensor) -> Tensor:
    """What ``empty_like`` returns, without memory."""
    return empty_like(torch.empty_strided(z.shape, z.stride(), dtype=z.dtype, device="meta"))
