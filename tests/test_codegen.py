"""The machine code of the kernels that the rule chooses: compiled ahead of time, no GPU needed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime import jit

from akm_triton.backend import triton as triton_backend
from akm_triton.launch.device import H200
from akm_triton.launch.problem import Problem
from akm_triton.launch.rule import rule
from akm_triton.tuning import compiler
from akm_triton.tuning.workload import Workload
from bench import codegen

HOPPER = 90
OTHERS = (80, 89, 100, 120)


def assert_sound(rows: list[codegen.Row]) -> None:
    assert rows
    for row in rows:
        limit = codegen.SHARED_LIMIT[int(row.target.removeprefix("sm_"))]
        assert row.spills == 0, row
        assert row.shared_bytes <= limit, row
        if row.kernel.startswith("sliding"):
            assert row.tensor_core_ops == 0, row
            assert row.widest_load_bytes >= (16 if row.layout == "nchw" else 4), row
        if row.kernel.startswith(("blur", "grad")):
            assert row.tensor_core_ops > 0, row
            if row.layout == "nchw":
                itemsize = 4 if row.dtype == "float32" else 2
                whole = row.shape * itemsize & -(row.shape * itemsize)  # alignment of a row
                assert row.widest_load_bytes >= min(16, whole), row
            else:  # wide windows of float32 leave room for one channel
                one = row.dtype == "float32" and row.shape > 32 and row.radius > 8
                assert row.widest_load_bytes >= (4 if one else 8), row


@pytest.fixture(autouse=True, scope="module")
def disassembled_once() -> Iterator[None]:
    """The kernels of the tap tables are the same for every map."""
    inspect = codegen.inspect
    found: dict[str, dict[str, int]] = {}

    def once(compiled: Any) -> dict[str, int]:
        if compiled.hash not in found:
            found[compiled.hash] = inspect(compiled)
        return found[compiled.hash]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codegen, "inspect", once)
        yield


WHOLE = pytest.mark.whole

SIZES = [
    size if size in (7, 32, 56, 224) else pytest.param(size, marks=WHOLE) for size in codegen.SIZES
]


@pytest.mark.sampled
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", codegen.DTYPES)
def test_hopper_nchw(dtype: str, size: int) -> None:
    assert_sound(list(codegen.table((HOPPER,), (dtype,), ("nchw",), (size,), (15,))))


@pytest.mark.sampled
@pytest.mark.parametrize("size", [14, 56, pytest.param(224, marks=WHOLE)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_hopper_channels_last(dtype: str, size: int) -> None:
    assert_sound(list(codegen.table((HOPPER,), (dtype,), ("channels_last",), (size,), (15,))))


@pytest.mark.sampled
@pytest.mark.parametrize("target", OTHERS)
@pytest.mark.parametrize("case", [("bfloat16", 14), ("bfloat16", 56), ("float32", 224)], ids=str)
def test_other_targets(case: tuple[str, int], target: int) -> None:
    dtype, size = case
    assert_sound(list(codegen.table((target,), (dtype,), ("nchw",), (size,), (15,))))


@pytest.mark.sampled
@pytest.mark.parametrize("size", [28, 224])
@pytest.mark.parametrize("radius", [3, 31])
def test_other_radii(radius: int, size: int) -> None:
    assert_sound(list(codegen.table((HOPPER,), ("bfloat16",), ("nchw",), (size,), (radius,))))


@pytest.mark.sampled
@pytest.mark.parametrize("target", (HOPPER, *OTHERS))
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("radius", [3, pytest.param(7, marks=WHOLE)])
def test_windows_that_slide(radius: int, layout: str, target: int) -> None:
    rows = list(codegen.table((target,), ("float32",), (layout,), (56,), (radius,)))
    assert {x.kernel.split("(")[0] for x in rows} >= {"sliding_blur_kernel", "sliding_grad_kernel"}
    assert_sound(rows)


@pytest.mark.sampled
@pytest.mark.parametrize("target", (HOPPER, *OTHERS))
@pytest.mark.parametrize(
    "case", [("float32", "nchw"), ("float32", "channels_last"), ("bfloat16", "channels_last")],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("radius", [15, pytest.param(9, marks=WHOLE)])
def test_launches_of_single_axes(radius: int, case: tuple[str, str], target: int) -> None:
    dtype, layout = case
    rows = list(codegen.table((target,), (dtype,), (layout,), (112,), (radius,)))
    wanted = {"down_blur_kernel", "down_grad_kernel"}
    if layout == "nchw":
        wanted |= {"across_blur_kernel", "across_grad_kernel"}
    assert {x.kernel.split("(")[0] for x in rows} >= wanted
    assert_sound(rows)


@pytest.mark.sampled
@pytest.mark.parametrize("border", ["symmetric", "reflect"])
@pytest.mark.parametrize(
    "shape", [(278, 1), (2, 290), pytest.param((45, 20), marks=WHOLE)], ids=str
)
def test_narrow_maps(shape: tuple[int, int], border: str) -> None:
    """Of such a shape the compiler once gave up, on a tile of 64 × 16."""
    case: codegen.Case = ("float16", "nchw", shape, 9, HOPPER, border, (8, 64))
    (found,) = codegen.compiled([case])
    assert len(found) >= 6
    assert all(facts["spills"] == 0 for _, facts in found), found


@pytest.mark.parametrize("target", [HOPPER, *(pytest.param(x, marks=WHOLE) for x in (80, 89))])
@pytest.mark.parametrize(
    "case",
    [
        ("float16", "nchw", (80, 40), 3),
        pytest.param(("float16", "nchw", (112, 112), 20), marks=WHOLE),
        pytest.param(("float16", "channels_last", (56, 56), 12), marks=WHOLE),
        pytest.param(("float32", "nchw", (112, 112), 20), marks=WHOLE),
    ],
    ids=str,
)
def test_adjoints_with_operands_of_their_own_fit(
    case: tuple[str, str, tuple[int, int], int], target: int
) -> None:
    """In shared memory, in every stage of the pipeline."""
    (found,) = codegen.compiled([(*case, target, "reflect", (32, 64))])
    limit = codegen.SHARED_LIMIT[target]
    assert all(facts["shared_bytes"] <= limit for _, facts in found), found


def test_a_strided_store_spills_nothing() -> None:
    """Nor does it where registers are fewest, in channels_last."""
    z = torch.empty(32, 64, 56, 56, dtype=torch.float16, device="meta")
    z = z.contiguous(memory_format=torch.channels_last)
    caught: list[compiler.KernelCall] = []

    def catch(*args: Any, **constants: Any) -> None:
        caught.append(compiler.KernelCall(*args, **constants))

    with triton_backend.launching(catch, H200):
        triton_backend.blur(z, torch.empty(2, 64, 16), "symmetric", False, stride=(2, 2))
    (launch,) = caught
    assert launch.name == "blur_kernel(strided)"
    found = compiler.inspect(compiler.compile_call(launch, HOPPER))
    assert found["spills"] == 0 and found["tensor_core_ops"] > 0


@pytest.mark.parametrize("op", ["blur", "blur_backward"])
def test_the_launcher_finds_what_was_compiled_ahead(op: str) -> None:
    """By Triton's own code, with whose key it looks into its cache."""
    problem = Problem(op, 3, 5, 28, 20, 7, "symmetric", 2, False)
    target = GPUTarget("cuda", HOPPER, 32)
    backend = make_backend(target)
    for launch in Workload(problem, torch.device("cpu")).launches(rule(problem, H200)):
        kernel = launch.kernel
        binder = jit.create_function_from_signature(kernel.signature, kernel.params, backend)
        given = {**launch.arguments, **launch.options, "debug": False}
        packed = kernel._pack_args(backend, dict(given), *binder(**given))
        _, signature, constants, attributes = packed
        wanted = ASTSource(kernel, signature, constants, attributes).hash()
        assert compiler.source(launch).hash() == wanted


