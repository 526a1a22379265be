"""Which tiles a launch uses: a plain rule of shape, dtype, layout and device, in one place.

Every choice here compiles without a register spill up to radius 16, on all the targets that
``python -m bench codegen`` knows, and up to radius 31 where wgmma or tcgen05 keeps operands in
shared memory. What limits a tile is noted beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

MAX_RADIUS = 31
"""The widest window the kernels take: a halo must fit a block of rows."""


@dataclass(frozen=True)
class Device:
    multiprocessors: int
    capability: int
    """Major: 9 is Hopper."""

    @property
    def warpgroup(self) -> bool:
        """Whether matrix products read operands from shared memory: elsewhere they stay in
        registers, and tiles must be smaller."""
        return self.capability in (9, 10)


@dataclass(frozen=True)
class Problem:
    n: int
    c: int
    h: int
    w: int
    radius: int
    border: str
    itemsize: int
    channels_last: bool

    @property
    def side(self) -> int:
        return max(self.h, self.w)

    @property
    def wide(self) -> bool:
        """Whether a halo needs more than 16 rows."""
        return self.radius > 16

    @property
    def transposed(self) -> Problem:
        return replace(self, h=self.w, w=self.h)


@dataclass(frozen=True)
class Config:
    """How one launch cuts (C, H, W) into programs, see kernels.py.

    A program owns ``planes`` channels, one of ``strips`` column strips and one of ``segments`` runs
    of row blocks of ``block_h`` rows; it walks over its split of the batch. A strip reads a window
    of ``block_w`` columns and computes ``out_w``; windows are ``step_w`` apart.
    """

    planes: int
    block_h: int
    block_w: int
    out_w: int
    strips: int
    step_w: int
    halo: int
    warps: int
    segments: int = 1
    stages: int = 2

    def programs(self, channels: int) -> int:
        return self.strips * self.segments * -(-channels // self.planes)


@dataclass(frozen=True)
class Pass:
    """One launch of the gradient: what it writes (dz alone is an adjoint blur), and whether rows
    and columns, and with them a and b, change places, which makes ∂F/∂a of ∂F/∂b."""

    config: Config
    dz: bool = False
    da: bool = False
    db: bool = False
    transposed: bool = False


def tile(
    problem: Problem, planes: int, block_h: int, block_w: int, warps: int,
    out_w: int | None = None,
) -> Config:  # fmt: skip
    """The Config of these blocks, no larger than the map: whole where the map fits ``out_w``
    columns, else strips. Without ``out_w`` a strip computes its whole window, which reads least."""
    w, radius = problem.w, problem.radius
    block_h = min(block_h, _power_of_two(problem.h))
    if w <= (out_w or block_w):
        block_w = min(block_w, _power_of_two(w))
        return Config(planes, block_h, block_w, block_w, 1, block_w, 0, warps)
    halo = -(-radius // 8) * 8  # keeps 16-bit accesses 16 bytes wide
    if out_w is None:
        step = (block_w - halo - radius) // 8 * 8
        strips = 1 + -(-(w - block_w) // max(step, 1))
    else:
        step = out_w if block_w - halo - out_w >= radius else 0
        strips = -(-w // out_w)
    if step <= 0:
        raise ValueError(f"a window of {block_w} columns is too narrow for radius {radius}")
    return Config(planes, block_h, block_w, out_w or block_w, strips, step, halo, warps)


def _power_of_two(n: int) -> int:
    """The least power of two ≥ n that a dot takes."""
    return max(16, 1 << (n - 1).bit_length())


def for_blur(problem: Problem, device: Device, pair: bool = False) -> Config:
    """The tiles of a forward or adjoint blur, or of a pair of them."""
    if _is_small(problem):
        return _small(problem, device, grads=False)
    if problem.side <= 64 and problem.itemsize == 2 and not problem.channels_last:
        return tile(problem, 1, 64, 64, 4)
    cfg = (_streamed_pair if pair else _streamed)(problem, device)
    return _segmented(cfg, problem, device)


def for_grad(problem: Problem, device: Device, need_dz: bool) -> list[Pass]:
    """The launches that give (dz, ∂F/∂a, ∂F/∂b), or the last two: one where registers allow."""
    if _is_small(problem):
        return [Pass(_small(problem, device, grads=True), dz=need_dz, da=True, db=True)]
    half = problem.itemsize == 2 and not problem.channels_last
    if half and device.warpgroup:
        if problem.side <= 64:
            return [Pass(tile(problem, 1, 64, 64, 8), dz=need_dz, da=True, db=True)]
        if not problem.wide and problem.border != "circular":
            cfg = _segmented(tile(problem, 1, 64, 64, 8), problem, device)
            return [Pass(cfg, dz=need_dz, da=True, db=True)]
    down, over = (
        _segmented(_streamed_grad(p, device), p, device) for p in (problem, problem.transposed)
    )
    passes = [Pass(down, db=True), Pass(over, da=True, transposed=True)]
    if not need_dz:
        return passes
    # beside ∂F/∂b, dz needs T(b) on chip too: twice the operands in float32, one set a plane
    # in channels_last
    narrow = problem.w <= 64 or not problem.wide
    if problem.channels_last:
        beside = problem.itemsize == 2 and not problem.wide
    else:
        beside = half or (device.warpgroup and narrow)
    if beside:
        return [replace(passes[0], dz=True), passes[1]]
    return [Pass(for_blur(problem, device), dz=True), *passes]


def splits(batch: int, programs: int, device: Device) -> int:
    """Shares of the batch: eight waves of programs, yet sixteen images a program to pay for its
    operands and partials, yet two waves before that."""
    waves = min(-(-8 * device.multiprocessors // programs), -(-batch // 16))
    return max(1, min(batch, max(waves, -(-2 * device.multiprocessors // programs))))


def _is_small(problem: Problem) -> bool:
    """Resident on both axes with every gradient in one pass, on any device."""
    return problem.side <= (16 if problem.channels_last and problem.itemsize == 4 else 32)


def _small(problem: Problem, device: Device, grads: bool) -> Config:
    half, last = problem.itemsize == 2, problem.channels_last
    if problem.side <= 16:
        if last and grads:
            return tile(problem, 16 if half else 8, 16, 16, 8)
        return tile(problem, 4 if grads and not half else 8, 16, 16, 4)
    if last:
        fits = not grads or device.capability == 9  # Hopper's code needs fewer registers
        return tile(problem, 8 if fits else 4, 32, 32, 8)
    return tile(problem, 1, 32, 32, 8 if grads and not half else 4)


def _streamed(problem: Problem, device: Device) -> Config:
    """Blocks of rows stream by. float32 keeps twice the operands on chip and so takes narrower
    tiles; so does channels_last, where 8 channels make a 16-byte access of half precision."""
    half = problem.itemsize == 2
    if problem.channels_last:
        if problem.wide:
            return tile(problem, 4 if half else 1, 32, 128, 8, 16)
        return tile(problem, 8, 16, 64, 8, 32) if half else tile(problem, 4, 16, 64, 8, 16)
    if problem.wide and problem.w > 64:
        return tile(problem, 1, 32, 128, 8, 64 if half or device.warpgroup else 32)
    if problem.border == "circular" and problem.w > 64:  # the window must wrap around
        return tile(problem, 1, 16, 64, 8, 32)
    if half:
        return tile(problem, 1, 32, 128 if problem.w > 64 else 64, 8)
    return tile(problem, 1, 32 if problem.wide else 16, 64, 8)


def _streamed_pair(problem: Problem, device: Device) -> Config:
    """As ``_streamed``, with the operands of two blurs on chip."""
    half = problem.itemsize == 2
    if problem.channels_last and not problem.wide:
        return tile(problem, 4, 16, 64, 8, 32) if half else tile(problem, 2, 16, 64, 4, 16)
    narrow = problem.w <= 64 or problem.border == "circular"
    if half and not (device.warpgroup or problem.wide or narrow):
        return tile(problem, 1, 32, 64, 8)
    return _streamed(problem, device)


def _streamed_grad(problem: Problem, device: Device) -> Config:
    """As ``_streamed``, with the accumulator of ∂F/∂b, (window × computed columns), beside it."""
    half = problem.itemsize == 2
    if problem.channels_last:
        if problem.wide:
            return tile(problem, 1, 32, 128, 8, 16)
        if half:
            return tile(problem, 8, 16, 64, 8, 16)
        planes, warps = (4, 8) if device.warpgroup and problem.w > 32 else (2, 4)
        return tile(problem, planes, 16, 64, warps, 16)
    if problem.w <= 64 and (half or device.warpgroup):
        return tile(problem, 1, 32 if half or problem.wide else 16, 64, 8)
    if problem.wide:
        return tile(problem, 1, 32, 128, 8, 32)
    if half and problem.border != "circular":
        return tile(problem, 1, 32, 64, 8)
    return tile(problem, 1, 16, 64, 8, 32 if device.warpgroup else 16)


def _segmented(cfg: Config, problem: Problem, device: Device) -> Config:
    """Share the row blocks among segments when there are too few programs to fill the device."""
    blocks = -(-problem.h // cfg.block_h)
    wanted = -(-2 * device.multiprocessors // (cfg.programs(problem.c) * max(problem.n, 1)))
    return replace(cfg, segments=max(1, min(blocks // 2, wanted)))
