"""Host time of a call: all that Python, PyTorch and Triton do until the driver has its launches.

Without a GPU, Triton's own launcher runs into a driver that launches nothing, and the time is that
of the processor, which other programs disturb least. A real driver adds two or three microseconds a
launch. On a GPU it is wall time, of maps so small that the GPU waits for the host. Beside them
stands a kernel that copies, launched as Triton's tutorials do, ``kernel[grid](...)``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl

import akm_triton as akm
from akm_triton.launch.device import H200
from bench import stub, timing
from bench.sweep import Row, Setting, Sweep, grid, rounded

SHAPE = (32, 64, 28, 28)
IDENTITY = "identity kernel, plain launch"


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

    def bare() -> object:
        return torch.autograd.grad(_Bare.apply(*leaves), leaves, g)

    return {
        IDENTITY: _identity(device),
        "forward, no gradients": forward,
        "forward": lambda: akm.modulate(*leaves, backend="triton"),
        "forward+backward": backward,
        "a node of autograd that only allocates, forward+backward": bare,
    }


class _Bare(torch.autograd.Function):
    """What any op written in Python takes."""

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor, r: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(z, r, s)
        return torch.empty_like(z)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        _, r, s = ctx.saved_tensors
        return torch.empty_like(g), torch.empty_like(r), torch.empty_like(s)


@triton.jit
def identity_kernel(  # type: ignore[no-untyped-def]  # Triton's language, not Python's
    x_ptr, y_ptr, n, BLOCK: tl.constexpr
):  # fmt: skip
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + i, tl.load(x_ptr + i, mask=i < n), mask=i < n)


def _identity(device: torch.device) -> timing.Call:
    x, y = (torch.zeros(4096, device=device) for _ in range(2))
    return lambda: identity_kernel[(4,)](x, y, 4096, BLOCK=1024)


def measure(setting: Setting) -> Iterator[list[Row]]:
    reason = None if setting.cuda else stub.why_not()
    if reason is not None:
        yield [{"call": IDENTITY, "status": "skipped", "reason": reason}]
        return
    driver = contextlib.nullcontext() if setting.cuda else stub.driver(H200)
    clock = time.perf_counter if setting.cuda else time.thread_time
    with driver:
        every = calls(setting.device)
        for call in every.values():
            call()
            call()  # the first launch prepares what the next ones use
        seconds = 3 * setting.budget.seconds
        measured = timing.interleaved(every, setting.device, seconds, clock)
    unit = measured[IDENTITY]
    yield [
        {"call": name, "status": "ok", **rounded(**vars(q), of_identity=q.p20 / unit.p20)}
        for name, q in measured.items()
    ]


def table(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        if row["status"] == "ok":
            times = [f"{1e6 * row[q]:.1f}" for q in ("p20", "p50", "p80")]
            lines.append([row["call"], *times, f"{row['of_identity']:.1f}"])
    skipped = [f"skipped: {row['reason']}" for row in rows if row["status"] == "skipped"]
    return "\n".join([grid(["call", "p20 µs", "p50", "p80", "× identity"], lines), *skipped])


SWEEP = Sweep("launch", measure, table, __doc__)
main = SWEEP.main
