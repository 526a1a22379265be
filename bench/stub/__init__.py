"""Triton's own JIT, compiler and launcher without a GPU.

A driver library that launches nothing, ``libcuda.c``, stands in for NVIDIA's. Kernels are compiled
by ptxas as for a GPU and launched by Triton's own C code into this library, which counts the
launches and can hand each to a callback. Tensors of the CPU stand for those of the GPU. A C
compiler is needed.

    with stub.driver(H200, print):
        akm.modulate(z, r, s, backend="triton")
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from akm_triton.launch.device import Device

_MOST_PARAMETERS = 64


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel, as it was loaded."""

    name: str
    ptx: str
    types: tuple[str, ...]
    """Of its parameters in PTX, such as "u64" and "u32"; the last two are Triton's own scratch."""
    shared: int
    num_warps: int
    hash: str
    """Its key in Triton's cache: of the source, the target and the options."""


class Launch(NamedTuple):
    kernel: Kernel
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int
    """Bytes of shared memory."""
    stream: int
    parameters: tuple[int, ...]
    """The bytes of each parameter, read as an unsigned number: for a pointer its address."""


class Driver:
    """The stub driver while it is at work."""

    @property
    def launches(self) -> int:
        """So far in this process."""
        return int(_library().stub_launches())

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """Loaded so far in this process; one for each variant that Triton compiled or found in its
        cache."""
        return tuple(_kernels.values())


class _Record(ctypes.Structure):
    _fields_ = (
        ("function", ctypes.c_uint64), ("stream", ctypes.c_uint64),
        ("grid", ctypes.c_uint32 * 3), ("block", ctypes.c_uint32 * 3),
        ("shared", ctypes.c_uint32), ("count", ctypes.c_uint32),
        ("parameters", ctypes.c_uint64 * _MOST_PARAMETERS),
    )  # fmt: skip


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Record))

_kernels: dict[int, Kernel] = {}
"""By the handle that the library gave. Triton keeps what it has loaded, and so does this."""


def why_not() -> str | None:
    """What keeps the stub driver from working here; None where nothing does."""
    if torch.cuda.is_available():
        return "there is a GPU with a driver of its own"
    try:
        import triton
    except ImportError:
        return "Triton is not installed"
    if triton.knobs.runtime.interpret:
        return "Triton interprets its kernels in this process"
    if _compiler() is None:
        return "there is no C compiler"
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        return "Python's C headers are not installed"
    return None


@contextlib.contextmanager
def driver(device: Device, on_launch: Callable[[Launch], None] | None = None) -> Iterator[Driver]:
    """Within, Triton compiles for ``device`` and launches into the stub, and the kernels of
    akm_triton take tensors of the CPU. An exception of ``on_launch`` makes the launch fail, and is
    raised again at the end.

    Triton keeps what it knows of a device: in one process, devices of one capability should be one.

    Raises:
        RuntimeError: the stub cannot work here.
    """
    reason = why_not()
    if reason is not None:
        raise RuntimeError(f"no stub driver: {reason}")
    from triton import knobs
    from triton.runtime import driver as drivers

    from akm_triton.backend.launcher import launching

    library, raised = _library(), []

    def handed_over(record: Any) -> int:
        try:
            assert on_launch is not None
            on_launch(_launch(record.contents))
        except BaseException as error:
            raised.append(error)
        return len(raised)

    callback = _CALLBACK(handed_over) if on_launch else _CALLBACK()
    library.stub_device(device.capability, device.shared_bytes)
    library.stub_callback(callback)
    before = drivers._active
    drivers.set_active(_triton_driver(device.capability))
    knobs.runtime.kernel_load_end_hook.add(_loaded)
    try:
        with launching(device=device):
            yield Driver()
    finally:
        knobs.runtime.kernel_load_end_hook.remove(_loaded)
        drivers._active = before
        library.stub_callback(_CALLBACK())
        if raised:
            raise raised[0]


@functools.cache
def _triton_driver(capability: int) -> Any:
    """Triton's driver for NVIDIA, told of the one device that there is. Its number is its
    capability, because Triton keeps compiled kernels by number."""
    from triton.backends.nvidia.driver import CudaDriver

    found = CudaDriver()

    def current_device() -> int:
        torch.cuda.is_initialized()  # as PyTorch's own does, so that this takes as long
        return capability

    found.get_current_device = current_device
    found.get_current_stream = lambda device: 0
    found.get_device_capability = lambda device: divmod(capability, 10)
    return found


def _loaded(module: object, function: int, name: str, group: dict[str, str], hash: str) -> None:
    """Triton calls this with each kernel that it has loaded."""
    ptx = Path(group[f"{name}.ptx"]).read_text()
    metadata = json.loads(Path(group[f"{name}.json"]).read_text())
    head = ptx[ptx.index(".entry") :].partition(")")[0]
    types = tuple(re.findall(r"\.param \.(\w+)", head))
    _kernels[function] = Kernel(
        name, ptx, types, metadata["shared"], metadata["num_warps"], hash
    )  # fmt: skip
    _library().stub_parameters(function, len(types), bytes(int(x[1:]) // 8 for x in types))


def _launch(record: Any) -> Launch:
    return Launch(
        _kernels[record.function], tuple(record.grid), tuple(record.block), record.shared,
        record.stream, tuple(record.parameters[: record.count]),
    )  # fmt: skip


def _compiler() -> str | None:
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")


_folder: Any = None
"""Removed when the process ends."""


@functools.cache
def _library() -> Any:
    """The library, built and loaded as the libcuda.so.1 that Triton will find."""
    import triton
    from triton.backends import nvidia

    global _folder
    _folder = tempfile.TemporaryDirectory()
    path = Path(_folder.name, "libcuda.so.1")
    include = Path(nvidia.__file__).parent / "include"
    command = f"{_compiler()} -O2 -shared -fPIC -w -Wl,-soname,libcuda.so.1".split()
    command += [f"-I{include}", "-o", str(path), str(Path(__file__).parent / "libcuda.c")]
    subprocess.run(command, check=True)
    library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    library.stub_launches.restype = ctypes.c_uint64
    library.stub_parameters.argtypes = ctypes.c_uint64, ctypes.c_uint32, ctypes.c_char_p
    triton.knobs.nvidia.libcuda_path = _folder.name  # only read when its own C code is linked
    return library
