"""A plan: the launches of an op, each with a Config, which shares the maps among programs."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from akm_triton.launch.device import Device
from akm_triton.launch.problem import Problem

OUTPUTS = ("dz", "da", "db")


@dataclass(frozen=True)
class Config:
    """How one launch shares (C, H, W) among programs, see backend/tiles.py.

    A program has ``planes`` channels, one of ``strips`` strips of columns and one of ``segments``
    runs of row blocks of ``block_h`` rows; it goes through its split of the batch. A strip reads
    ``block_w`` columns and computes ``out_w``; strips are ``step_w`` columns apart.
    """

    planes: int
    block_h: int
    block_w: int
    out_w: int
    strips: int
    step_w: int
    halo: int
    num_warps: int
    segments: int = 1
    num_stages: int = 2
    programs_per_sm: int = 8
    """Programs per multiprocessor beyond which the batch is split no further."""
    precision: str = "tf32x3"
    """How matrix products keep the accuracy of float32; half precision needs no such care."""

    def columns(self, w: int, strip: int) -> tuple[int, int, int]:
        """(first column read, start and end of those written) of a strip, as ``strip_columns`` of
        backend/tiles.py has them."""
        if self.out_w == self.block_w:
            first = strip * self.step_w
            last = strip == self.strips - 1
            own = first + self.halo
            return first, own if strip else 0, w if last else own + self.step_w
        start = strip * self.out_w
        return start - self.halo, start, min(start + self.out_w, w)

    def programs(self, channels: int) -> int:
        return self.strips * self.segments * -(-channels // self.planes)

    def splits(self, problem: Problem, device: Device) -> int:
        """Shares of the batch. Enough for ``programs_per_sm``, but a program keeps about sixteen
        images or more, which pay for its operands and partial sums, unless there would be less than
        two programs per multiprocessor. With taps for each sample, one share for each image."""
        if problem.per_sample:
            return problem.n
        programs = self.programs(problem.c)
        most = min(
            -(-self.programs_per_sm * device.multiprocessors // programs), -(-problem.n // 16)
        )
        return max(1, min(problem.n, max(most, -(-2 * device.multiprocessors // programs))))

    def streams(self, problem: Problem) -> bool:
        """Whether blocks of rows go by, rather than whole columns staying on chip."""
        return problem.h > self.block_h


@dataclass(frozen=True)
class Launch:
    """One launch. The flags say which outputs it writes; dz alone is a blur, adjoint in a gradient.
    ``transposed`` swaps rows with columns and a with b, so that the kernel of ∂F/∂b computes ∂F/∂a.
    """

    config: Config
    dz: bool = False
    da: bool = False
    db: bool = False
    transposed: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(name for name in OUTPUTS if getattr(self, name))

    def problem(self, problem: Problem) -> Problem:
        return problem.transposed if self.transposed else problem


Plan = tuple[Launch, ...]
"""The launches of an op, in order."""


class Grid(NamedTuple):
    """A launch, ready to run: what it is told besides its tensors and flags of the op."""

    launch: Launch
    problem: Problem
    """Transposed where the launch is."""
    programs: int
    splits: int
    """Shares of the batch."""
    streams: bool
    """Whether blocks of rows stream by: which kernels run."""
    constants: dict[str, Any]
    """Compile-time arguments of the kernel."""


def grids(plan: Plan, problem: Problem, device: Device) -> tuple[Grid, ...]:
    return tuple(_grid(launch, launch.problem(problem), device) for launch in plan)


def _grid(launch: Launch, problem: Problem, device: Device) -> Grid:
    cfg = launch.config
    splits = cfg.splits(problem, device)
    constants: dict[str, Any] = dict(
        H=problem.h, W=problem.w, RADIUS=problem.radius, BORDER=problem.border,
        PLANES=cfg.planes, BLOCK_H=cfg.block_h, SEGMENTS=cfg.segments,
        BLOCK_W=cfg.block_w, OUT_W=cfg.out_w, STEP_W=cfg.step_w, HALO=cfg.halo, STRIPS=cfg.strips,
        PRECISION="ieee" if problem.is_16bit or device.interpreted else cfg.precision,
        num_warps=cfg.num_warps, num_stages=cfg.num_stages,
    )  # fmt: skip
    streams = cfg.streams(problem)
    if streams:
        constants |= dict(ASYMMETRIC=problem.asymmetric)
    if launch.da or launch.db:
        constants |= dict(
            NEED_DZ=launch.dz,
            NEED_DA=launch.da and not launch.transposed,
            NEED_DB=launch.db or launch.transposed,
        )
    programs = cfg.programs(problem.c) * splits
    return Grid(launch, problem, programs, splits, streams, constants)


def tile(
    problem: Problem, shape: tuple[int, int, int], *, num_warps: int, out_w: int | None = None,
    **more: Any,
) -> Config:  # fmt: skip
    """The Config of tiles of this shape, no larger than the map: whole where the map fits ``out_w``
    columns, else strips. Without ``out_w`` a strip computes all columns it reads, so that it reads
    least.

    Args:
        shape: planes, rows and columns: (planes, block_h, block_w).
        more: the fields of Config that are free: segments, num_stages, programs_per_sm, precision.

    Raises:
        ValueError: the blocks cannot hold what a window of this radius needs.
    """
    planes, block_h, block_w = shape
    w, radius = problem.w, problem.radius
    if (out_w or 0) > block_w:
        raise ValueError(f"a strip that reads {block_w} columns cannot compute {out_w}")
    block_h = min(block_h, _power_of_two(problem.h))
    if problem.h > block_h < radius:
        raise ValueError(f"a block of {block_h} rows holds no halo of {radius}")
    if w <= (out_w or block_w):
        block_w = min(block_w, _power_of_two(w))
        return Config(planes, block_h, block_w, block_w, 1, block_w, 0, num_warps, **more)
    halo = -(-radius // 8) * 8  # keeps 16-bit accesses 16 bytes wide
    if out_w is None:
        if problem.border == "circular":
            raise ValueError("a strip that computes its whole window cannot wrap around")
        step = (block_w - halo - radius) // 8 * 8
        strips = 1 + -(-(w - block_w) // max(step, 1))
    else:
        step = out_w if block_w - halo - out_w >= radius else 0
        strips = -(-w // out_w)
    if step <= 0:
        raise ValueError(f"a window of {block_w} columns is too narrow for radius {radius}")
    return Config(planes, block_h, block_w, out_w or block_w, strips, step, halo, num_warps, **more)


def _power_of_two(n: int) -> int:
    """The least power of two ≥ n that a dot takes."""
    return max(16, 1 << (n - 1).bit_length())


def segmented(cfg: Config, problem: Problem, device: Device) -> Config:
    """Share the row blocks among segments when there are too few programs to fill the device."""
    blocks = -(-problem.h // cfg.block_h)
    wanted = -(-2 * device.multiprocessors // (cfg.programs(problem.c) * max(problem.n, 1)))
    return replace(cfg, segments=max(1, min(blocks // 2, wanted)))


POWERS_OF_TWO = {"planes": 16, "block_h": 128, "block_w": 128, "out_w": 128, "num_warps": 32}
"""And the most of each that a program can hold."""
COUNTS = {"segments": None, "num_stages": 8, "programs_per_sm": 64}
FREE = (*POWERS_OF_TWO, *COUNTS, "precision")
"""The fields of Config that a plan on disk holds; the others follow from the problem."""


def to_json(plan: Plan) -> list[dict[str, Any]]:
    """What ``from_json`` needs."""
    return [
        {
            "outputs": list(launch.outputs),
            "transposed": launch.transposed,
            **{name: getattr(launch.config, name) for name in FREE},
        }
        for launch in plan
    ]


def from_json(record: Any, problem: Problem) -> Plan:
    """The plan that ``to_json`` wrote.

    Raises:
        ValueError: it is no plan for this problem.
    """
    if not isinstance(record, list):
        raise ValueError(f"not a plan: {reprlib.repr(record)}")
    plan = tuple(_launch(launch, problem) for launch in record)
    check(plan, problem)
    return plan


def _launch(record: Any, problem: Problem) -> Launch:
    if not isinstance(record, dict) or record.keys() != {"outputs", "transposed", *FREE}:
        raise ValueError(f"not a plan: {reprlib.repr(record)}")
    outputs, transposed = record["outputs"], record["transposed"]
    if not isinstance(outputs, list) or outputs != [name for name in OUTPUTS if name in outputs]:
        raise ValueError(f"not a plan: outputs {reprlib.repr(outputs)}")
    if type(transposed) is not bool:
        raise ValueError(f"transposed must be true or false, got {reprlib.repr(transposed)}")
    free = {name: record[name] for name in FREE}
    _check_free(free)
    if free["out_w"] == free["block_w"]:
        free["out_w"] = None
    shape = free.pop("planes"), free.pop("block_h"), free.pop("block_w")
    config = tile(problem.transposed if transposed else problem, shape, **free)
    return Launch(config, transposed=transposed, **dict.fromkeys(outputs, True))


def _check_free(fields: dict[str, Any]) -> None:
    """Refuse what no kernel takes for the free fields. ``True`` and 1.0 are no numbers here."""
    for name in (*POWERS_OF_TWO, *COUNTS):
        value, most = fields[name], POWERS_OF_TWO.get(name) or COUNTS[name]
        whole = type(value) is int
        if name in POWERS_OF_TWO and not (whole and value > 0 and value & (value - 1) == 0):
            raise ValueError(f"{name} must be a power of two, got {reprlib.repr(value)}")
        if not whole or (most and not 1 <= value <= most):
            wanted = f"1 to {most}" if most else "an integer"
            raise ValueError(f"{name} must be {wanted}, got {reprlib.repr(value)}")
    if fields["precision"] not in ("tf32x3", "bf16x6", "ieee"):
        precision = reprlib.repr(fields["precision"])
        raise ValueError(f"precision {precision} loses the accuracy of float32")


def check(plan: Plan, problem: Problem) -> None:
    """Refuse what the kernels cannot run, and prove that each output is written, once.

    Raises:
        ValueError: says what is wrong.
    """
    written = [name for launch in plan for name in launch.outputs]
    if sorted(written) != sorted(problem.outputs):
        raise ValueError(f"{problem.op} writes {problem.outputs}, the plan {tuple(written)}")
    for launch in plan:
        cfg, own = launch.config, launch.problem(problem)
        _check_free({name: getattr(cfg, name) for name in FREE})
        if min(cfg.block_h, cfg.block_w, cfg.out_w) < 16:
            raise ValueError("matrix products take blocks of 16 and more")
        if not launch.outputs:  # taken for a blur, it would write the map
            raise ValueError("a launch writes nothing")
        if launch.da and not launch.transposed and cfg.out_w != cfg.block_w:
            raise ValueError("∂F/∂a needs whole windows; transposed it is ∂F/∂b")
        if launch.transposed and (launch.dz or launch.db):
            raise ValueError("a transposed launch writes ∂F/∂a alone")
        _check_rows(cfg, own)
        _check_columns(cfg, own)


def _check_rows(cfg: Config, problem: Problem) -> None:
    """Each block of rows in one segment: between 1 and as many as there are blocks, none is empty
    and they follow each other; and a block finds all it reads in itself and its neighbours."""
    blocks = -(-problem.h // cfg.block_h)
    if not 1 <= cfg.segments <= blocks:
        raise ValueError(f"{cfg.segments} segments of {blocks} row blocks")
    if blocks > 1 and cfg.block_h < problem.radius:
        raise ValueError(f"a block of {cfg.block_h} rows holds no halo of {problem.radius}")


def _check_columns(cfg: Config, problem: Problem) -> None:
    """Each column in one strip, with all it needs among the columns that the strip reads. A strip
    begins where the last one ends; and from strip to strip all grows evenly, but at the borders of
    the map, so that two strips at each end speak for all."""
    w, radius, wraps = problem.w, problem.radius, problem.border == "circular" and cfg.strips > 1
    if cfg.strips < 1 or cfg.columns(w, cfg.strips - 1)[2] != w:
        raise ValueError(f"{cfg.strips} strips of {cfg.out_w} columns do not cover {w}")
    for strip in sorted(x for x in {0, 1, cfg.strips - 2, cfg.strips - 1} if 0 <= x < cfg.strips):
        first, start, end = cfg.columns(w, strip)
        computed = start if cfg.out_w < cfg.block_w else first
        if not computed <= start < end <= computed + cfg.out_w:
            raise ValueError(f"strip {strip} cannot write columns {start} to {end}")
        # past a border lies what is folded back inside; a resident map is read whole
        low, high = start - radius, end + radius
        if not wraps:
            low, high = max(low, 0), min(high, w)
        if not first <= low < high <= first + cfg.block_w:
            raise ValueError(
                f"strip {strip} reads {cfg.block_w} columns from {first}, and needs {low} to {high}"
            )
