"""What an instruction of a warp takes of a multiprocessor: a pipe for some clocks, and how long its
result takes. Rates are those of the CUDA C++ Programming Guide, latencies those that
microbenchmarks report, but for what the machine gives.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.predict.machine import Machine
from bench.predict.sass import Instruction

PIPES = ("none", "alu", "fma", "xu", "tensor", "lsu")
"""One of each for a scheduler, of which a multiprocessor has four; but one lsu for all."""
LINE, SECTOR = 128, 32
"""Bytes that L1 hands over in a clock, and the least that it asks of L2."""
KINDS = ("other", "load", "async load", "async product")

_INTEGER = {
    "IADD3", "IADD", "VIADD", "LOP3", "LOP", "PLOP3", "SHF", "LEA", "ISETP", "SEL", "PRMT", "MOV",
    "IMNMX", "VIMNMX", "VIADDMNMX", "IABS", "BMSK", "SGXT", "FLO", "POPC", "P2R", "R2P", "I2FP",
    "F2FP", "FSETP", "FSEL", "FMNMX", "HMNMX2", "HADD2", "R2UR",
}  # fmt: skip
_FLOAT = {"FFMA": 1, "FADD": 1, "FMUL": 1, "HFMA2": 2, "HMUL2": 2, "IMAD": 2}
_SPECIAL = {"MUFU", "F2F", "I2F", "F2I", "FRND", "REDUX"}


@dataclass(frozen=True)
class Need:
    pipe: str = "none"
    cycles: float = 0.0
    """For which the pipe is taken."""
    latency: float = 6.0
    """Clocks from there to the result; of a load, without what memory adds."""
    kind: str = "other"
    loads: int = 0
    """Bytes of global memory that a warp asks for, with no thread masked, and that it writes."""
    stores: int = 0
    shared: float = 0.0
    """Clocks for which an asynchronous product reads shared memory."""


def need(x: Instruction, machine: Machine, scattered: float = 0.0) -> Need:
    """``scattered``: sectors that global accesses touch for one they need; 0 where they are whole
    lines."""
    if x.never:
        return Need()
    base, wavefronts = x.base, max(1.0, x.width * 32 / LINE)
    lines = wavefronts * max(1.0, scattered * LINE / SECTOR / machine.sectors)
    if base in ("HMMA", "HGMMA"):
        return _product(x, machine)
    if base == "LDS":
        return Need("lsu", wavefronts, 29)
    if base == "STS":
        return Need("lsu", wavefronts, 10)
    if base in ("LDSM", "STSM"):
        return Need("lsu", int(x.op[-1]) if x.op[-1].isdigit() else 1, 33)
    if base in ("LDGSTS", "LDG", "LD"):
        kind = "async load" if base == "LDGSTS" else "load"
        return Need("lsu", lines, 0, kind, loads=32 * x.width)
    if base in ("STG", "ST"):
        return Need("lsu", lines, 12, stores=32 * x.width)
    if base in ("LDL", "STL"):
        return Need("lsu", wavefronts, 33)
    if base == "SHFL":
        return Need("lsu", 1, 24)
    if base in _SPECIAL:
        return Need("xu", 8, 24)
    if base in _FLOAT:
        return Need("fma", _FLOAT[base], 5 if base == "IMAD" else 4)
    if base in _INTEGER:
        return Need("alu", 2, 10 if base == "R2UR" else 5)
    if base in ("S2R", "S2UR", "CS2R"):
        return Need(latency=30)
    if base.startswith(("UTMA", "SYNCS", "ATOM", "RED")):
        raise ValueError(f"the model knows no {x.op}")
    return Need()  # branches, barriers, constants and the uniform pipe


def _product(x: Instruction, machine: Machine) -> Need:
    """A matrix product of a warp: mma.sync (HMMA), or its quarter of one of wgmma (HGMMA)."""
    tf32 = "TF32" in x.modifiers
    rate = 512 if tf32 else 1024  # floating point operations a clock, by the data sheet's peak
    if x.base == "HMMA":
        shape = re.search(r"\.16(8)(\d+)\b", x.op)
        assert shape, x.op
        n, k = int(shape[1]), int(shape[2])
        return Need("tensor", 2 * 16 * n * k / rate / machine.mma_rate, 33)
    _, n, k = map(int, x.modifiers[0].split("x"))
    itemsize = 4 if tf32 else 2
    in_shared = re.match(r"R\d+, gdesc", x.args)
    a, b = 16 * k * itemsize if in_shared else 0, n * k * itemsize / 4  # b: for four warps
    cycles, shared = 2 * 16 * n * k / rate, (a + b) / 128
    return Need("tensor", cycles, machine.wgmma_tail, "async product", shared=shared)
