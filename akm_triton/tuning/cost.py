"""An analytic model of a plan: what it moves, what it computes, and so how long it must take.

The counts of bytes are exact, for dense maps, and are tested against the interpreter's. The seconds
are a model, never a measurement: they put candidates in order and draw predicted rooflines.
"""

from __future__ import annotations

from dataclasses import dataclass

from akm_triton.borders import SELF_ADJOINT
from akm_triton.launch.device import Device
from akm_triton.launch.plan import Config, Launch, Plan
from akm_triton.launch.problem import Problem


@dataclass(frozen=True)
class Roof:
    """Peak rates of a device, dense, in units a second."""

    multiprocessors: int
    dram: float
    """bytes"""
    half: float
    """operations of float16 and bfloat16 matrix products, accumulated in float32"""
    tf32: float
    fp32: float
    """operations outside matrix products"""
    clock: float
    """at which the rates are quoted"""

    @property
    def l2(self) -> float:
        """Bytes: 5120 a clock by the A100 whitepaper, which is 47 for each of its multiprocessors.
        Taken for all devices: a model."""
        return 5120 / 108 * self.multiprocessors * self.clock


# NVIDIA's data sheets of H200 SXM, H100 SXM, A100 SXM 80 GB, DGX B200; its Ada whitepaper for the
# RTX 4090. Rates with sparsity are halved. By torch.cuda.get_device_name.
ROOFS = {
    "NVIDIA H200": Roof(132, 4.8e12, 989e12, 494e12, 67e12, 1.83e9),
    "NVIDIA H100 80GB HBM3": Roof(132, 3.35e12, 989e12, 494e12, 67e12, 1.83e9),
    "NVIDIA A100-SXM4-80GB": Roof(108, 2.04e12, 312e12, 156e12, 19.5e12, 1.41e9),
    "NVIDIA GeForce RTX 4090": Roof(128, 1.01e12, 165e12, 82.6e12, 82.6e12, 2.52e9),
    "NVIDIA B200": Roof(148, 8.0e12, 2250e12, 1125e12, 80e12, 1.85e9),
}
_LIKE = {8: "NVIDIA A100-SXM4-80GB", 9: "NVIDIA H200", 10: "NVIDIA B200"}

# What the model takes for granted.
LAUNCH = 2e-6  # seconds from one kernel to the next
REGISTERS = 128  # a thread, of 65536 on a multiprocessor
BUILD = 30  # operations for an entry of a banded operand
PRODUCTS = {"tf32x3": 3.0, "bf16x6": 6.0, "ieee": 1.0}  # matrix products for one of float32


