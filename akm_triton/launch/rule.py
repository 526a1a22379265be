"""Which tiles a launch uses: a plain rule of shape, dtype, layout and device, in one place.

The choices are those that ``python -m bench predict`` finds fastest on an H100. What limits a tile
is noted beside it: registers, which wide windows and operands by position fill first, or shared
memory, of which stages beyond the second take most.
"""

from __future__ import annotations

from akm_triton.launch.device import Device
from akm_triton.launch.plan import Config, Launch, Plan, tile
from akm_triton.launch.problem import Problem


def rule(problem: Problem, device: Device) -> Plan:
    """The launches of any op on any maps, the same whenever it is asked."""
    if problem.outputs == ("dz",):
        return (Launch(_blur(problem, device), dz=True),)
    return _gradient(problem, device, "dz" in problem.outputs)


def _gradient(problem: Problem, device: Device, need_dz: bool) -> Plan:
    """The launches that give (dz, ∂F/∂a, ∂F/∂b), or the last two: one where registers allow."""
    small, half = problem.longest_side <= 32, problem.is_16bit and not problem.channels_last
    narrow = min(problem.h, problem.w) <= 32
    if small or (half and (device.warpgroup or narrow)):
        return (Launch(_grad(problem, device), dz=need_dz, da=True, db=True),)
    if problem.channels_last:
        launches = (
            Launch(_grad(problem, device), da=True),
            Launch(_grad(problem, device), db=True),
        )
        return ((Launch(_blur(problem, device), dz=True),) if need_dz else ()) + launches
    rows = _grad(problem, device)
    columns = rows if half else tile(problem, (1, 16, 64), num_warps=1, num_stages=2)
    return (Launch(rows, dz=need_dz, db=True), Launch(columns, da=True))


def _stages(device: Device) -> int:
    return 3 if device.shared_bytes >= 160_000 else 2


def _blur(problem: Problem, device: Device) -> Config:
    """The tiles of a forward or adjoint blur, or of a pair of them."""
    stages = _stages(device)
    if problem.channels_last:
        return _channels_last(problem, device)
    if problem.longest_side <= 16:
        planes = 1 if problem.is_16bit else 2
        return tile(problem, (planes, 16, 16), num_warps=1, programs_per_sm=16)
    if problem.longest_side <= 32:
        if problem.is_16bit:
            return tile(problem, (1, 32, 32), num_warps=2, programs_per_sm=10)
        return tile(problem, (1, 32, 32), num_warps=1, programs_per_sm=8, num_stages=stages)
    circular = problem.border == "circular" and problem.w > 64
    if problem.long_radius and problem.w > 64:
        out_w = 64 if circular or not problem.is_16bit else None
        rows = 64 if problem.is_16bit else 32
        return tile(
            problem, (1, rows, 128), num_warps=8, out_w=out_w, programs_per_sm=1, num_stages=stages
        )
    out_w = 32 if circular else None
    if problem.is_16bit and problem.pair:
        warps = 4 if device.warpgroup else 8
        return tile(
            problem, (1, 64, 64), num_warps=warps, out_w=out_w, programs_per_sm=2, num_stages=stages
        )
    if problem.is_16bit:
        return tile(
            problem,
            (1, 64, 64),
            num_warps=4,
            out_w=out_w,
            programs_per_sm=3,
            registers=168,
            num_stages=stages,
        )
    if problem.pair:
        return tile(problem, (1, 16, 64), num_warps=4, out_w=out_w, programs_per_sm=2, num_stages=2)
    return tile(
        problem, (1, 32, 64), num_warps=2, out_w=out_w, programs_per_sm=2, num_stages=stages
    )


def _grad(problem: Problem, device: Device) -> Config:
    """The tiles of the gradients."""
    stages = _stages(device)
    if problem.channels_last:
        return _channels_last(problem, device)
    if problem.longest_side <= 16:
        planes = 1 if problem.is_16bit else 2
        return tile(
            problem, (planes, 16, 16), num_warps=1, programs_per_sm=16 if problem.is_16bit else 8
        )
    if problem.longest_side <= 32:
        if problem.is_16bit:
            return tile(problem, (1, 32, 32), num_warps=1, programs_per_sm=8)
        return tile(problem, (1, 32, 32), num_warps=2, programs_per_sm=4)
    circular = problem.border == "circular" and problem.w > 64
    if problem.long_radius and problem.w > 64:
        rows = 64 if problem.is_16bit else 32
        return tile(
            problem,
            (1, rows, 128),
            num_warps=8,
            out_w=64 if problem.is_16bit else 32,
            programs_per_sm=1,
            num_stages=stages,
        )
    out_w = 32 if circular else None
    if problem.is_16bit:
        if min(problem.h, problem.w) <= 32:  # products of one kind, see ``_mixes_wgmma`` of plan.py
            return tile(
                problem, (1, 32, 64), num_warps=2, out_w=out_w, programs_per_sm=3, num_stages=stages
            )
        warps = 4 if device.warpgroup else 8
        return tile(
            problem, (1, 64, 64), num_warps=warps, out_w=out_w, programs_per_sm=2, num_stages=stages
        )
    return tile(problem, (1, 32, 64), num_warps=4, out_w=out_w, programs_per_sm=2, num_stages=2)


def _channels_last(problem: Problem, device: Device) -> Config:
    grads = problem.outputs != ("dz",)
    if problem.longest_side <= 16:
        return tile(
            problem,
            (16 if problem.is_16bit else 8, 16, 16),
            num_warps=4,
            programs_per_sm=2 if grads else 3,
        )
    if problem.longest_side <= 32 and problem.is_16bit:
        return tile(
            problem, (8, 32, 32), num_warps=8 if grads else 4, programs_per_sm=1 if grads else 2
        )
    if problem.longest_side <= 32:
        return tile(problem, (4, 32, 32), num_warps=4, programs_per_sm=1 if grads else 2)
    if problem.long_radius:
        return tile(
            problem,
            (1, 32, 64 if problem.radius <= 24 else 128),
            num_warps=8,
            out_w=16,
            programs_per_sm=2,
        )
    planes = 16 if problem.is_16bit else 4
    return tile(
        problem,
        (planes, 16, 32 if problem.radius <= 8 else 64),
        num_warps=8 if problem.is_16bit else 4,
        out_w=16,
        programs_per_sm=1,
    )
