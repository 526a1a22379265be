"""The launches of the product for an op, compiled, with what each moves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from akm_triton.backend import triton as backend
from akm_triton.launch.axis import AXES, Axis, Step
from akm_triton.launch.device import Device
from akm_triton.launch.plan import Grid, Plan, grids
from akm_triton.launch.problem import Problem
from akm_triton.launch.rule import one_axis
from akm_triton.launch.sliding import Sliding
from akm_triton.tuning.compiler import KernelCall, compile_call
from akm_triton.tuning.traffic import traffic
from bench.predict.needs import SECTOR
from bench.predict.work import Work


def works(plan: Plan, problem: Problem, dtype: torch.dtype, device: Device) -> list[Work]:
    """The launches of a blur or its backward by this plan, in order."""

    def run(z: Tensor, t: Tensor) -> None:
        if problem.op == "blur_backward":
            backend.blur_backward(z, z, t, problem.border, plan)
        else:
            backend.blur(z, t, problem.border, problem.adjoint, plan)

    return _works(run, plan, problem, dtype, device)


def works_of_axis(axis: str, problem: Problem, dtype: torch.dtype, device: Device) -> list[Work]:
    """The launch of a blur or its backward along one axis, "rows" or "columns", by the rule."""
    dim, grads = 2 + AXES.index(axis), problem.op == "blur_backward"

    def run(z: Tensor, t: Tensor) -> None:
        if grads:
            backend.axis_backward(z, z, t[0], dim, problem.border)
        else:
            backend.blur_axis(z, t[0], dim, problem.border, False)

    step = Step(axis, ("dz", "da") if grads else ("dz",), "g", "z" if grads else "", "dz")
    return _works(run, (one_axis(step, problem, device),), problem, dtype, device)


def _works(
    run: Callable[[Tensor, Tensor], None], plan: Plan, problem: Problem, dtype: torch.dtype,
    device: Device,
) -> list[Work]:  # fmt: skip
    """Of what ``run`` launches by this plan for a map and taps."""
    calls: list[KernelCall] = []
    memory = torch.channels_last if problem.channels_last else torch.contiguous_format
    z = torch.empty(problem.n, problem.c, problem.h, problem.w, dtype=dtype, device="meta")
    t = torch.empty(2, problem.c, problem.radius + 1, device="meta")
    with backend.launching(lambda *a, **named: calls.append(KernelCall(*a, **named)), device):
        run(z.contiguous(memory_format=memory), t)
    return [
        _work(grid, call, problem, device)
        for grid, call in zip(grids(plan, problem, device), calls, strict=True)
    ]


def _work(grid: Grid, call: KernelCall, problem: Problem, device: Device) -> Work:
    launch, cfg = grid.launch, grid.launch.config
    moved = traffic((launch,), problem)
    pixels = problem.n * problem.c * problem.h * problem.w
    written = launch.writes_map * pixels * problem.itemsize
    # in channels_last the bytes of a pixel lie side by side, of as many planes as a tile has
    whole = max(1.0, SECTOR / (cfg.planes * problem.itemsize)) if problem.channels_last else 1.0
    compiled = compile_call(call, device.capability)
    if isinstance(cfg, Sliding):  # a round of the loop is a row
        images, blocks = 1.0, cfg.rows + 2 * problem.radius
    elif isinstance(cfg, Axis):
        images, blocks = cfg.repeats, -(-cfg.rows // cfg.together)
    else:
        images, blocks = problem.n / grid.splits, -(-problem.h // cfg.block_h)
    return Work(
        call.name, compiled.asm["cubin"], cfg.num_warps, compiled.metadata.shared, grid.programs,
        images=images,
        blocks=blocks,
        reads=(moved.dram_bytes - written) / grid.programs,
        requests=(moved.requested_bytes - written) * whole / grid.programs,
        writes=written / grid.programs,
        scattered=whole if problem.channels_last else 0.0,
    )  # fmt: skip
