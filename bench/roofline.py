"""Every kernel on the roofline of the device. Both ceilings are measured in the same run."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from tqdm import tqdm

from akm_triton.backend import torch as torch_backend
from akm_triton.launch.problem import OPS, Problem
from akm_triton.tuning.workload import Workload
from bench import timing
from bench.sweep import Row, Setting, Sweep, grid, maps, name_of, note, rounded, title

RADII = (15, 3)
MAPS_CPU, MAPS_CUDA, TINY = ((8, 64, 28, 28),), ((1024, 256, 28, 28), (64, 64, 224, 224)), (
    (1, 2, 9, 8),
)  # fmt: skip
# Passes along an axis, each of a multiplication and an addition for a tap and element: what the
# work is by its definition, whatever a kernel makes of it.
PASSES = {
    "blur": 2, "blur_adjoint": 2, "blur_pair": 4, "blur_pair_adjoint": 4, "tap_grads": 4,
    "blur_backward": 5,
}  # fmt: skip


def operations(problem: Problem) -> float:
    elements = problem.n * problem.c * problem.h * problem.w
    return 2.0 * PASSES[problem.op] * (2 * problem.radius + 1) * elements


def measure(setting: Setting) -> Iterator[list[Row]]:
    """First the ceilings, a row for each dtype's copy and matrix product; then a row for each
    kernel with what it moves at least and computes by definition, and rates of both."""
    dtypes = setting.dtypes_or(("float32",), "float16", "float32")
    found = _ceilings(setting, dtypes)
    yield found
    copies = {row["dtype"]: row["rate"] for row in found if row["kernel"] == "copy"}
    shapes, radii = setting.choose(MAPS_CPU, MAPS_CUDA, TINY), setting.choose(RADII, RADII, (3,))
    cases = list(product(shapes, radii, dtypes, (False, True), OPS))
    for (n, c, h, w), radius, dtype, last, op in tqdm(cases, desc="roofline", unit="kernel"):
        problem = Problem(op, n, c, h, w, radius, "symmetric", dtype.itemsize, last)
        row: Row = {
            "kernel": op, **maps((n, c, h, w), dtype, last), "radius": radius,
            "problem": problem.key, "bytes": problem.bytes, "operations": operations(problem),
        }  # fmt: skip
        try:
            row |= _timed(problem, setting, dtype, copies[name_of(dtype)])
        except Exception as error:  # compilers and drivers raise all kinds
            row |= {"status": "failed", "note": note(error)}
        yield [row]


def _timed(problem: Problem, setting: Setting, dtype: torch.dtype, copy: float) -> Row:
    work = Workload(problem, setting.device, dtype=dtype)
    call = _call(work)
    call()
    q = timing.interleaved({"": call}, setting.device, setting.budget.seconds / 5)[""]
    rates = {"rate": problem.bytes / q.p50, "flops": operations(problem) / q.p50}
    return {"status": "ok", **rounded(**vars(q), **rates, of_copy=problem.bytes / q.p50 / copy)}


def _call(work: Workload) -> timing.Call:
    """The op as users launch it; on a CPU, the same op in plain PyTorch."""
    p, taps = work.problem, work.taps
    if work.device.type == "cuda":
        return work.run
    z, g = work.z[0], work.g[0]
    if p.op in ("tap_grads", "blur_backward"):
        gradient: Any = getattr(torch_backend, p.op)
        return lambda: gradient(g, z, *taps, p.border)
    blur: Any = torch_backend.blur_pair if p.pair else torch_backend.blur
    return lambda: blur(z, *taps, p.border, p.adjoint)


def _ceilings(setting: Setting, dtypes: tuple[torch.dtype, ...]) -> list[Row]:
    """Bytes a second of a copy far larger than the caches, operations a second of a product."""
    size = setting.choose(1 << 27, 1 << 29, 1 << 14)
    side = setting.choose(1024, 8192, 32)
    calls: dict[tuple[str, str], timing.Call] = {}
    for dtype in dtypes:
        x = torch.randn(size // dtype.itemsize, device=setting.device).to(dtype)
        a = torch.randn(side, side, device=setting.device).to(dtype)
        calls["copy", name_of(dtype)] = _copy(x)
        calls["matmul", name_of(dtype)] = _product(a)
    for call in calls.values():
        call()
    named = {"/".join(key): call for key, call in calls.items()}
    measured = timing.interleaved(named, setting.device, setting.budget.seconds)
    rows = []
    for kernel, kind in calls:
        q = measured[f"{kernel}/{kind}"]
        work, unit = (2.0 * size, "bytes/s") if kernel == "copy" else (2.0 * side**3, "flop/s")
        figures = rounded(**vars(q), rate=work / q.p50)
        rows.append({"kernel": kernel, "dtype": kind, "status": "ok", "unit": unit, **figures})
    return rows


def _copy(x: torch.Tensor) -> timing.Call:
    y = torch.empty_like(x)
    return lambda: y.copy_(x)


def _product(a: torch.Tensor) -> timing.Call:
    return lambda: a @ a


def ceilings(rows: list[Row]) -> dict[tuple[str, str], float]:
    """("copy" or "matmul", dtype) to the rate."""
    return {(row["kernel"], row["dtype"]): row["rate"] for row in rows if "unit" in row}


def kernels(rows: list[Row]) -> list[Row]:
    return [row for row in rows if "problem" in row]


def table(rows: list[Row]) -> str:
    lines = [
        f"{kernel:7} {dtype:9} {rate:9.3g}" for (kernel, dtype), rate in ceilings(rows).items()
    ]
    cells = []
    for row in kernels(rows):
        what = [
            row["kernel"], title(row["shape"]), row["dtype"], row["layout"], f"R={row['radius']}",
        ]  # fmt: skip
        if row["status"] == "ok":
            intensity = row["operations"] / row["bytes"]
            rates = [f"{row['rate'] / 1e9:.1f}", f"{row['flops'] / 1e9:.1f}"]
            cells.append([*what, f"{intensity:.1f}", *rates, f"{row['of_copy']:.2f}"])
        else:
            cells.append([*what, row["note"][:30], "–", "–", "–"])
    header = ["kernel", "map", "dtype", "layout", "radius", "flop/byte", "GB/s", "Gflop/s"]
    return "\n".join([*lines, "", grid([*header, "of copy"], cells)])


SWEEP = Sweep("roofline", measure, table, __doc__)
main = SWEEP.main
