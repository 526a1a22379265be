"""The GPU that a launch is planned for."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch


class Device(NamedTuple):
    """What the rule and the tuner need to know of a GPU. A tuple, because it is hashed at every
    launch."""

    name: str
    multiprocessors: int
    capability: int
    """90 is Hopper."""
    shared_bytes: int
    """Shared memory that one program may have."""
    interpreted: bool = False
    """Whether Triton's interpreter stands in for it, on the CPU."""

    @property
    def warpgroup(self) -> bool:
        """Whether matrix products read operands from shared memory. Elsewhere operands stay in
        registers, and tiles must be smaller."""
        return self.capability // 10 in (9, 10)


H200 = Device("NVIDIA H200", 132, 90, 232_448)
"""Planned for where there is no GPU."""


@functools.cache
def describe(device: torch.device) -> Device:
    """The device as launches are planned for it. On a CPU the interpreter runs Hopper's kernels."""
    if device.type != "cuda":
        name = f"{device.type} (interpreter)"
        return H200._replace(name=name, multiprocessors=1, interpreted=True)
    properties = torch.cuda.get_device_properties(device)
    return Device(
        properties.name,
        properties.multi_processor_count,
        10 * properties.major + properties.minor,
        properties.shared_memory_per_block_optin,  # type: ignore[attr-defined]
    )
