"""What a kernel is launched with, and what it moves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    name: str
    cubin: bytes
    num_warps: int
    shared: int
    """Bytes of shared memory of a program."""
    programs: int
    images: float
    """That a program goes through, and the blocks of rows of each that it goes through."""
    blocks: float
    reads: float
    """Bytes that a program takes from DRAM, asks of L2, and writes."""
    requests: float
    writes: float
    scattered: float = 0.0
    """Sectors that global accesses touch for one they need; 0 where they are whole lines."""

    @property
    def bytes(self) -> float:
        """What the launch moves through DRAM."""
        return self.programs * (self.reads + self.writes)
