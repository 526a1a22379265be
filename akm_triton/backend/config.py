"""Which tiles a launch uses: a plain rule of shape, dtype and layout, in one place."""

from __future__ import annotations

from dataclasses import dataclass, replace

MAX_RADIUS = 31
"""The widest window the kernels take: a halo must fit a block of rows."""


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


@dataclass(frozen=True)
class Pass:
    """One launch of the gradient kernel: what it writes, and whether rows and columns (and with
    them a and b) change places, which makes ∂F/∂a of ∂F/∂b."""

    config: Config
    dz: bool = False
    da: bool = False
    db: bool = False
    transposed: bool = False


def power_of_two(n: int, least: int = 16) -> int:
    """The least power of two ≥ n; a dot wants 16 on every side."""
    return max(least, 1 << (n - 1).bit_length())


def tile(
    width: int, radius: int, planes: int, block_h: int, block_w: int, warps: int,
    out_w: int | None = None,
) -> Config:  # fmt: skip
    """The Config that covers ``width`` columns with windows of ``block_w``, ``out_w`` computed."""
    if width <= block_w and out_w is None:
        return Config(planes, block_h, block_w, block_w, 1, block_w, 0, warps)
    halo = -(-radius // 8) * 8  # keeps 16-bit accesses 16 bytes wide
    if out_w is None:  # compute the whole window, write its inner part
        step = (block_w - halo - radius) // 8 * 8
        strips = 1 + -(-(width - block_w) // max(step, 1))
    else:
        step = out_w if block_w - halo - out_w >= radius else 0
        strips = -(-width // out_w)
    if step <= 0:
        raise ValueError(f"a window of {block_w} columns is too narrow for radius {radius}")
    return Config(planes, block_h, block_w, out_w or block_w, strips, step, halo, warps)


def splits(batch: int, programs: int, multiprocessors: int) -> int:
    """Shares of the batch: eight waves of programs, yet eight images a program to pay for its
    operands, yet two waves before that."""
    waves = min(-(-8 * multiprocessors // programs), -(-batch // 8))
    return max(1, min(batch, max(waves, -(-2 * multiprocessors // programs))))


def _small(h: int, w: int, itemsize: int, last: bool, grads: bool) -> tuple[int, int]:
    """(planes, warps) of maps up to 32 × 32 (16 × 16 in float32 channels_last), all resident."""
    if max(h, w) <= 16:
        if last:
            return (16, 8) if itemsize == 2 else (8, 4)
        return (4, 4) if grads and itemsize == 4 else (8, 4)
    if last:
        return (8, 8)
    return (1, 8) if grads and itemsize == 4 else (1, 4)


def _window(
    w: int, radius: int, planes: int, block_h: int, block_w: int, warps: int, out_w: int
) -> Config:
    """A tile that computes ``out_w`` of ``block_w`` columns, or a narrow map whole."""
    if w <= out_w:
        return tile(w, radius, planes, block_h, power_of_two(w), warps)
    return tile(w, radius, planes, block_h, block_w, warps, out_w)


def _streamed(
    w: int, radius: int, border: str, itemsize: int, last: bool, grads: bool
) -> Config:
    """Blocks of rows stream by. float32 keeps twice the operands on chip and so takes narrower
    tiles; so does channels_last, whose every channel has operands of its own."""
    wide = radius > 16
    block_h = 32 if wide else 16
    if last:
        if itemsize == 2:
            if wide:
                return _window(w, radius, 2 if grads else 4, 32, 128, 8, 16)
            return _window(w, radius, 8, 16, 64, 8, 16 if grads else 32)
        if wide:
            return _window(w, radius, 1, 32, 128, 8, 16)
        return _window(w, radius, 4, 16, 64, 8, 16)
    if w <= 64:
        return tile(w, radius, 1, block_h, power_of_two(w), 8)
    if wide:
        return _window(w, radius, 1, 32, 128, 8, 64)
    if itemsize == 2 and w <= 128 and not grads:
        return tile(w, radius, 1, 32, power_of_two(w), 8)
    if border == "circular":
        return _window(w, radius, 1, block_h, 64, 8, 32)
    if itemsize == 2:
        return tile(w, radius, 1, 32, 128, 8)
    return tile(w, radius, 1, 16, 64, 8)


def for_blur(
    n: int, c: int, h: int, w: int, radius: int, border: str,
    itemsize: int, channels_last: bool, multiprocessors: int,
) -> Config:  # fmt: skip
    """The tiles of a forward (or adjoint) blur."""
    if max(h, w) <= (16 if channels_last and itemsize == 4 else 32):
        planes, warps = _small(h, w, itemsize, channels_last, False)
        return tile(w, radius, planes, power_of_two(h), power_of_two(w), warps)
    if max(h, w) <= 64 and itemsize == 2 and not channels_last:
        return tile(w, radius, 1, power_of_two(h), power_of_two(w), 4)
    cfg = _streamed(w, radius, border, itemsize, channels_last, False)
    return _segmented(cfg, n, c, h, multiprocessors)


def for_grad(
    n: int, c: int, h: int, w: int, radius: int, border: str,
    itemsize: int, channels_last: bool, need_dz: bool, multiprocessors: int,
) -> list[Pass]:  # fmt: skip
    """The launches that give (dz, ∂F/∂a, ∂F/∂b), or the last two: one where registers allow."""
    sms = multiprocessors
    if max(h, w) <= (16 if channels_last and itemsize == 4 else 32):
        planes, warps = _small(h, w, itemsize, channels_last, True)
        cfg = tile(w, radius, planes, power_of_two(h), power_of_two(w), warps)
        return [Pass(cfg, dz=need_dz, da=True, db=True)]
    if itemsize == 2 and not channels_last:
        if max(h, w) <= 64:
            cfg = tile(w, radius, 1, power_of_two(h), power_of_two(w), 8)
            return [Pass(cfg, dz=need_dz, da=True, db=True)]
        if radius <= 16 and border != "circular":
            cfg = tile(w, radius, 1, min(64, power_of_two(h)), min(64, power_of_two(w)), 8)
            return [Pass(_segmented(cfg, n, c, h, sms), dz=need_dz, da=True, db=True)]
    down = _segmented(_streamed(w, radius, border, itemsize, channels_last, True), n, c, h, sms)
    over = _segmented(_streamed(h, radius, border, itemsize, channels_last, True), n, c, w, sms)
    passes = [Pass(down, db=True), Pass(over, da=True, transposed=True)]
    # float32 has no registers left for dz beside ∂F/∂b where its operands are wide
    apart = itemsize == 4 and (channels_last or (radius > 16 and w > 64))
    apart |= channels_last and radius > 16
    if need_dz and apart:
        return [Pass(for_blur(n, c, h, w, radius, border, itemsize, channels_last, sms)), *passes]
    passes[0] = Pass(down, dz=need_dz, db=True)
    return passes


def _segmented(cfg: Config, n: int, c: int, rows: int, multiprocessors: int) -> Config:
    """Share the row blocks among segments when there are too few programs to fill the device."""
    blocks = -(-rows // cfg.block_h)
    programs = cfg.strips * -(-c // cfg.planes) * n
    wanted = -(-2 * multiprocessors // programs)
    return replace(cfg, segments=max(1, min(blocks // 2, wanted)))
