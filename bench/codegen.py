"""What the compiler makes of every kernel the rule chooses, read from the machine code. No GPU.

The launches of every order of derivative are recorded on meta tensors, compiled ahead of time for
each target, and disassembled with the tools in triton's own package.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from akm_triton.borders import BORDERS, SELF_ADJOINT
from akm_triton.tuning.compiler import KernelCall, compile_call, inspect

TARGETS = (80, 89, 90, 100, 120)
DTYPES = ("float16", "bfloat16", "float32")
LAYOUTS = ("nchw", "channels_last")
SIZES = (7, 14, 28, 32, 56, 64, 112, 224)
SHARED_LIMIT = {80: 166_912, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
"""Shared memory a program may have, by compute capability (CUDA C++ Programming Guide)."""


@dataclass(frozen=True)
class Row:
    kernel: str
    target: str
    dtype: str
    layout: str
    shape: int
    radius: int
    registers: int
    spills: int
    shared_bytes: int
    widest_load_bytes: int
    tensor_core_ops: int


def launches(
    dtype: str,
    layout: str,
    shape: tuple[int, int],
    radius: int,
    target: int,
    border: str = "symmetric",
    batch: tuple[int, int] = (32, 64),
) -> list[KernelCall]:
    """The launches of all orders of derivative at (*batch, *shape), of 132 multiprocessors."""
    from akm_triton.backend import triton as backend
    from akm_triton.launch.device import Device

    found: list[KernelCall] = []

    def record(*args: Any, **constants: Any) -> None:
        found.append(KernelCall(*args, **constants))

    z = torch.empty((*batch, *shape), dtype=getattr(torch, dtype), device="meta")
    if layout == "channels_last":
        z = z.contiguous(memory_format=torch.channels_last)
    r = torch.empty(batch[1], device="meta")
    t = torch.empty(2, batch[1], radius + 1, device="meta")
    window = True, radius, "discrete", None
    device = Device(f"sm_{target}", 132, target, SHARED_LIMIT[target])
    with backend.launching(record, device):
        backend.gated_taps(r, r, *window)
        backend.blur(z, t, border, False)
        backend.blur_backward(z, z, t, border)
        backend.blur_pair(z, t, t, border, border not in SELF_ADJOINT)
        if border not in SELF_ADJOINT:
            backend.blur(z, t, border, True)
        backend.gated_taps_grad(r, r, t, *window)
        backend.gated_taps_grad_grad(r, r, t, r, r, *window)
    return found


Case = tuple[str, str, tuple[int, int], int, int, str, tuple[int, int]]
"""The arguments of ``launches``."""


def compiled(cases: list[Case]) -> Iterator[list[tuple[str, dict[str, int]]]]:
    """For each case, in order, its kernels with what ``inspect`` finds; as many compilers run side
    by side as there are processors."""

    def inspected(case: Case, recorded: list[KernelCall]) -> list[tuple[str, dict[str, int]]]:
        return [(launch.name, inspect(compile_call(launch, case[4]))) for launch in recorded]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(inspected, cases, [launches(*case) for case in cases])


def table(
    targets: tuple[int, ...],
    dtypes: tuple[str, ...],
    layouts: tuple[str, ...],
    sizes: tuple[int, ...],
    radii: tuple[int, ...],
) -> Iterator[Row]:
    """A row for each kernel of each case of the grid, in order."""
    cases: list[Case] = [
        (dtype, layout, (size, size), radius, target, "symmetric", (32, 64))
        for dtype, layout, size, radius, target in product(dtypes, layouts, sizes, radii, targets)
    ]
    for case, found in zip(cases, compiled(cases), strict=True):
        dtype, layout, (size, _), radius, target, *_ = case
        for name, facts in found:
            yield Row(name, f"sm_{target}", dtype, layout, size, radius, **facts)


def sample(count: int, seed: int, targets: tuple[int, ...]) -> list[Case]:
    """Any maps, radii and borders that the kernels take, each on all targets."""
    draw = random.Random(seed)

    def side() -> int:
        return round(2 ** draw.uniform(0, 9))

    cases: list[Case] = []
    for _ in range(count):
        what = draw.choice(DTYPES), draw.choice(LAYOUTS)
        shape, radius, border = (side(), side()), draw.randint(1, 31), draw.choice(BORDERS)
        batch = round(2 ** draw.uniform(0, 8)), round(2 ** draw.uniform(0, 9))
        cases += [(*what, shape, radius, target, border, batch) for target in targets]
    return cases


def main(argv: list[str] | None = None) -> None:
    from tqdm import tqdm

    from bench.results import write_json

    parser = argparse.ArgumentParser(prog="python -m bench codegen", description=__doc__)
    parser.add_argument("--out", type=Path, help="a .json file for the rows")
    parser.add_argument("--target", type=int, nargs="+", default=TARGETS, help="sm_XX")
    parser.add_argument("--dtype", nargs="+", default=DTYPES, choices=DTYPES)
    parser.add_argument("--layout", nargs="+", default=LAYOUTS, choices=LAYOUTS)
    parser.add_argument("--size", type=int, nargs="+", default=SIZES)
    parser.add_argument("--radius", type=int, nargs="+", default=(15,))
    parser.add_argument("--sample", type=int, help="so many random cases instead of the grid")
    args = parser.parse_args(argv)
    if os.environ.get("TRITON_INTERPRET") == "1":
        sys.exit("codegen compiles: run it without TRITON_INTERPRET")
    if args.sample:
        _main_sample(sample(args.sample, 0, tuple(args.target)), args.out)
        return
    header = (
        f"{'kernel':24} {'target':7} {'dtype':9} {'layout':14} {'map':>4} {'R':>3} "
        f"{'regs':>4} {'spills':>6} {'shared':>7} {'load':>5} {'mma':>4}"
    )
    print(header)
    rows = []
    options = (args.target, args.dtype, args.layout, args.size, args.radius)
    for row in tqdm(table(*map(tuple, options)), unit="kernel", leave=False):
        rows.append(asdict(row))
        tqdm.write(
            f"{row.kernel:24} {row.target:7} {row.dtype:9} {row.layout:14} {row.shape:4} "
            f"{row.radius:3} {row.registers:4} {row.spills:6} {row.shared_bytes:7} "
            f"{row.widest_load_bytes:3} B {row.tensor_core_ops:4}"
        )
    if args.out:
        write_json(args.out, rows)
        print(f"{len(rows)} rows in {args.out}")


def _main_sample(cases: list[Case], path: Path | None) -> None:
    from tqdm import tqdm

    from bench.results import write_json

    rows: list[dict[str, object]] = []
    for case, found in tqdm(zip(cases, compiled(cases), strict=True), total=len(cases)):
        dtype, layout, (h, w), radius, target, border, (n, c) = case
        for name, facts in found:
            maps = {"dtype": dtype, "layout": layout, "shape": [n, c, h, w], "radius": radius}
            rows.append(
                {"kernel": name, "target": f"sm_{target}", **maps, "border": border, **facts}
            )
            if facts["spills"]:
                tqdm.write(f"{facts['spills']} spills: {rows[-1]}")
    spilling = sum(1 for row in rows if row["spills"])
    print(f"{len(rows)} kernels of {len(cases)} cases, {spilling} with spills")
    if path:
        write_json(path, rows)


if __name__ == "__main__":
    main()
