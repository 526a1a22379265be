"""Which tiles a launch uses: a plain rule of shape, dtype, layout and device, in one place."""

from __future__ import annotations

from akm_triton.launch.device import Device
from akm_triton.launch.plan import Config, Launch, Plan, tile
from akm_triton.launch.problem import Problem


def rule(problem: Problem, device: Device) -> Plan:
    """The launches of any op on any maps, the same whenever it is asked."""
    if problem.outputs == ("dz",):
        return (Launch(_blur(problem, device), dz=True),)
    dz = "dz" in problem.outputs
    return (Launch(_grad(problem, device), dz=dz, da=True, db=True),)


def _blur(problem: Problem, device: Device) -> Config:
    if problem.longest_side <= 16:
        return tile(problem, (8, 16, 16), num_warps=2, programs_per_sm=8)
    if problem.longest_side <= 32:
        return tile(problem, (1, 32, 32), num_warps=2, programs_per_sm=10)
    out_w = 32 if problem.w > 64 and (problem.border == "circular" or problem.radius > 16) else None
    block_w = 128 if problem.w > 64 and problem.radius > 16 else 64
    return tile(problem, (1, 64, block_w), num_warps=4, programs_per_sm=4, registers=128, out_w=out_w)


def _grad(problem: Problem, device: Device) -> Config:
    return _blur(problem, device)
