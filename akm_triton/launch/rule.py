"""Which tiles a launch uses: a plain rule of shape, dtype, layout and device, in one place.

Up to radius 16 the choices for the usual maps compile without a register spill on all targets that
``python -m bench codegen`` knows; for maps of any shape and border, of which it takes a sample, a
few kernels keep a handful of values in local memory. Wider windows spill in float32, where the
operands of 32 rows alone fill the registers: by a hundred instructions up to radius 24, then more.
What limits a tile is noted beside it.
"""

from __future__ import annotations

from dataclasses import replace

from akm_triton.launch.plan import Config, Pass, Plan, segmented, tile
from akm_triton.launch.problem import Device, Problem


def rule(problem: Problem, device: Device) -> Plan:
    """The launches of any op on any maps, the same whenever it is asked."""
    if problem.outputs == ("dz",):
        return (Pass(_blur(problem, device), dz=True),)
    return _gradient(problem, device, "dz" in problem.outputs)


def _blur(problem: Problem, device: Device) -> Config:
    """The tiles of a forward or adjoint blur, or of a pair of them."""
    if _is_small(problem):
        return _small(problem, device, grads=False)
    if problem.side <= 64 and problem.half and not problem.channels_last:
        return tile(problem, 1, 64, 64, 4)
    cfg = (_streamed_pair if problem.pair else _streamed)(problem, device)
    return segmented(cfg, problem, device)


def _gradient(problem: Problem, device: Device, need_dz: bool) -> Plan:
    """The launches that give (dz, ∂F/∂a, ∂F/∂b), or the last two: one where registers allow."""
    if _is_small(problem):
        return (Pass(_small(problem, device, grads=True), dz=need_dz, da=True, db=True),)
    half = problem.half and not problem.channels_last
    if half and device.warpgroup and min(problem.h, problem.w) > 16:
        if problem.side <= 64:
            return (Pass(tile(problem, 1, 64, 64, 8), dz=need_dz, da=True, db=True),)
        circular = problem.border == "circular"
        if not (problem.wide or problem.by_position or problem.ragged or circular):
            cfg = segmented(tile(problem, 1, 64, 64, 8), problem, device)
            return (Pass(cfg, dz=need_dz, da=True, db=True),)
    down, over = (
        segmented(_streamed_grad(p, device), p, device) for p in (problem, problem.transposed)
    )
    passes = (Pass(down, db=True), Pass(over, da=True, transposed=True))
    if not need_dz:
        return passes
    # beside ∂F/∂b, dz needs T(b) on chip too: twice the operands in float32, one set a plane
    # in channels_last
    narrow = problem.w <= 64 or not problem.wide
    if problem.channels_last:
        beside = problem.half and not problem.wide
    else:
        beside = half or (device.warpgroup and narrow)
    if beside:
        return (replace(passes[0], dz=True), passes[1])
    return (Pass(_blur(problem, device), dz=True), *passes)


def _is_small(problem: Problem) -> bool:
    """Resident on both axes with every gradient in one pass, on any device."""
    return problem.side <= (16 if problem.channels_last and problem.itemsize == 4 else 32)


