"""Which tiles a launch uses: a plain rule of shape, dtype and layout, in one place."""

from __future__ import annotations

from dataclasses import dataclass

MAX_RADIUS = 31
"""The widest window the kernels take: a halo must fit a block of rows."""


@dataclass(frozen=True)
class Config:
    """How one launch cuts (C, H, W) into programs, see kernels.py.

    A program owns ``planes`` channels, one of ``strips`` column strips (windows of ``block_w``
    columns, ``step_w`` apart, overlapping by ``halo`` on either side) and one of ``segments`` runs
    of row blocks of ``block_h`` rows; it walks over its split of the batch.
    """

    planes: int
    block_h: int
    block_w: int
    warps: int
    strips: int = 1
    step_w: int = 0
    halo: int = 0
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


def strips(width: int, radius: int, block_w: int, border: str) -> tuple[int, int, int]:
    """(strips, step_w, halo) that cover ``width`` with windows of ``block_w`` columns."""
    if width <= block_w:
        return 1, block_w, 0
    # multiples of 8 keep 16-bit accesses 16 bytes wide
    halo = -(-radius // 8) * 8
    step = (block_w - halo - radius) // 8 * 8
    if step <= 0:
        raise ValueError(f"a window of {block_w} columns is too narrow for radius {radius}")
    if border == "circular":
        return -(-width // step), step, halo
    return 1 + -(-(width - block_w) // step), step, halo


def segments(blocks: int, programs: int, multiprocessors: int) -> int:
    """Runs of row blocks, when there are too few programs to fill the device."""
    return max(1, min(blocks // 2, -(-2 * multiprocessors // max(programs, 1))))


def splits(batch: int, programs: int, multiprocessors: int) -> int:
    """Shares of the batch: eight waves of programs, yet eight images a program to pay for its
    operands, yet two waves before that."""
    waves = min(-(-8 * multiprocessors // programs), -(-batch // 8))
    return max(1, min(batch, max(waves, -(-2 * multiprocessors // programs))))


def for_blur(
    n: int, c: int, h: int, w: int, radius: int, border: str,
    itemsize: int, channels_last: bool, multiprocessors: int,
) -> Config:  # fmt: skip
    """The tiles of a forward (or adjoint) blur."""
    return Config(1, power_of_two(h), power_of_two(w), 4)


def for_grad(
    n: int, c: int, h: int, w: int, radius: int, border: str,
    itemsize: int, channels_last: bool, need_dz: bool, multiprocessors: int,
) -> list[Pass]:  # fmt: skip
    return [Pass(Config(1, power_of_two(h), power_of_two(w), 4), dz=need_dz, da=True, db=True)]
