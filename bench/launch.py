"""Host time of a call: all that Python and PyTorch do before the driver is asked to launch.

The launch itself is left out, so it runs without a GPU. PyTorch's share is what the allocations
and views of a forward take when they are called bare; the rest is this package's own. On a GPU,
PyTorch runs a backward in another thread, where launches are not left out, so their time is
included.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # which lets the kernels' path take CPU tensors

import akm_triton as akm
from akm_triton.backend import triton as triton_backend
from akm_triton.launch.device import H200
from bench import timing
from bench.sweep import Row, Setting, Sweep, grid, rounded

SHAPE = (32, 64, 28, 28)


def calls(device: torch.device) -> dict[str, timing.Call]:
    z = torch.zeros(SHAPE, dtype=torch.float16, device=device)
    r, s = torch.ones(SHAPE[1], device=device), torch.zeros(SHAPE[1], device=device)
    g = torch.zeros_like(z)
    leaves = [x.clone().requires_grad_() for x in (z, r, s)]

    def forward() -> object:
        with torch.no_grad():
            return akm.modulate(z, r, s, backend="triton")

    def backward() -> object:
        return torch.autograd.grad(akm.modulate(*leaves, backend="triton"), leaves, g)

    return {
        "forward, no gradients": forward,
        "forward, PyTorch's share": _share(device),
        "forward": lambda: akm.modulate(*leaves, backend="triton"),
        "forward+backward": backward,
    }


def _share(device: torch.device) -> Callable[[], object]:
    """Every call of torch that a forward makes."""
    y = torch.zeros(SHAPE, dtype=torch.float16, device=device)
    r, t = torch.ones(SHAPE[1], device=device), torch.zeros(2, SHAPE[1], 16, device=device)

    def share() -> object:
        with torch.no_grad():
            torch.empty((2, SHAPE[1], 16), dtype=torch.float32, device=device)
            torch.empty_like(y, memory_format=torch.contiguous_format)
            a, b = t.unbind(0)
            for x in (r, r, a, b):
                x.contiguous()
            return y.stride(), y.is_contiguous(), y.to(y.dtype)

    return share


def measure(setting: Setting) -> Iterator[list[Row]]:
    with triton_backend.launching(lambda *args, **constants: None, None if setting.cuda else H200):
        every = calls(setting.device)
        for call in every.values():
            call()
        measured = timing.interleaved(every, setting.device, 2 * setting.budget.seconds)
    yield [{"call": name, "status": "ok", **rounded(**vars(q))} for name, q in measured.items()]


def table(rows: list[Row]) -> str:
    return grid(
        ["call", "µs", "p20", "p80"],
        [[row["call"], *(f"{1e6 * row[q]:.1f}" for q in ("p50", "p20", "p80"))] for row in rows],
    )


SWEEP = Sweep("launch", measure, table, __doc__)
main = SWEEP.main