def _small(problem: Problem, device: Device, grads: bool) -> Config:
    half, last = problem.half, problem.channels_last
    if problem.side <= 16:
        if last and grads:
            return tile(problem, 16 if half else 8, 16, 16, 8)
        few = problem.pair if half else grads
        return tile(problem, 4 if few else 8, 16, 16, 4)
    if last:
        # Hopper's code needs fewer registers
        fits = not problem.pair and (not grads or device.capability // 10 == 9)
        return tile(problem, 8 if fits else 4, 32, 32, 8)
    return tile(problem, 1, 32, 32, 8 if grads and not half else 4)


def _streamed(problem: Problem, device: Device) -> Config:
    """Blocks of rows stream by. float32 keeps twice the operands on chip and so takes narrower
    tiles; so does channels_last, where 8 channels make a 16-byte access of half precision; so do
    operands by position, which are built beside those in use."""
    half = problem.half
    if problem.channels_last:
        if problem.wide:
            return _wide_channels(problem)
        if problem.by_position:
            return _by_position(problem)
        return tile(problem, 8, 16, 64, 8, 32) if half else tile(problem, 4, 16, 64, 8, 16)
    if problem.wide and problem.w > 64:
        if _thin(problem) and not device.warpgroup:
            return tile(problem, 1, 32, 64, 8, 16)
        return tile(problem, 1, 32, 128, 8, 64 if half or device.warpgroup else 32)
    if problem.border == "circular" and problem.w > 64:  # the window must wrap around
        return tile(problem, 1, 16, 64, 8, 32)
    if half:
        return tile(problem, 1, _rows(problem), 128 if problem.w > 64 else 64, 8)
    return tile(problem, 1, 32 if problem.wide else 16, 64, 8)


def _rows(problem: Problem) -> int:
    """Of a block, in half precision."""
    few = not problem.wide and (problem.by_position or problem.w <= 16)
    return 16 if few else 32


def _by_position(problem: Problem) -> Config:
    """channels_last, with operands by position: a plane at a time."""
    warps = 4 if problem.w <= 16 or (problem.pair and problem.half) else 8
    return tile(problem, 1, 16, 64, warps, 16)


def _wide_channels(problem: Problem, gradient: bool = False) -> Config:
    """channels_last of a wide window: a plane at a time in float32."""
    if not problem.half or gradient or problem.by_position:
        planes = 1
    else:
        planes = 2 if problem.pair else 4
    return tile(problem, planes, 32, 64 if _thin(problem) else 128, 8, 16)


def _thin(problem: Problem) -> bool:
    """Whether float32 of a wide window fits strips of 16 columns in 64, which spill least."""
    return not problem.half and problem.radius <= 24


def _streamed_pair(problem: Problem, device: Device) -> Config:
    """As ``_streamed``, with the operands of two blurs on chip."""
    half = problem.half
    if problem.channels_last and not problem.wide:
        if problem.by_position:
            return _by_position(problem) if half else tile(problem, 1, 16, 64, 8, 32)
        if half:
            return tile(problem, 4, 16, 64, 8, 32)
        return tile(problem, 2, 16, 64, 8 if problem.w <= 16 else 4, 16)
    if problem.channels_last or problem.w <= 64:
        return _streamed(problem, device)
    if problem.wide and _thin(problem):
        return tile(problem, 1, 32, 64, 8, 16)
    if half and not problem.wide:
        if problem.border == "circular":
            return tile(problem, 1, 16, 64, 4, 32)
        if problem.h <= 16 or problem.by_position:
            return tile(problem, 1, 16, 64, 8, 32 if problem.by_position else None)
        if not device.warpgroup:
            return tile(problem, 1, 32, 64, 8)
        if problem.w > 128:
            return tile(problem, 1, 32, 128, 8, 64)
    return _streamed(problem, device)


def _streamed_grad(problem: Problem, device: Device) -> Config:
    """As ``_streamed``, with the accumulator of ∂F/∂b, (window × computed columns), beside it."""
    half = problem.half
    if problem.channels_last:
        if problem.wide:
            return _wide_channels(problem, gradient=True)
        if problem.by_position:
            return _by_position(problem)
        if half:
            return tile(problem, 4 if problem.w <= 16 else 8, 16, 64, 8, 16)
        planes, warps = (4, 8) if device.warpgroup and problem.w > 32 else (2, 4)
        planes = 1 if problem.w <= 16 else planes
        return tile(problem, planes, 16, 64, warps, 16)
    if problem.w <= 64 and (half or device.warpgroup):
        if half:
            return tile(
                problem, 1, _rows(problem), 64, 4 if problem.w <= 16 and problem.wide else 8
            )
        return tile(problem, 1, 32 if problem.wide or problem.by_position else 16, 64, 8)
    if problem.wide:
        if half and problem.radius <= 24 and problem.border != "circular":
            return tile(problem, 1, 32, 64, 8)
        if _thin(problem) and problem.w > 32:
            return tile(problem, 1, 32, 64, 8, 16)
        return tile(problem, 1, 32, 128, 8, 32)
    if half and problem.border != "circular":
        few = problem.ragged and not device.warpgroup
        return tile(problem, 1, 16 if few else _rows(problem), 64, 8)
    return tile(problem, 1, 16, 64, 8, 32 if half or device.warpgroup else 16)
