"""Small maps, where a launch takes as long as the work: replays of a CUDA graph, next to an
identity kernel on the same grid, and the wall time of an eager call.

The buffers take turns, so that no replay finds its maps in a cache. Without a GPU there is no
graph, and both columns are of plain calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor
from tqdm import tqdm

from akm_triton.launch import choice
from akm_triton.launch.device import describe
from akm_triton.launch.problem import Problem
from akm_triton.tuning.workload import Workload
from bench import providers, timing
from bench.sweep import Row, Setting, Sweep, grid, maps, note, rounded, title

# each in a network at batch 32 and at batch 256
MAPS = (
    (32, 512, 7, 7), (256, 256, 14, 14), (32, 128, 28, 28), (256, 512, 7, 7), (32, 256, 14, 14),
    (256, 128, 28, 28),
)  # fmt: skip
TINY = ((2, 2, 7, 7),)
RADIUS = 7
OPS = ("blur", "blur_backward")
ROTATED = 256 << 20  # bytes of all buffers, several times any L2 cache
RIVALS = (("conv2d separable", providers.conv2d), ("Toeplitz products", providers.toeplitz))


@triton.jit
def identity_kernel(  # type: ignore[no-untyped-def]  # Triton's language, not Python's
    g_ptr, z_ptr, y_ptr, numel, PER_PROGRAM: tl.constexpr, BLOCK: tl.constexpr, TWO: tl.constexpr
):
    """y = z, or g + z: what a blur, or its gradient, moves at least."""
    start = tl.program_id(0).to(tl.int64) * PER_PROGRAM
    for step in range(0, PER_PROGRAM, BLOCK):
        at = step + tl.arange(0, BLOCK)
        offs, mask = start + at, (at < PER_PROGRAM) & (start + at < numel)
        y = tl.load(z_ptr + offs, mask)
        if TWO:
            y += tl.load(g_ptr + offs, mask)
        tl.store(y_ptr + offs, y, mask)


def identity(work: Workload, programs: int, turn: int) -> Tensor:
    z, g = work.z[turn], work.g[turn]
    y = torch.empty_like(z)
    each = -(-z.numel() // (8 * programs)) * 8  # so that accesses stay wide
    identity_kernel[(programs,)](
        g, z, y, z.numel(), PER_PROGRAM=each, BLOCK=1024, TWO=work.g is not work.z, num_warps=4
    )
    return y


def measure(setting: Setting) -> Iterator[list[Row]]:
    dtypes = setting.dtypes_or(("float16",), "float16", "float32")
    cases = list(product(dtypes, setting.choose((), MAPS, TINY), (False, True), OPS))
    for dtype, shape, last, op in tqdm(cases, desc="small-maps", unit="point"):
        yield list(_point(setting, dtype, shape, last, op))


def _point(
    setting: Setting, dtype: torch.dtype, shape: tuple[int, ...], last: bool, op: str
) -> Iterator[Row]:
    n, c, h, w = shape
    problem = Problem(op, n, c, h, w, RADIUS, "zeros", dtype.itemsize, last)
    device = describe(setting.device)
    copies = min(64, -(-ROTATED // problem.bytes)) if setting.cuda else 2
    work = Workload(problem, setting.device, copies, dtype)
    programs = choice.choose(problem, device).grids[0].programs
    sigma = torch.linspace(1.0, 2.5, c, device=setting.device)
    makers: dict[str, Callable[[int], timing.Call]] = {
        providers.OURS.name: lambda turn: lambda: work.run(turn=turn),
        "identity": lambda turn: lambda: identity(work, programs, turn),
    }
    if op == "blur":  # a rival's gradient is not one call that a graph could hold
        for name, build in RIVALS:
            makers[name] = lambda turn, build=build: build(work.z[turn], sigma, RADIUS)  # type: ignore[misc]
    about = {**maps(shape, dtype, last), "kernel": 2 * RADIUS + 1, "op": op}
    graphs: dict[str, timing.Call] = {}
    one: dict[str, timing.Call] = {}
    with torch.no_grad():
        for name, make in makers.items():
            try:
                calls = [make(turn) for turn in range(copies)]
                graphs[name], one[name] = timing.graph(calls, setting.device), calls[0]
            except Exception as error:  # compilers, drivers and captures raise all kinds
                yield {**about, "provider": name, "status": "failed", "note": note(error)}
        found = timing.interleaved(graphs, setting.device, setting.budget.seconds)
        walls = timing.interleaved(one, setting.device, setting.budget.seconds / 4)
    for name, q in found.items():
        p20, p50, p80 = (x / copies for x in (q.p20, q.p50, q.p80))
        base = found.get("identity", q)
        wall, ratio = walls[name].p50, q.p50 / base.p50
        yield {
            **about, "provider": name, "status": "ok", "bytes": problem.bytes, "programs": programs,
            **rounded(p20=p20, p50=p50, p80=p80, wall=wall, by_identity=ratio),
        }  # fmt: skip


def table(rows: list[Row]) -> str:
    lines = [
        [
            title(row["shape"]), row["dtype"], row["layout"], row["op"], row["provider"],
            f"{1e6 * row['p50']:.1f}", f"{1e6 * row['wall']:.1f}", f"{row['by_identity']:.2f}×",
        ]
        for row in rows
        if row["status"] == "ok"
    ]  # fmt: skip
    header = ["map", "dtype", "layout", "op", "provider", "kernel µs", "wall µs", "by identity"]
    notes = [
        f"{r['provider']}, {title(r['shape'])}: {r['note']}" for r in rows if r["status"] != "ok"
    ]
    return "\n".join([f"K = {2 * RADIUS + 1}", grid(header, lines), *notes])


SWEEP = Sweep("small-maps", measure, table, __doc__)
main = SWEEP.main
