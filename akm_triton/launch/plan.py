"""A plan: the launches of an op, each with a Config, a Sliding or an Axis, which shares the maps
among programs."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from akm_triton.launch.axis import Axis, steps
from akm_triton.launch.counts import check_count, check_power_of_two, power_of_two
from akm_triton.launch.device import Device
from akm_triton.launch.problem import Problem
from akm_triton.launch.sliding import Sliding

OUTPUTS = ("u", "v", "dz", "da", "db")
"""Of a launch; u and v are the scratch of launches of one axis, see launch/axis.py."""


class Map(NamedTuple):
    """What a kernel is told of the maps."""

    H: int
    W: int
    RADIUS: int
    BORDER: str


class Tile(NamedTuple):
    """What a kernel is told of its tiles, as Config has it."""

    PLANES: int
    BLOCK_H: int
    HALO_H: int
    BLOCK_W: int
    OUT_W: int
    STEP_W: int
    HALO_W: int
    STRIPS: int
    WRAP: bool
    """Whether columns wrap around where they are read."""


@dataclass(frozen=True)
class Config:
    """How one launch shares (C, H, W) among programs, see backend/tiles.py.

    A program has ``planes`` channels, one of ``strips`` strips of columns and a share of the blocks
    of ``block_h`` rows of all images, each read with ``halo_h`` rows above and below it. A strip
    reads ``block_w`` columns and computes ``out_w``; strips are ``step_w`` columns apart.
    """

    planes: int
    block_h: int
    halo_h: int
    """0 where a block holds all rows of the map."""
    block_w: int
    out_w: int
    strips: int
    step_w: int
    halo_w: int
    num_warps: int
    num_stages: int = 3
    """Of the pipeline that loads tiles ahead: with fewer than three nothing overlaps."""
    registers: int = 0
    """A thread may use, or 0 for as many as it likes: fewer let more programs run side by side."""
    programs_per_sm: int = 2
    """Programs that a multiprocessor is expected to run side by side."""
    precision: str = "tf32x3"
    """How matrix products keep the accuracy of float32; half precision needs no such care."""

    def columns(self, w: int, strip: int) -> tuple[int, int, int]:
        """(first column read, start and end of those written) of a strip, as ``strip_columns`` of
        backend/tiles.py has them."""
        if self.out_w == self.block_w:
            first = strip * self.step_w
            last = strip == self.strips - 1
            own = first + self.halo_w
            return first, own if strip else 0, w if last else own + self.step_w
        start = strip * self.out_w
        first = start - self.halo_w if w > self.block_w else 0
        return first, start, min(start + self.out_w, w)

    def wraps(self, problem: Problem) -> bool:
        """Whether columns wrap around where they are read: those of a whole map need not."""
        return problem.border == "circular" and problem.w > self.block_w

    def programs(self, channels: int) -> int:
        """For each split of the tiles."""
        return self.strips * -(-channels // self.planes)

    def splits(self, problem: Problem, device: Device) -> int:
        """Shares of the tiles of all images: as many as take the least time, where those that a
        device runs side by side go in waves, and a program spends ``PROLOGUE`` tiles' time on its
        operands and partial sums. With taps for each sample, no share crosses from one image to the
        next."""
        blocks = -(-problem.h // self.block_h)
        programs = self.programs(problem.c)
        side_by_side = self.programs_per_sm * device.multiprocessors
        if problem.per_sample:
            parts = (x for x in range(1, blocks + 1) if blocks % x == 0)
            enough = 2 * device.multiprocessors
            return problem.n * next(
                (x for x in parts if problem.n * programs * x >= enough), blocks
            )
        tiles = max(1, problem.n * blocks)
        most = max(1, min(tiles, MOST_WAVES * side_by_side // programs))

        def seconds(splits: int) -> int:
            return -(-programs * splits // side_by_side) * (PROLOGUE + -(-tiles // splits))

        return min(range(1, most + 1), key=seconds)


PROLOGUE = 4
MOST_WAVES = 6


@dataclass(frozen=True)
class Launch:
    """One launch. The flags say what it writes; dz alone is a blur, adjoint in a gradient."""

    config: Config | Sliding | Axis
    u: bool = False
    v: bool = False
    dz: bool = False
    da: bool = False
    db: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(name for name in OUTPUTS if getattr(self, name))

    @property
    def writes_map(self) -> bool:
        return self.u or self.v or self.dz


Plan = tuple[Launch, ...]
"""The launches of an op, in order."""


class Grid(NamedTuple):
    """A launch, ready to run: what it is told besides its tensors and flags of the op."""

    launch: Launch
    problem: Problem
    programs: int
    strips: int
    splits: int
    """Shares of the rows of all images: so many partial gradients each strip has of a tap."""
    constants: dict[str, Any]
    """Compile-time arguments of the kernel."""
    share: int = 0
    """Tiles of a split; the first ``extra`` splits have one more."""
    extra: int = 0


def grids(plan: Plan, problem: Problem, device: Device) -> tuple[Grid, ...]:
    return tuple(_grid(launch, problem, device) for launch in plan)


def _grid(launch: Launch, problem: Problem, device: Device) -> Grid:
    cfg = launch.config
    if isinstance(cfg, Axis):
        return _axis_grid(launch, cfg, problem)
    constants: dict[str, Any] = dict(
        MAP=Map(problem.h, problem.w, problem.radius, problem.border), num_warps=cfg.num_warps
    )
    if launch.da or launch.db:
        constants |= dict(NEED_DZ=launch.dz, NEED_DA=launch.da, NEED_DB=launch.db)
    if isinstance(cfg, Sliding):
        lanes = cfg.lanes(problem)
        constants |= dict(LANES=lanes)
        programs, splits = cfg.programs(problem), cfg.splits(problem)
        return Grid(launch, problem, programs, lanes.STRIPS, splits, constants)
    splits = cfg.splits(problem, device)
    constants |= dict(
        TILE=Tile(
            cfg.planes, cfg.block_h, cfg.halo_h, cfg.block_w, cfg.out_w, cfg.step_w, cfg.halo_w,
            cfg.strips, cfg.wraps(problem),
        ),
        ADJOINT=problem.asymmetric,
        PRECISION="ieee" if problem.is_16bit or device.interpreted else cfg.precision,
        num_stages=cfg.num_stages,
    )  # fmt: skip
    if not (launch.da or launch.db):
        constants |= dict(PAIR=problem.pair, EVERY=problem.stride)
    if cfg.registers:
        constants |= dict(maxnreg=cfg.registers)
    share, extra = divmod(problem.n * -(-problem.h // cfg.block_h), splits)
    programs = cfg.programs(problem.c) * splits
    return Grid(launch, problem, programs, cfg.strips, splits, constants, share, extra)


def _axis_grid(launch: Launch, cfg: Axis, problem: Problem) -> Grid:
    lanes = cfg.lanes(problem)
    constants: dict[str, Any] = dict(
        MAP=Map(*cfg.size(problem), problem.radius, problem.border), LANES=lanes,
        num_warps=cfg.num_warps,
    )  # fmt: skip
    if launch.da or launch.db:
        constants |= dict(NEED_DZ=launch.writes_map)
    if cfg.registers:
        constants |= dict(maxnreg=cfg.registers)
    programs, splits = cfg.programs(problem), cfg.splits(problem)
    return Grid(launch, problem, programs, lanes.STRIPS, splits, constants)


def tile(
    problem: Problem, shape: tuple[int, int, int], *, num_warps: int, out_w: int | None = None,
    **more: Any,
) -> Config:  # fmt: skip
    """The Config of tiles of this shape, no larger than the map: whole where the map fits ``out_w``
    columns, else strips. Without ``out_w`` a strip computes all columns it reads, so that it reads
    least.

    Args:
        shape: planes, rows and columns: (planes, block_h, block_w).
        more: the fields of Config that are free: num_stages, registers, programs_per_sm, precision.

    Raises:
        ValueError: the blocks cannot hold what a window of this radius needs.
    """
    planes, block_h, block_w = shape
    w, radius = problem.w, problem.radius
    if (out_w or 0) > block_w:
        raise ValueError(f"a strip that reads {block_w} columns cannot compute {out_w}")
    block_h = min(block_h, _side(problem.h))
    halo_h = 0 if problem.h <= block_h else 16 if radius <= 16 else 32
    if halo_h and problem.h <= radius:
        raise ValueError(f"blocks of {block_h} rows of {problem.h} fold a radius of {radius} twice")
    rows = planes, block_h, halo_h
    if w <= (out_w or block_w):
        block_w = min(block_w, _side(w))
        return Config(*rows, block_w, block_w, 1, block_w, 0, num_warps, **more)
    halo = 0 if w <= block_w else -(-radius // 8) * 8  # keeps 16-bit accesses 16 bytes wide
    if out_w is None:
        if problem.border == "circular":
            raise ValueError("a strip that computes its whole window cannot wrap around")
        step = (block_w - halo - radius) // 8 * 8
        strips = 1 + -(-(w - block_w) // max(step, 1))
    else:
        step = out_w if w <= block_w or block_w - halo - out_w >= radius else 0
        strips = -(-w // out_w)
    if step <= 0:
        raise ValueError(f"a window of {block_w} columns is too narrow for radius {radius}")
    return Config(*rows, block_w, out_w or block_w, strips, step, halo, num_warps, **more)


def _side(n: int) -> int:
    """The least power of two ≥ n that a dot takes."""
    return max(16, power_of_two(n))


POWERS_OF_TWO = {"planes": 16, "block_h": 128, "block_w": 128, "out_w": 128, "num_warps": 32}
"""And the most of each that a program can hold."""
COUNTS = {"num_stages": (1, 8), "registers": (0, 255), "programs_per_sm": (1, 32)}
"""And the least and the most of each."""
FREE = (*POWERS_OF_TWO, *COUNTS, "precision")
"""The fields of Config that a plan on disk holds; the others follow from the problem."""
FREE_OF_SLIDING = tuple(field.name for field in fields(Sliding))
FREE_OF_AXIS = tuple(field.name for field in fields(Axis))
"""And those of Sliding and Axis: all."""


def to_json(plan: Plan) -> list[dict[str, Any]]:
    """What ``from_json`` needs."""
    return [
        {
            "outputs": list(launch.outputs),
            **{name: getattr(launch.config, name) for name in _free(launch.config)},
        }
        for launch in plan
    ]


def _free(config: Config | Sliding | Axis) -> tuple[str, ...]:
    if isinstance(config, Axis):
        return FREE_OF_AXIS
    return FREE_OF_SLIDING if isinstance(config, Sliding) else FREE


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
    kinds = FREE, FREE_OF_SLIDING, FREE_OF_AXIS
    names = next((x for x in kinds if _has(record, x)), None)
    if names is None:
        raise ValueError(f"not a plan: {reprlib.repr(record)}")
    outputs = record["outputs"]
    if not isinstance(outputs, list) or outputs != [name for name in OUTPUTS if name in outputs]:
        raise ValueError(f"not a plan: outputs {reprlib.repr(outputs)}")
    free = {name: record[name] for name in names}
    if names is not FREE:
        make = Sliding if names is FREE_OF_SLIDING else Axis
        return Launch(make(**free), **dict.fromkeys(outputs, True))
    _check_free(free)
    if free["out_w"] == free["block_w"]:
        free["out_w"] = None
    shape = free.pop("planes"), free.pop("block_h"), free.pop("block_w")
    return Launch(tile(problem, shape, **free), **dict.fromkeys(outputs, True))


def _has(record: Any, names: tuple[str, ...]) -> bool:
    return isinstance(record, dict) and record.keys() == {"outputs", *names}


def _check_free(values: dict[str, Any]) -> None:
    """Refuse what no kernel takes for the free fields."""
    for name, most in POWERS_OF_TWO.items():
        check_power_of_two(name, values[name], most)
    for name, limits in COUNTS.items():
        check_count(name, values[name], *limits)
    if values["precision"] not in ("tf32x3", "bf16x6", "ieee"):
        precision = reprlib.repr(values["precision"])
        raise ValueError(f"precision {precision} loses the accuracy of float32")


def check(plan: Plan, problem: Problem) -> None:
    """Refuse what the kernels cannot run, and prove that each output is written, once.

    Raises:
        ValueError: says what is wrong.
    """
    if any(isinstance(launch.config, Axis) for launch in plan):
        _check_axes(plan, problem)
        return
    written = [name for launch in plan for name in launch.outputs]
    if sorted(written) != sorted(problem.outputs):
        raise ValueError(f"{problem.op} writes {problem.outputs}, the plan {tuple(written)}")
    for launch in plan:
        if not launch.outputs:  # taken for a blur, it would write the map
            raise ValueError("a launch writes nothing")
        if isinstance(launch.config, Sliding):
            launch.config.check(problem)
        elif isinstance(launch.config, Config):
            _check_tiles(launch, launch.config, problem)


def _check_axes(plan: Plan, problem: Problem) -> None:
    """Launches of one axis each make an op in one way."""
    for launch in plan:
        if not isinstance(launch.config, Axis):
            raise ValueError("launches of one axis and of both do not go together")
        launch.config.check(problem)
    wanted = [(step.axis, step.outputs) for step in steps(problem)]
    found = [(getattr(x.config, "axis", None), x.outputs) for x in plan]
    if found != wanted:
        raise ValueError(f"{problem.op} needs launches of {wanted}, the plan has {found}")


def _check_tiles(launch: Launch, cfg: Config, problem: Problem) -> None:
    _check_free({name: getattr(cfg, name) for name in FREE})
    if min(cfg.block_h, cfg.block_w, cfg.out_w) < 16:
        raise ValueError("matrix products take blocks of 16 and more")
    if (launch.da or launch.db) and _mixes_wgmma(cfg, problem):
        raise ValueError(
            f"blocks of {cfg.block_h} rows and {cfg.block_w} columns with {cfg.num_warps} warps"
            " mix matrix instructions, and a load may overwrite what one still reads"
        )
    _check_rows(cfg, problem)
    _check_columns(cfg, problem)


def _mixes_wgmma(cfg: Config, problem: Problem) -> bool:
    """Whether Hopper would compute some products by wgmma, which takes 64 rows, four warps and half
    precision, and others not. Triton then forgets a buffer: the next tile is loaded into the one
    that an unfinished wgmma reads."""
    wgmma = problem.is_16bit and cfg.planes == 1 and cfg.num_warps >= 4
    return wgmma and (cfg.block_h < 64) != (cfg.block_w < 64)


def _check_rows(cfg: Config, problem: Problem) -> None:
    """A block finds all it reads in itself and the rows beside it, folded once at the border."""
    if problem.h <= cfg.block_h:
        if cfg.halo_h != 0:
            raise ValueError(f"a map of {problem.h} rows has none beside a block of {cfg.block_h}")
    elif cfg.halo_h not in (16, 32) or not problem.radius <= min(cfg.halo_h, problem.h - 1):
        raise ValueError(
            f"{cfg.halo_h} rows beside a block, of {problem.h}, hold no radius of {problem.radius}"
        )


def _check_columns(cfg: Config, problem: Problem) -> None:
    """Each column in one strip, with all it needs among the columns that the strip reads. A strip
    begins where the last one ends; and from strip to strip all grows evenly, but at the borders of
    the map, so that two strips at each end speak for all."""
    w, radius = problem.w, problem.radius
    if cfg.strips < 1 or cfg.columns(w, cfg.strips - 1)[2] != w:
        raise ValueError(f"{cfg.strips} strips of {cfg.out_w} columns do not cover {w}")
    for strip in sorted(x for x in {0, 1, cfg.strips - 2, cfg.strips - 1} if 0 <= x < cfg.strips):
        first, start, end = cfg.columns(w, strip)
        computed = start if cfg.out_w < cfg.block_w else first
        if not computed <= start < end <= computed + cfg.out_w:
            raise ValueError(f"strip {strip} cannot write columns {start} to {end}")
        # past a border lies what is folded back inside
        low, high = start - radius, end + radius
        if not cfg.wraps(problem):
            low, high = max(low, 0), min(high, w)
        if not first <= low < high <= first + cfg.block_w:
            raise ValueError(
                f"strip {strip} reads {cfg.block_w} columns from {first}, and needs {low} to {high}"
            )
