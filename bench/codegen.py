"""What the compiler makes of every kernel the rule chooses, read from the machine code. No GPU.

The launches of every order of derivative are recorded on meta tensors, compiled ahead of time for
each target, and disassembled with the tools in triton's own package.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import torch

TARGETS = (80, 89, 90, 100, 120)
DTYPES = ("float16", "bfloat16", "float32")
LAYOUTS = ("nchw", "channels_last")
SIZES = (7, 14, 28, 32, 56, 64, 112, 224)
SHARED_LIMIT = {80: 166_912, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
"""Shared memory a program may have, by compute capability (CUDA C++ Programming Guide)."""

_TYPES = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
}


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


@dataclass(frozen=True)
class Launch:
    """One kernel with its arguments bound by name."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, int]

    @property
    def name(self) -> str:
        outputs = [x for x in ("dz", "da", "db") if self.arguments.get(f"NEED_{x.upper()}")]
        outputs += ["pair"] if self.arguments.get("PAIR") else []
        return self.kernel.__name__ + (f"({','.join(outputs)})" if outputs else "")


class _Recorder:
    def __init__(self, kernel: Any, launches: list[Launch]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: Any) -> Any:
        def launch(*args: Any, **kwargs: Any) -> None:
            names = [name for name in ("num_warps", "num_stages") if name in kwargs]
            options: dict[str, int] = {name: kwargs.pop(name) for name in names}
            bound = dict(zip(self.kernel.arg_names, args, strict=False)) | kwargs
            self.launches.append(Launch(self.kernel, bound, options))

        return launch


def launches(
    dtype: str,
    layout: str,
    shape: tuple[int, int],
    radius: int,
    target: int,
    border: str = "symmetric",
) -> list[Launch]:
    """The launches of all orders of derivative at (32, 64, *shape), of 132 multiprocessors."""
    from akm_triton.backend import kernels, tap_kernels
    from akm_triton.backend import triton as backend
    from akm_triton.tuning.problem import Device

    found: list[Launch] = []
    z = torch.empty((32, 64, *shape), dtype=getattr(torch, dtype), device="meta")
    if layout == "channels_last":
        z = z.contiguous(memory_format=torch.channels_last)
    table = torch.empty(64, radius + 1, device="meta")
    r = torch.empty(64, device="meta")
    tables, window = torch.stack([table, table]), (True, radius, "discrete", None)
    device = Device(f"sm_{target}", 132, target, SHARED_LIMIT[target])
    with mock.patch.object(backend, "describe", lambda _: device):
        with contextlib.ExitStack() as patches:
            for module, name in (
                (kernels, "blur_kernel"),
                (kernels, "grad_kernel"),
                (tap_kernels, "tables_kernel"),
                (tap_kernels, "tables_grad_kernel"),
                (tap_kernels, "tables_grad_grad_kernel"),
            ):
                recorder = _Recorder(getattr(module, name), found)
                patches.enter_context(mock.patch.object(module, name, recorder))
            backend.tables(r, r, *window)
            backend.blur(z, table, table, border, False)
            backend.blur_backward(z, z, table, table, border)
            backend.blur_pair(z, table, table, table, table, border, True)
            backend.tables_grad(r, r, tables, *window)
            backend.tables_grad_grad(r, r, tables, r, r, *window)
    return found


def compile_launch(launch: Launch, capability: int) -> Any:
    """Compile ahead of time what the launcher would compile on the device."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for i, name in enumerate(launch.kernel.arg_names):
        value = launch.arguments[name]
        if isinstance(value, torch.Tensor):
            signature[name] = _TYPES[value.dtype]
            attributes[(i,)] = [["tt.divisibility", 16]]
        elif launch.kernel.params[i].is_constexpr or value == 1:
            signature[name] = "constexpr"
            constants[name] = value
        else:
            signature[name] = "i32"
            if value % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constants, attributes)
    return triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options=dict(launch.options)
    )


def _tool(name: str, *args: str) -> str:
    import triton.backends.nvidia

    path = Path(triton.backends.nvidia.__file__).parent / "bin" / name
    return subprocess.run([str(path), *args], capture_output=True, text=True, check=True).stdout


def inspect(compiled: Any) -> dict[str, int]:
    """Registers, spills, shared memory, widest global load and matrix instructions."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
        code = _tool("nvdisasm", "-c", file.name)
    stack = re.search(r"STACK:(\d+)", usage)
    registers = re.search(r"REG:(\d+)", usage)
    assert stack and registers, usage
    spills = len(re.findall(r"\b(?:LDL|STL)\b", code)) + (int(stack[1]) > 0)
    loads = re.findall(r"\bLDG(?:STS)?\.[A-Z0-9._]*", code)
    return {
        "registers": int(registers[1]),
        "spills": spills,
        "shared_bytes": compiled.metadata.shared,
        "widest_load_bytes": max((_width(load) for load in loads), default=0),
        "tensor_core_ops": len(re.findall(r"\b(?:HGMMA|HMMA|UTC\w*MMA)\b", code)),
    }


def _width(load: str) -> int:
    for suffix, width in (("128", 16), ("64", 8), ("U16", 2), ("S16", 2), ("U8", 1), ("S8", 1)):
        if suffix in load.split("."):
            return width
    return 4


def table(
    targets: tuple[int, ...],
    dtypes: tuple[str, ...],
    layouts: tuple[str, ...],
    sizes: tuple[int, ...],
    radii: tuple[int, ...],
) -> Iterator[Row]:
    """A row for each kernel of each case, in order; two compilers run side by side."""

    def rows(case: tuple[str, str, int, int, int]) -> list[Row]:
        dtype, layout, size, radius, target = case
        return [
            Row(launch.name, f"sm_{target}", dtype, layout, size, radius, **inspect(compiled))
            for launch in recorded[case]
            for compiled in [compile_launch(launch, target)]
        ]

    cases = list(product(dtypes, layouts, sizes, radii, targets))
    recorded = {case: launches(case[0], case[1], (case[2], case[2]), *case[3:]) for case in cases}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(rows, cases):
            yield from found


def main(argv: list[str] | None = None) -> None:
    from tqdm import tqdm

    from bench.results import write_json

    parser = argparse.ArgumentParser(prog="python -m bench codegen", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--target", type=int, nargs="+", default=TARGETS, help="sm_XX")
    parser.add_argument("--dtype", nargs="+", default=DTYPES, choices=DTYPES)
    parser.add_argument("--layout", nargs="+", default=LAYOUTS, choices=LAYOUTS)
    parser.add_argument("--size", type=int, nargs="+", default=SIZES)
    parser.add_argument("--radius", type=int, nargs="+", default=(15,))
    args = parser.parse_args(argv)
    if os.environ.get("TRITON_INTERPRET") == "1":
        sys.exit("codegen compiles: run it without TRITON_INTERPRET")
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
    if args.json:
        write_json(args.json, rows)
        print(f"{len(rows)} rows in {args.json}")


if __name__ == "__main__":
    main()
