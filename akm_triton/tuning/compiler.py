"""Compile a launch ahead of time, for any GPU and without one, and read its machine code."""

from __future__ import annotations

import re
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch
import triton
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from akm_triton.backend.launcher import OPTIONS

_TYPES = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32"}


class KernelCall:
    """A kernel with its arguments, as ``backend.triton.launching`` hands them over."""

    def __init__(self, kernel: Any, *args: Any, **constants: Any) -> None:
        names = [x for x in ("num_warps", "num_stages", "maxnreg") if x in constants]
        self.kernel = kernel
        self.options: dict[str, int] = {name: constants.pop(name) for name in names}
        self.arguments: dict[str, Any] = dict(zip(kernel.arg_names, args, strict=False)) | constants

    @property
    def name(self) -> str:
        outputs = [x for x in ("dz", "da", "db") if self.arguments.get(f"NEED_{x.upper()}")]
        outputs += ["pair"] if self.arguments.get("PAIR") else []
        outputs += ["strided"] if self.arguments.get("EVERY", (1, 1)) != (1, 1) else []
        return self.kernel.__name__ + (f"({','.join(outputs)})" if outputs else "")


_parsing = threading.Lock()


class _Source(ASTSource):
    """Parsed by one thread at a time: CPython before 3.13 counts the depth of all threads' syntax
    trees together, and raises SystemError. The rest of a compilation runs side by side."""

    def make_ir(self, *args: Any, **kwargs: Any) -> Any:
        with _parsing:
            return super().make_ir(*args, **kwargs)


def source(call: KernelCall) -> Any:
    """Built exactly as Triton's launcher builds it, so that both share a cache entry."""
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for i, name in enumerate(call.kernel.arg_names):
        value, param = call.arguments[name], call.kernel.params[i]
        if param.do_not_specialize:
            signature[name] = "i32"
            continue
        attributes[(i,)] = []
        if isinstance(value, torch.Tensor):
            signature[name] = _TYPES[value.dtype]
            attributes[(i,)] = [["tt.divisibility", 16]]
        elif param.is_constexpr or value == 1:
            signature[name] = "constexpr"
            constants[name] = value
        else:
            signature[name] = "i32"
            if value % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
    return _Source(call.kernel, signature, constants, attributes)


def compile_call(call: KernelCall, capability: int) -> Any:
    """What the launcher would compile on a device of this capability."""
    return triton.compile(
        source(call), target=GPUTarget("cuda", capability, 32), options=call.options | OPTIONS
    )


def tool(name: str, *args: str) -> str:
    """What a tool of Triton's own package prints."""
    path = Path(triton.backends.nvidia.__file__).parent / "bin" / name
    return subprocess.run([str(path), *args], capture_output=True, text=True, check=True).stdout


def inspect(compiled: Any) -> dict[str, int]:
    """Registers, spills, shared memory, widest global load and matrix instructions."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = tool("cuobjdump", "--dump-resource-usage", file.name)
        code = tool("nvdisasm", "-c", file.name)
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
