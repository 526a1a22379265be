"""What the model takes for granted of a GPU. What NVIDIA does not publish is marked GUESS."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


def _given(value: float, unit: str, source: str) -> Any:
    return field(default=value, metadata={"unit": unit, "source": source})


@dataclass(frozen=True)
class Machine:
    name: str
    """As PyTorch calls it."""
    multiprocessors: int = _given(132, "", "data sheet, SXM")
    clock: float = _given(1.755e9, "1/s", "boost under load, as commonly reported")
    dram: float = _given(3.0e12, "bytes/s", "what copies reach; 3.35 by the data sheet")
    l2: float = _given(
        6.5e12, "bytes/s", "GUESS, to all multiprocessors; Chips and Cheese (2023) read 5.6 on 114"
    )
    latency: float = _given(1100, "clocks", "GUESS, from DRAM, to the last of a warp's sectors")
    table_latency: float = _given(260, "clocks", "GUESS, of taps, which L2 or L1 has")
    mma_rate: float = _given(
        0.62, "of wgmma's", "mma.sync on Hopper: Luo et al. (2024), arXiv 2402.13499"
    )
    wgmma_tail: float = _given(40, "clocks", "GUESS, from the last product to its registers")
    barrier: float = _given(22, "clocks", "GUESS, from the last arrival to the release")
    fence: float = _given(20, "clocks", "GUESS")
    start: float = _given(300, "clocks", "GUESS, from the end of a program to the next")
    sectors: float = _given(
        2, "1/clock", "GUESS: 32-byte sectors of scattered accesses that L1 passes on"
    )
    registers: int = _given(65536, "", "of a multiprocessor: CUDA C++ Programming Guide")
    shared: int = _given(233472, "bytes", "of a multiprocessor; 1 KiB of each program is reserved")
    warps: int = _given(64, "", "that a multiprocessor holds: CUDA C++ Programming Guide")

    def per_clock(self, rate: float) -> float:
        """The share of one multiprocessor in a rate of the whole GPU."""
        return rate / self.multiprocessors / self.clock

    def assumptions(self) -> list[dict[str, Any]]:
        """Everything above, for a result file."""
        return [
            {"name": x.name, "value": getattr(self, x.name), **x.metadata}
            for x in fields(self)
            if x.metadata
        ]

    def resident(self, registers: int, num_warps: int, shared: int) -> int:
        """Programs that a multiprocessor holds at a time."""
        by_registers = self.registers // (-(-registers // 8) * 8 * 32 * num_warps)
        by_shared = self.shared // (shared + 1024)
        return min(by_registers, by_shared, self.warps // num_warps, 32)


MACHINES = {
    "H100": Machine("NVIDIA H100 80GB HBM3"),
    "H200": Machine("NVIDIA H200", dram=4.3e12),
}

VARIED: dict[str, dict[str, Any]] = {
    "latency 700": {"latency": 700},
    "latency 1500": {"latency": 1500},
    "L2 5.0 TB/s": {"l2": 5.0e12},
    "1 sector a clock": {"sectors": 1},
    "4 sectors a clock": {"sectors": 4},
}
"""The guesses on which results hang most, changed one at a time."""

LEFT_OUT = (
    "bank conflicts of shared memory (channels_last has 8-way ones)",
    "misses of the instruction cache, in prologues of thousands of instructions",
    "the sum of partial gradients, a launch of its own, and the time between launches",
    "a clock that falls under load",
    "batches that do not divide evenly among programs",
)
"""What the model leaves out; each makes a real kernel slower than predicted."""
