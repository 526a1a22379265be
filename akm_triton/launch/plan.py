"""What a choice answers: the launches of an op, and how each cuts its maps into programs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from akm_triton.launch.problem import Device, Problem


@dataclass(frozen=True)
class Config:
    """How one launch cuts (C, H, W) into programs, see backend/tiles.py.

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
    waves: int = 8
    """Programs a multiprocessor gets, at which the batch is split no further."""
    precision: str = "tf32x3"
    """How matrix products keep the accuracy of float32; half precision needs no such care."""

    def programs(self, channels: int) -> int:
        return self.strips * self.segments * -(-channels // self.planes)

    def splits(self, problem: Problem, device: Device) -> int:
        """Shares of the batch: ``waves`` programs a multiprocessor, yet sixteen images a program to
        pay for its operands and partials, yet two waves before that. One an image where a table
        belongs to the sample."""
        if problem.per_sample:
            return problem.n
        programs = self.programs(problem.c)
        waves = min(-(-self.waves * device.multiprocessors // programs), -(-problem.n // 16))
        return max(1, min(problem.n, max(waves, -(-2 * device.multiprocessors // programs))))

    def streams(self, problem: Problem) -> bool:
        """Whether blocks of rows go by, rather than whole columns staying on chip."""
        return problem.h > self.block_h


@dataclass(frozen=True)
class Pass:
    """One launch: what it writes (dz alone is a blur, adjoint in a gradient), and whether rows and
    columns, and with them a and b, change places, which makes ∂F/∂a of ∂F/∂b."""

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


Plan = tuple[Pass, ...]
"""The launches of an op, in order."""


def tile(
    problem: Problem, planes: int, block_h: int, block_w: int, warps: int,
    out_w: int | None = None, **more: Any,
) -> Config:  # fmt: skip
    """The Config of these blocks, no larger than the map: whole where the map fits ``out_w``
    columns, else strips. Without ``out_w`` a strip computes its whole window, which reads least.

    Args:
        more: the fields of Config that are free: segments, stages, waves, precision.

    Raises:
        ValueError: the blocks cannot hold what a window of this radius needs.
    """
    w, radius = problem.w, problem.radius
    block_h = min(block_h, _power_of_two(problem.h))
    if problem.h > block_h < radius:
        raise ValueError(f"a block of {block_h} rows holds no halo of {radius}")
    if w <= (out_w or block_w):
        block_w = min(block_w, _power_of_two(w))
        return Config(planes, block_h, block_w, block_w, 1, block_w, 0, warps, **more)
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
    return Config(planes, block_h, block_w, out_w or block_w, strips, step, halo, warps, **more)


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
        "planes", "block_h", "block_w", "out_w", "warps", "segments", "stages", "waves", "precision"
    )  # fmt: skip
    return [
        {
            "outputs": list(step.outputs),
            "transposed": step.transposed,
            **{name: getattr(step.config, name) for name in free},
        }
        for step in plan
    ]


def from_json(found: Any, problem: Problem) -> Plan:
    """The plan that ``to_json`` wrote.

    Raises:
        ValueError: it is no plan for this problem.
    """
    try:
        plan = tuple(_pass(dict(step), problem) for step in found)
    except (TypeError, KeyError) as error:
        raise ValueError(f"not a plan: {error!r}") from error
    check(plan, problem)
    return plan


def _pass(step: dict[str, Any], problem: Problem) -> Pass:
    outputs, transposed = step.pop("outputs"), bool(step.pop("transposed"))
    if step["out_w"] == step["block_w"]:
        step["out_w"] = None
    problem = problem.transposed if transposed else problem
    return Pass(tile(problem, **step), transposed=transposed, **dict.fromkeys(outputs, True))


def check(plan: Plan, problem: Problem) -> None:
    """Refuse what the kernels cannot run, or what leaves an output unwritten.

    Raises:
        ValueError: says what is wrong.
    """
    written = [name for step in plan for name in step.outputs]
    if sorted(written) != sorted(problem.outputs):
        raise ValueError(f"{problem.op} writes {problem.outputs}, the plan {tuple(written)}")
    for step in plan:
        cfg, cut = step.config, step.problem(problem)
        for name in ("planes", "block_h", "block_w", "out_w", "warps"):
            value = getattr(cfg, name)
            if not isinstance(value, int) or value < 1 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two, got {value!r}")
        if min(cfg.block_h, cfg.block_w, cfg.out_w) < 16:
            raise ValueError("matrix products take blocks of 16 and more")
        if not 1 <= cfg.segments <= max(1, -(-cut.h // cfg.block_h)):
            raise ValueError(f"{cfg.segments} segments of {-(-cut.h // cfg.block_h)} row blocks")
        if not 1 <= cfg.stages <= 8 or not 1 <= cfg.waves <= 64 or cfg.warps > 32:
            raise ValueError(f"stages {cfg.stages}, waves {cfg.waves} or warps {cfg.warps}")
        if cfg.precision not in ("tf32x3", "bf16x6", "ieee"):
            raise ValueError(f"precision {cfg.precision!r} loses the accuracy of float32")
        if step.da and not step.transposed and cfg.out_w != cfg.block_w:
            raise ValueError("∂F/∂a needs whole windows; transposed it is ∂F/∂b")
        if step.transposed and (step.dz or step.db):
            raise ValueError("a transposed pass writes ∂F/∂a alone")
