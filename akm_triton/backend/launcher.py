"""How a kernel is launched: the first time by Triton's ordinary way, then by the short one.

Triton's ``kernel[grid](...)`` looks at every argument of every launch, in Python, to find the
binary that it compiled for arguments like these. A ``Launcher`` is made for arguments that are all
fixed but the addresses of tensors, so it keeps the binary of its first launch and from then on
hands addresses and numbers to Triton's launcher in C. That takes names private to Triton; they were
tried on the versions that ``TRIED`` covers. Every launch is an ordinary one on another version,
with a tensor not aligned to 16 bytes, and while anyone listens to launches, as profilers do.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources

from akm_triton.launch.device import Device
from akm_triton.tracing import in_graph

_runtime = triton.knobs.runtime
INTERPRET: bool = _runtime.interpret

_VERSION = tuple(int(part) for part in triton.__version__.split(".")[:2])
OPTIONS = {"enable_fp_fusion": True}
"""Of Triton's compiler, for every kernel: said because the default depends on the version."""

TRIED = (3, 6) <= _VERSION <= (3, 9)
"""Whether the private names of Triton used here were tried on this version."""


class _Interception(threading.local):
    instead: Callable[..., None] | None = None
    device: Device | None = None


interception = _Interception()


@contextlib.contextmanager
def launching(
    instead: Callable[..., None] | None = None, device: Device | None = None
) -> Iterator[None]:
    """In this thread, call ``instead(kernel, *args, **constants)``, if given, in place of a launch,
    and plan for ``device``, if given, whose tensors those of the CPU may stand for."""
    before = interception.instead, interception.device
    interception.instead, interception.device = instead, device
    try:
        yield
    finally:
        interception.instead, interception.device = before


def takes(z: Tensor) -> bool:
    """Whether kernels can be launched on z: on a GPU, or where something stands in for one."""
    return z.is_cuda or INTERPRET or interception.device is not None


class Pointer(NamedTuple):
    """An argument of a kernel: a tensor by its place among those of the call, or ``tensor[part]``
    of one that is contiguous."""

    tensor: int
    part: int | None = None


