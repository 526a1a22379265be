"""A plan: the launches of an op, each with a Config, which shares the maps among programs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from akm_triton.launch.device import Device
from akm_triton.launch.problem import Problem


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
        return tuple(name for name in ("dz", "da", "db") if getattr(self, name))

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


def to_json(plan: Plan) -> list[dict[str, Any]]:
    """What ``from_json`` needs: the free numbers, for the others follow from the problem."""
    free = (
        "planes", "block_h", "block_w", "out_w", "num_warps", "segments", "num_stages",
        "programs_per_sm", "precision",
    )  # fmt: skip
    return [
        {
            "outputs": list(launch.outputs),
            "transposed": launch.transposed,
            **{name: getattr(launch.config, name) for name in free},
        }
        for launch in plan
    ]


def from_json(record: Any, problem: Problem) -> Plan:
    """The plan that ``to_json`` wrote.

    Raises:
        ValueError: it is no plan for this problem.
    """
    try:
        plan = tuple(_launch(dict(launch), problem) for launch in record)
    except (TypeError, KeyError) as error:
        raise ValueError(f"not a plan: {error!r}") from error
    check(plan, problem)
    return plan


def _launch(record: dict[str, Any], problem: Problem) -> Launch:
    outputs, transposed = record.pop("outputs"), bool(record.pop("transposed"))
    if record["out_w"] == record["block_w"]:
        record["out_w"] = None
    shape = record.pop("planes"), record.pop("block_h"), record.pop("block_w")
    config = tile(problem.transposed if transposed else problem, shape, **record)
    return Launch(config, transposed=transposed, **dict.fromkeys(outputs, True))


def check(plan: Plan, problem: Problem) -> None:
    """Refuse what the kernels cannot run, or what leaves an output unwritten.

    Raises:
        ValueError: says what is wrong.
    """
    written = [name for launch in plan for name in launch.outputs]
    if sorted(written) != sorted(problem.outputs):
        raise ValueError(f"{problem.op} writes {problem.outputs}, the plan {tuple(written)}")
    for launch in plan:
        cfg, own = launch.config, launch.problem(problem)
        for name in ("planes", "block_h", "block_w", "out_w", "num_warps"):
            value = getattr(cfg, name)
            if not isinstance(value, int) or value < 1 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two, got {value!r}")
        if min(cfg.block_h, cfg.block_w, cfg.out_w) < 16:
            raise ValueError("matrix products take blocks of 16 and more")
        if not 1 <= cfg.segments <= max(1, -(-own.h // cfg.block_h)):
            raise ValueError(f"{cfg.segments} segments of {-(-own.h // cfg.block_h)} row blocks")
        for name, most in (("num_stages", 8), ("programs_per_sm", 64), ("num_warps", 32)):
            if not 1 <= getattr(cfg, name) <= most:
                raise ValueError(f"{name} must be 1 to {most}, got {getattr(cfg, name)!r}")
        if cfg.precision not in ("tf32x3", "bf16x6", "ieee"):
            raise ValueError(f"precision {cfg.precision!r} loses the accuracy of float32")
        if launch.da and not launch.transposed and cfg.out_w != cfg.block_w:
            raise ValueError("∂F/∂a needs whole windows; transposed it is ∂F/∂b")
        if launch.transposed and (launch.dz or launch.db):
            raise ValueError("a transposed launch writes ∂F/∂a alone")