def blur_launch() -> compiler.KernelCall:
    found = codegen.launches("float32", "nchw", (32, 64), 15, HOPPER)
    return next(x for x in found if x.name == "blur_kernel")


def test_a_spill_is_seen() -> None:
    """A tile too large for its warps, so that the tests above can fail."""
    launch = blur_launch()
    whole = launch.arguments["TILE"]._replace(BLOCK_H=64, HALO_H=0, BLOCK_W=64, OUT_W=64)
    launch.arguments["TILE"] = whole
    assert codegen.inspect(codegen.compile_call(launch, HOPPER))["spills"] > 0


@pytest.mark.parametrize("registers", [0, 96, 168])
def test_a_plan_bounds_registers(registers: int) -> None:
    """And with 0 nothing is said of them."""
    problem = Problem("blur", 3, 5, 28, 20, 7, "symmetric", 2, False)
    (step,) = rule(problem, H200)
    plan = (replace(step, config=replace(step.config, registers=registers)),)
    (launch,) = Workload(problem, torch.device("cpu")).launches(plan)
    compiled = compiler.compile_call(launch, HOPPER)
    stated = re.findall(r"\.maxnreg\s+(\d+)", compiled.asm["ptx"])
    assert stated == [str(registers)] * (registers > 0)
    assert compiler.inspect(compiled)["registers"] <= (registers or 255)
