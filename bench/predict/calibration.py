"""What the model says of kernels whose speed on an H100 is known."""

from __future__ import annotations

import functools
from typing import Any

import torch

from akm_triton.tuning.compiler import KernelCall, compile_call
from bench.predict import known_kernels
from bench.predict.estimate import estimate
from bench.predict.machine import MACHINES
from bench.predict.sass import disassemble
from bench.predict.work import Work

CAPABILITY = 90
COPIED = 1 << 28  # elements of float16
SIDE, TILE = 8192, (128, 256, 64)


@functools.cache
def calibration() -> list[dict[str, Any]]:
    """A row for each kernel: what it reaches by the model on an H100, and what is known of it."""
    machine = MACHINES["H100"]
    found = []
    for block, num_warps in ((1024, 4), (4096, 4), (8192, 8)):
        work = _copy(block, num_warps)
        seconds = estimate(work, disassemble(work.cubin), machine).seconds
        found.append({
            "kernel": f"copy, blocks of {block}", "unit": "of the machine's copy rate",
            "model": round(work.bytes / machine.dram / seconds, 3), "known": "0.95 to 1",
        })  # fmt: skip
    work = _matmul()
    seconds = estimate(work, disassemble(work.cubin), machine).seconds
    found.append({
        "kernel": f"matrix product of {SIDE}²", "unit": "TFLOP/s",
        "model": round(2 * SIDE**3 / seconds / 1e12), "known": "600 to 700",
    })  # fmt: skip
    return found


def stated(rows: list[dict[str, Any]]) -> str:
    """The calibration in a line, to stand beside every figure."""
    copies = [row["model"] for row in rows if row["kernel"].startswith("copy")]
    product = next(row["model"] for row in rows if row["kernel"].startswith("matrix"))
    return (
        f"Calibration: a copy kernel comes out at {min(copies):.2f} to {max(copies):.2f} of a "
        f"copy, a matrix product at {product} TFLOP/s of the 600 to 700 known; no kernel that is "
        "bound by latency was compared"
    )


def _empty(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.float16, device="meta")


def _copy(block: int, num_warps: int) -> Work:
    x = _empty(COPIED)
    call = KernelCall(known_kernels.copy_kernel, x, x, BLOCK=block, num_warps=num_warps)
    return _work(call, COPIED // block, 1, reads=2 * block, requests=2 * block, writes=2 * block)


def _matmul() -> Work:
    """What its programs ask of L2 and, each matrix once, of DRAM."""
    x, (m, n, k) = _empty(SIDE, SIDE), TILE
    call = KernelCall(
        known_kernels.matmul_kernel, x, x, x, N=SIDE, K=SIDE,
        BLOCK_M=m, BLOCK_N=n, BLOCK_K=k, num_warps=8, num_stages=3,
    )  # fmt: skip
    programs = SIDE // m * (SIDE // n)
    return _work(
        call, programs, SIDE // k,
        reads=2 * 2 * SIDE**2 / programs, requests=2 * (m + n) * SIDE, writes=2 * m * n,
    )  # fmt: skip


def _work(
    call: KernelCall, programs: int, rounds: int, *, reads: float, requests: float, writes: float
) -> Work:
    compiled = compile_call(call, CAPABILITY)
    return Work(
        call.name, compiled.asm["cubin"], call.options["num_warps"], compiled.metadata.shared,
        programs, rounds, 1, reads=reads, requests=requests, writes=writes,
    )  # fmt: skip
