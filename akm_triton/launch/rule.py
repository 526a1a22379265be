"""Which tiles a launch uses: a plain rule of shape, dtype, layout and device, in one place.

Up to radius 16 the choices for the usual maps compile without a register spill on all targets that
``python -m bench codegen`` knows; for maps of any shape and border, of which it takes a sample, a
few kernels keep a handful of values in local memory. Wider windows spill in float32, where the
operands of 32 rows alone fill the registers: by a hundred instructions up to radius 24, then more.
What limits a tile is noted beside it.
"""

from __future__ import annotations

from dataclasses import replace

from akm_triton.launch.device import Device
from akm_triton.launch.plan import Config, Launch, Plan, segmented, tile
from akm_triton.launch.problem import Problem


def rule(problem: Problem, device: Device) -> Plan:
    """The launches of any op on any maps, the same whenever it is asked."""
    if problem.outputs == ("dz",):
        return (Launch(_blur(problem, device), dz=True),)
    return _gradient(problem, device, "dz" in problem.outputs)


def _blur(problem: Problem, device: Device) -> Config:
    """The tiles of a forward or adjoint blur, or of a pair of them."""
    if _is_small(problem):
        return _small(problem, device, grads=False)
    if problem.longest_side <= 64 and problem.is_16bit and not problem.channels_last:
        return tile(problem, (1, 64, 64), num_warps=4)
    cfg = (_streamed_pair if problem.pair else _streamed)(problem, device)
    return segmented(cfg, problem, device)


def _gradient(problem: Problem, device: Device, need_dz: bool) -> Plan:
    """The launches that give (dz, ∂F/∂a, ∂F/∂b), or the last two: one where registers allow."""
    if _is_small(problem):
        return (Launch(_small(problem, device, grads=True), dz=need_dz, da=True, db=True),)
    nchw_16bit = problem.is_16bit and not problem.channels_last
    if nchw_16bit and device.warpgroup and min(problem.h, problem.w) > 16:
        if problem.longest_side <= 64:
            return (Launch(tile(problem, (1, 64, 64), num_warps=8), dz=need_dz, da=True, db=True),)
        circular = problem.border == "circular"
        if not (problem.long_radius or problem.asymmetric or problem.unaligned_rows or circular):
            cfg = segmented(tile(problem, (1, 64, 64), num_warps=8), problem, device)
            return (Launch(cfg, dz=need_dz, da=True, db=True),)
    rows, columns = (
        segmented(_streamed_grad(p, device), p, device) for p in (problem, problem.transposed)
    )
    launches = (Launch(rows, db=True), Launch(columns, da=True, transposed=True))
    if not need_dz:
        return launches
    # beside ∂F/∂b, dz needs T(b) on chip too: twice the operands in float32, a set for each plane
    # in channels_last
    narrow = problem.w <= 64 or not problem.long_radius
    if problem.channels_last:
        beside = problem.is_16bit and not problem.long_radius
    else:
        beside = nchw_16bit or (device.warpgroup and narrow)
    if beside:
        return (replace(launches[0], dz=True), launches[1])
    return (Launch(_blur(problem, device), dz=True), *launches)


def _is_small(problem: Problem) -> bool:
    """Resident on both axes with every gradient in one pass, on any device."""
    return problem.longest_side <= (16 if problem.channels_last and problem.itemsize == 4 else 32)