def roof_of(device: Device) -> Roof:
    """The device's own, else that of its kind, by the number of multiprocessors."""
    if device.name in ROOFS:
        return ROOFS[device.name]
    known = ROOFS[_LIKE.get(device.capability // 10, "NVIDIA GeForce RTX 4090")]
    if device.capability == 89:
        known = ROOFS["NVIDIA GeForce RTX 4090"]
    share = device.multiprocessors / known.multiprocessors
    return Roof(
        device.multiprocessors,
        *(share * known.dram, share * known.half, share * known.tf32, share * known.fp32),
        clock=known.clock,
    )


@dataclass(frozen=True)
class Cost:
    dram_bytes: int
    """Each element of each map once a launch."""
    requested_bytes: int
    """With the halos, which the caches serve."""
    operations: float
    """Of matrix products, the padding of tiles included."""
    seconds: float
    """The model's."""


def cost(plan: Plan, problem: Problem, device: Device) -> Cost:
    """The cost of all launches of the plan."""
    each = [_cost(launch, problem, device) for launch in plan]
    return Cost(
        sum(x.dram_bytes for x in each),
        sum(x.requested_bytes for x in each),
        sum(x.operations for x in each),
        sum(x.seconds for x in each),
    )


def _cost(launch: Launch, asked: Problem, device: Device) -> Cost:
    cfg, problem, roof = launch.config, launch.problem(asked), roof_of(device)
    images = problem.n * problem.c
    plane = problem.h * problem.w
    gradient = launch.da or launch.db
    maps = 1 + gradient + launch.dz
    requested = sum(_reads(launch, problem)) + launch.dz * plane
    bytes_dram = images * maps * plane * problem.itemsize
    bytes_requested = images * requested * problem.itemsize

    padded = problem.n * cfg.planes * -(-problem.c // cfg.planes)
    operations = 2.0 * padded * cfg.strips * _products(launch, problem)
    if problem.itemsize == 4:
        operations *= PRODUCTS[cfg.precision]
    rate = roof.tf32 if problem.itemsize == 4 and cfg.precision == "tf32x3" else roof.half

    programs = cfg.programs(problem.c) * cfg.splits(problem, device)
    built = programs * cfg.planes * _built(cfg, problem)
    resident = max(1, 65536 // (REGISTERS * 32 * cfg.num_warps)) * roof.multiprocessors
    waves = -(-programs // resident)
    # the last wave takes as long as a full one; a single one need only reach every multiprocessor
    full = programs / (waves * resident) if waves > 1 else programs / roof.multiprocessors
    work = max(
        bytes_dram / roof.dram,
        bytes_requested / roof.l2,
        operations / rate + built * BUILD / roof.fp32,
    )
    return Cost(bytes_dram, bytes_requested, operations, LAUNCH + work / min(full, 1.0))


def _columns(cfg: Config, problem: Problem) -> tuple[int, int]:
    """Columns read through the windows of all strips, and columns computed that exist."""
    w = problem.w
    if cfg.strips == 1:
        return w, w
    seen = computed = 0
    for strip in range(cfg.strips):
        if cfg.out_w == cfg.block_w:
            start = strip * cfg.step_w
            seen += min(start + cfg.block_w, w) - start
            computed += min(start + cfg.block_w, w) - start
        else:
            start = strip * cfg.out_w
            left, right = start - cfg.halo, start - cfg.halo + cfg.block_w
            wraps = problem.border == "circular"
            seen += cfg.block_w if wraps else min(right, w) - max(left, 0)
            computed += min(start + cfg.out_w, w) - start
    return seen, computed


def _rows(cfg: Config, problem: Problem, folded: bool) -> int:
    """Rows read by all segments: their blocks, the one before and the one after."""
    if not cfg.streams(problem):
        return problem.h
    outside = problem.radius if folded else 0
    blocks, total = -(-problem.h // cfg.block_h), 0
    for segment in range(cfg.segments):
        first = segment * blocks // cfg.segments - 1
        last = (segment + 1) * blocks // cfg.segments + 1
        top = max(first * cfg.block_h, -outside)
        total += min(last * cfg.block_h, problem.h + outside) - top
    return total


def _reads(launch: Launch, problem: Problem) -> tuple[int, int]:
    """Elements of a plane of g and of z that are asked for; a blur has z alone."""
    cfg = launch.config
    asymmetric = problem.border not in SELF_ADJOINT
    seen, computed = _columns(cfg, problem)
    if not (launch.da or launch.db):
        adjoint = problem.adjoint or "da" in problem.outputs
        folded = problem.border != "zeros" and not (adjoint and asymmetric)
        return 0, _rows(cfg, problem, folded) * seen
    folded = problem.border != "zeros"
    g = _rows(cfg, problem, folded and not asymmetric) * seen
    halo = launch.da and not launch.transposed
    z = (_rows(cfg, problem, folded) if halo else problem.h) * computed
    return g, z


def _products(launch: Launch, problem: Problem) -> float:
    """Multiplications for one strip of one plane."""
    cfg = launch.config
    h, w, out = cfg.block_h, cfg.block_w, cfg.out_w
    blocks = -(-problem.h // h)
    across, down = h * w * out, (3 if blocks > 1 else 1) * h * h
    ends = 2 * cfg.segments if blocks > 1 else 0
    if not (launch.da or launch.db):
        pair = 2 if problem.pair else 1
        return pair * ((blocks + ends) * across + blocks * down * out)
    per_block = down * w + (launch.db or launch.transposed) * across + launch.dz * across
    total = blocks * per_block
    if launch.da and not launch.transposed:
        total += (blocks + ends) * across + blocks * down * out
    return total


def _built(cfg: Config, problem: Problem) -> int:
    """Entries of the banded operands of a plane."""
    blocks = 3 if cfg.streams(problem) else 1
    return (2 if problem.pair else 1) * (cfg.block_w * cfg.out_w + blocks * cfg.block_h**2)