class Launcher:
    """Launches ``kernel`` whenever it is called, on the tensors of the call, whose shapes, strides,
    dtypes and device are those of the first call.

    Args:
        programs: how many run.
        arguments: of the kernel, in its order: numbers, and a Pointer for each tensor.
        constants: by name: compile-time arguments, tensors that stay the same, Triton's options.
    """

    __slots__ = (
        "_arrange",
        "_compiled",
        "_current_device",
        "_current_stream",
        "_device",
        "_direct",
        "_numbers",
        "_parts",
        "arguments",
        "constants",
        "kernel",
        "programs",
    )  # fmt: skip

    def __init__(
        self, kernel: Any, programs: int, arguments: tuple[Any, ...], constants: dict[str, Any]
    ) -> None:
        self.kernel, self.programs = kernel, programs
        self.arguments, self.constants = arguments, constants
        self._direct: Callable[[int, tuple[int, ...]], None] | None = None

    def __call__(self, *tensors: Tensor) -> None:
        if self._direct is None or _observed():
            self._ordinary(tensors)
            return
        addresses, either = [], 0
        for x in tensors:
            address = x.data_ptr()
            addresses.append(address)
            either |= address
        if either & 15:
            self._ordinary(tensors)
            return
        if self._current_device() != self._device:
            with torch.cuda.device(self._device):
                self(*tensors)
            return
        for i, offset in self._parts:
            addresses.append(addresses[i] + offset)
        addresses += self._numbers
        self._direct(self._current_stream(self._device), self._arrange(addresses))

    def _ordinary(self, tensors: tuple[Tensor, ...]) -> None:
        args = [_argument(x, tensors) for x in self.arguments]
        kernel, constants, x = self.kernel, self.constants, tensors[0]
        if interception.instead is not None:
            interception.instead(kernel, *args, **constants)
        elif in_graph(x):  # leave a node for it in the graph that is being traced
            lift = torch.ops.aten.lift_fresh  # for tensors that come from outside the graph
            lifted = {k: lift(v) if isinstance(v, Tensor) else v for k, v in constants.items()}
            torch.library.wrap_triton(kernel)[(self.programs,)](*args, **lifted)
        else:
            with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
                compiled = self._launched(args)
                if self._direct is None and not INTERPRET:
                    self._bind(compiled, tensors)

    def _launched(self, args: list[Any]) -> Any:
        """Launch. Where the plan's tiles want more shared memory than the device has, then with
        fewer of them loaded ahead."""
        while True:
            try:
                return self.kernel[(self.programs,)](*args, **self.constants, **OPTIONS)
            except OutOfResources:
                stages = self.constants.get("num_stages", 1)
                if stages == 1:
                    raise
                self.constants = self.constants | {"num_stages": stages - 1}

    def _bind(self, compiled: Any, tensors: tuple[Tensor, ...]) -> None:
        """Make later launches short ones, where they may be."""
        direct = _direct(compiled, self.programs)
        if direct is None or any(x.data_ptr() & 15 for x in tensors):
            return
        # what ``_arrange`` finds: the addresses of tensors, those of parts of them, and numbers
        parts = [x for x in self.arguments if isinstance(x, Pointer) and x.part is not None]
        self._parts = [
            (x.tensor, _argument(x, tensors).data_ptr() - tensors[x.tensor].data_ptr())
            for x in parts
        ]
        self._numbers: list[Any] = []
        order = []
        values = dict(zip(self.kernel.arg_names, self.arguments, strict=False)) | self.constants
        for value in (values[name] for name in self.kernel.arg_names):
            if not isinstance(value, Pointer):
                order.append(len(tensors) + len(parts) + len(self._numbers))
                self._numbers.append(value.data_ptr() if isinstance(value, Tensor) else value)
            elif value.part is None:
                order.append(value.tensor)
            else:
                order.append(len(tensors) + parts.index(value))
        self._arrange = itemgetter(*order)
        driver = triton.runtime.driver.active
        self._current_device = driver.get_current_device
        self._current_stream = driver.get_current_stream
        self._device = self._current_device()
        self._compiled = compiled  # or it would be unloaded
        self._direct = direct


def _argument(x: Any, tensors: tuple[Tensor, ...]) -> Any:
    if not isinstance(x, Pointer):
        return x
    return tensors[x.tensor] if x.part is None else tensors[x.tensor][x.part]


def _observed() -> bool:
    """Whether somebody wants to see launches or compilations."""
    enter, leave = _runtime.launch_enter_hook, _runtime.launch_exit_hook
    return bool(
        interception.instead is not None
        or getattr(enter, "calls", enter)
        or getattr(leave, "calls", leave)
        or _runtime.add_stages_inspection_hook is not None
    )


def _direct(compiled: Any, programs: int) -> Callable[[int, tuple[int, ...]], None] | None:
    """``(stream, arguments)`` to a launch of this binary by Triton's C code; None where that is not
    known to be all that its Python would do."""
    if not TRIED:
        return None
    from triton.backends.nvidia.driver import CudaLauncher

    run = getattr(compiled, "run", None)
    if not isinstance(run, CudaLauncher) or getattr(run, "gsan_enabled", False):
        return None
    if run.global_scratch_size or run.profile_scratch_size:
        return None
    launch, function, packed = run.launch, compiled.function, compiled.packed_metadata
    how = run.launch_cooperative_grid, run.launch_pdl
    nobody = None, None, None  # neither metadata for hooks nor hooks
    if _VERSION < (3, 7):

        def direct(stream: int, arguments: tuple[int, ...]) -> None:
            launch(programs, 1, 1, stream, function, *how, None, None, packed, *nobody, *arguments)

    else:
        annotations, signature = run.arg_annotations, run.kernel_signature

        def direct(stream: int, arguments: tuple[int, ...]) -> None:
            launch(
                programs, 1, 1, stream, function, *how, packed, *nobody, None, None,
                annotations, signature, arguments,
            )  # fmt: skip

    return direct