def _small(problem: Problem, device: Device, grads: bool) -> Config:
    is_16bit, last = problem.is_16bit, problem.channels_last
    if problem.longest_side <= 16:
        if last and grads:
            return tile(problem, (16 if is_16bit else 8, 16, 16), num_warps=8)
        few = problem.pair if is_16bit else grads
        return tile(problem, (4 if few else 8, 16, 16), num_warps=4)
    if last:
        # Hopper's code needs fewer registers
        fits = not problem.pair and (not grads or device.capability // 10 == 9)
        return tile(problem, (8 if fits else 4, 32, 32), num_warps=8)
    return tile(problem, (1, 32, 32), num_warps=8 if grads and not is_16bit else 4)


def _streamed(problem: Problem, device: Device) -> Config:
    """Blocks of rows stream by. float32 keeps twice the operands on chip and so takes narrower
    tiles; so does channels_last, where 8 channels make a 16-byte access of half precision; so do
    operands of their own for each block, which are built beside those in use."""
    is_16bit = problem.is_16bit
    if problem.channels_last:
        if problem.long_radius:
            return _long_radius_channels(problem)
        if problem.asymmetric:
            return _asymmetric(problem)
        planes, out_w = (8, 32) if is_16bit else (4, 16)
        return tile(problem, (planes, 16, 64), num_warps=8, out_w=out_w)
    if problem.long_radius and problem.w > 64:
        if _fits_narrow_strips(problem) and not device.warpgroup:
            return tile(problem, (1, 32, 64), num_warps=8, out_w=16)
        return tile(
            problem, (1, 32, 128), num_warps=8, out_w=64 if is_16bit or device.warpgroup else 32
        )
    if problem.border == "circular" and problem.w > 64:  # the window must wrap around
        return tile(problem, (1, 16, 64), num_warps=8, out_w=32)
    if is_16bit:
        return tile(problem, (1, _block_rows(problem), 128 if problem.w > 64 else 64), num_warps=8)
    return tile(problem, (1, 32 if problem.long_radius else 16, 64), num_warps=8)


def _block_rows(problem: Problem) -> int:
    """Of a block, in half precision."""
    few = not problem.long_radius and (problem.asymmetric or problem.w <= 16)
    return 16 if few else 32


def _asymmetric(problem: Problem) -> Config:
    """channels_last, with operands of their own for each block: a plane at a time."""
    warps = 4 if problem.w <= 16 or (problem.pair and problem.is_16bit) else 8
    return tile(problem, (1, 16, 64), num_warps=warps, out_w=16)


def _long_radius_channels(problem: Problem, gradient: bool = False) -> Config:
    """channels_last of a long radius: a plane at a time in float32."""
    if not problem.is_16bit or gradient or problem.asymmetric:
        planes = 1
    else:
        planes = 2 if problem.pair else 4
    return tile(
        problem, (planes, 32, 64 if _fits_narrow_strips(problem) else 128), num_warps=8, out_w=16
    )


def _fits_narrow_strips(problem: Problem) -> bool:
    """Whether float32 of a long radius fits strips of 16 columns in 64, which spill least."""
    return not problem.is_16bit and problem.radius <= 24


def _streamed_pair(problem: Problem, device: Device) -> Config:
    """As ``_streamed``, with the operands of two blurs on chip."""
    is_16bit = problem.is_16bit
    if problem.channels_last and not problem.long_radius:
        if problem.asymmetric:
            return (
                _asymmetric(problem)
                if is_16bit
                else tile(problem, (1, 16, 64), num_warps=8, out_w=32)
            )
        if is_16bit:
            return tile(problem, (4, 16, 64), num_warps=8, out_w=32)
        return tile(problem, (2, 16, 64), num_warps=8 if problem.w <= 16 else 4, out_w=16)
    if problem.channels_last or problem.w <= 64:
        return _streamed(problem, device)
    if problem.long_radius and _fits_narrow_strips(problem):
        return tile(problem, (1, 32, 64), num_warps=8, out_w=16)
    if is_16bit and not problem.long_radius:
        if problem.border == "circular":
            return tile(problem, (1, 16, 64), num_warps=4, out_w=32)
        if problem.h <= 16 or problem.asymmetric:
            return tile(problem, (1, 16, 64), num_warps=8, out_w=32 if problem.asymmetric else None)
        if not device.warpgroup:
            return tile(problem, (1, 32, 64), num_warps=8)
        if problem.w > 128:
            return tile(problem, (1, 32, 128), num_warps=8, out_w=64)
    return _streamed(problem, device)


def _streamed_grad(problem: Problem, device: Device) -> Config:
    """As ``_streamed``, with the accumulator of ∂F/∂b, (window × computed columns), beside it."""
    is_16bit = problem.is_16bit
    if problem.channels_last:
        if problem.long_radius:
            return _long_radius_channels(problem, gradient=True)
        if problem.asymmetric:
            return _asymmetric(problem)
        if is_16bit:
            return tile(problem, (4 if problem.w <= 16 else 8, 16, 64), num_warps=8, out_w=16)
        planes, warps = (4, 8) if device.warpgroup and problem.w > 32 else (2, 4)
        planes = 1 if problem.w <= 16 else planes
        return tile(problem, (planes, 16, 64), num_warps=warps, out_w=16)
    if problem.w <= 64 and (is_16bit or device.warpgroup):
        if is_16bit:
            return tile(
                problem,
                (1, _block_rows(problem), 64),
                num_warps=4 if problem.w <= 16 and problem.long_radius else 8,
            )
        return tile(
            problem, (1, 32 if problem.long_radius or problem.asymmetric else 16, 64), num_warps=8
        )
    if problem.long_radius:
        if is_16bit and problem.radius <= 24 and problem.border != "circular":
            return tile(problem, (1, 32, 64), num_warps=8)
        if _fits_narrow_strips(problem) and problem.w > 32:
            return tile(problem, (1, 32, 64), num_warps=8, out_w=16)
        return tile(problem, (1, 32, 128), num_warps=8, out_w=32)
    if is_16bit and problem.border != "circular":
        few = problem.unaligned_rows and not device.warpgroup
        return tile(problem, (1, 16 if few else _block_rows(problem), 64), num_warps=8)
    return tile(problem, (1, 16, 64), num_warps=8, out_w=32 if is_16bit or device.warpgroup else 16)
