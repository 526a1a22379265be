"""A driver for Triton whose GPU is the emulator, and whose memory is that of the CPU.

with emulated(device):
    kernel[(programs,)](x, y)  # compiled for the device, and run here
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime import driver as drivers

from akm_triton.backend import triton as triton_backend
from akm_triton.launch.device import Device
from tests.emulator.launch import Launch, emulate


@contextlib.contextmanager
def emulated(device: Device, on_launch: Callable[[Launch], None] = emulate) -> Iterator[None]:
    """Within, kernels are compiled for ``device`` and take tensors of the CPU."""
    before = drivers._active
    drivers.set_active(EmulatedGpu(device))
    _EmulatedLauncher.on_launch = staticmethod(on_launch)
    try:
        with unassembled(), triton_backend.launching(device=device):
            yield
    finally:
        drivers._active = before


def unassembled() -> Any:
    """Within, Triton does not assemble its PTX, which takes a third of the time, but loads it."""

    def hook(*args: Any) -> Any:
        if not args:  # what Triton's cache is to know of it
            return "unassembled", "unassembled"
        args[1]["cubin"] = lambda ptx, metadata: ELF + ptx.encode()

    return mock.patch.object(knobs.runtime, "add_stages_inspection_hook", hook)


ELF = b"\x7fELF"
"""What a binary begins with."""


class EmulatedGpu(DriverBase):
    """A CUDA device, as far as Triton asks."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device, self.utils, self.launcher_cls = device, self, _EmulatedLauncher

    @classmethod
    def is_active(cls) -> bool:
        return False  # unless asked for

    def get_current_device(self) -> int:
        return -self.device.capability  # no other's number: Triton keeps kernels by device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.device.capability, 32)

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": self.device.shared_bytes}

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[Any, ...]:
        """(module, function, registers, spills, most threads of a block)."""
        return None, (binary.removeprefix(ELF).decode(), shared), 0, 0, 1024

    map_python_to_cpp_type = get_active_torch_device = get_benchmarker = None


class _EmulatedLauncher:
    on_launch: Callable[[Launch], None]

    def __init__(self, source: Any, metadata: Any) -> None:
        self.passed = [kind != "constexpr" for kind in source.signature.values()]

    def __call__(
        self, x: int, y: int, z: int, stream: int, function: tuple[str, int], packed: Any,
        metadata: Any, enter: Any, leave: Any, *args: Any,
    ) -> None:  # fmt: skip
        assert y == z == 1
        values = [value for value, passed in zip(args, self.passed, strict=True) if passed]
        self.on_launch(Launch(function[0], x, function[1], [*values, 0, 0]))
