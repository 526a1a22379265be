"""The compiled kernels, run by the emulator, against float64; and whether it sees their faults."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from akm_triton import axis_ops, ops
from akm_triton.backend import triton as triton_backend
from akm_triton.launch import plan as plans
from akm_triton.launch.device import H200, Device
from akm_triton.launch.plan import tile
from akm_triton.launch.problem import Problem
from bench import stub
from reference import composition, oracle
from tests import capabilities, common, fuzz
from tests.common import BORDERS, FAMILIES
from tests.emulator.driver import emulated, unassembled
from tests.emulator.launch import Launch, emulate
from tests.emulator.memory import Fault
from tests.emulator.parser import Unknown
from tests.test_cuda import TOLERANCE, check_modulate, error

Array = NDArray[np.float64]

TRIED = ("3.7.1",)
"""The versions of Triton whose PTX the emulator knows."""

DEVICES = {
    80: Device("emulated A100", 2, 80, 166_912),
    90: H200._replace(name="emulated H200", multiprocessors=2),
}
"""With few multiprocessors, so that programs go through several images."""


@contextlib.contextmanager
def known() -> Iterator[None]:
    """Skips where another Triton than those that were tried emits what the emulator lacks."""
    try:
        yield
    except Unknown as unknown:
        if triton.__version__ in TRIED:
            raise
        pytest.skip(f"unknown to the emulator, from Triton {triton.__version__}: {unknown}")


@contextlib.contextmanager
def emulator(target: int, on_launch: Any = emulate) -> Iterator[None]:
    with known(), fuzz.poisoned(), emulated(DEVICES[target], on_launch):
        yield


def gaussians(shape: tuple[int, ...], radius: int, seed: int) -> Tensor:
    sigma = np.random.default_rng(seed).uniform(0.2, max(1.0, radius / 2), shape)
    return torch.from_numpy(oracle.taps(sigma, radius)).float()


def exact(x: Tensor) -> Array:
    return x.double().numpy()


def blurred(z: Tensor, a: Tensor, b: Tensor, border: str, adjoint: bool = False) -> Array:
    return oracle.blur(exact(z), exact(a), exact(b), border, adjoint=adjoint)


def launched(op: str, g: Tensor, z: Tensor, t: Tensor, v: Tensor, border: str) -> list[Tensor]:
    """The results of an operator by our kernels."""
    if op == "pair":
        return [ops.blur_pair(z, t, v, border, False, "triton")]
    if op == "tap_grads":
        return [*ops.tap_grads(g, z, t, border, "triton")]
    if op == "backward":
        dz, grads = ops.blur_backward(g, z, t, border, "triton")
        return [dz, *grads]
    return [ops.blur(z, t, border, op == "adjoint", "triton")]


def expected(op: str, g: Array, z: Array, t: Array, v: Array, border: str) -> list[Array]:
    """The same of dense matrices."""
    if op == "pair":
        return [oracle.blur(z, t[0], v[1], border) + oracle.blur(z, v[0], t[1], border)]
    if op in ("backward", "tap_grads"):
        dz = oracle.blur(g, *t, border, adjoint=True)
        return [dz, *oracle.tap_grads(g, z, *t, border)][op == "tap_grads" :]
    return [oracle.blur(z, *t, border, adjoint=op == "adjoint")]


def check(op: str, g: Tensor, z: Tensor, radius: int, border: str, per: str = "channel") -> None:
    n, c = z.shape[:2]
    shape = (n, c) if per == "sample" else (c,)
    a, b, more_a, more_b = (gaussians(shape, radius, seed) for seed in range(4))
    taps = torch.stack([a, b]), torch.stack([more_a, more_b])
    results = launched(op, g, z, *taps, border)
    arrays = [exact(x) for x in (g, z, *taps)]
    wanted = expected(op, *arrays, border)
    of_squares = expected(op, arrays[0] ** 2, arrays[1] ** 2, *arrays[2:], border)
    bound = TOLERANCE[z.dtype] * (1 if op == "blur" else 2)
    for found, *want in zip(results, wanted, of_squares, strict=True):
        assert error(found, *want) < bound


OPS = ("blur", "adjoint", "pair", "backward", "tap_grads")
KINDS = [(dtype, layout) for dtype in TOLERANCE for layout in ("nchw", "channels_last")]
# (N, C, H, W, R)
SHAPES = [
    (2, 3, 1, 9, 4),
    (1, 2, 7, 5, 9),
    (3, 5, 14, 14, 7),
    (5, 2, 28, 20, 3),
    (2, 1, 33, 29, 15),
    (1, 2, 56, 56, 15),
    (3, 1, 64, 64, 7),
    (1, 1, 20, 130, 15),
    (1, 1, 33, 100, 31),
    (1, 1, 80, 40, 3),
    (1, 3, 50, 52, 3),
    (1, 2, 49, 70, 6),
    (1, 1, 70, 70, 31),
]


@pytest.mark.sampled(("kind", "op"), ("border", "op"), ("target", "shape"))
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{str(kind[0])[6:]}-{kind[1]}")
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("target", DEVICES)
def test_against_float64(
    target: int, op: str, kind: tuple[torch.dtype, str], shape: tuple[int, ...], border: str
) -> None:
    *maps, radius = shape
    dtype, layout = kind
    z, g = (common.random(*maps, seed=seed, dtype=dtype, layout=layout) for seed in (1, 2))
    with emulator(target):
        check(op, g, z, radius, border)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("border", ["symmetric", "circular"])
def test_gradients_of_windows_that_slide_past_the_map(border: str, layout: str) -> None:
    """The last thread of a row has columns that the map does not have; the border finds others."""
    maps = 1, 3, 49, 70
    z, g = (common.random(*maps, seed=s, dtype=torch.float32, layout=layout) for s in (1, 2))
    with emulator(90):
        check("backward", g, z, 3, border)


def test_tiles_that_want_more_shared_memory_than_there_is() -> None:
    """A user's plan may: with three stages this one takes 329,728 bytes of 232,448; with two it
    fits."""
    z = common.random(1, 1, 66, 18, seed=1, dtype=torch.float16)
    taps = [gaussians((1,), 3, seed) for seed in range(4)]
    problem = Problem("blur_pair_adjoint", 1, 1, 66, 18, 3, "reflect", 2, False)
    plan = (plans.Launch(tile(problem, (1, 64, 32), num_warps=4, num_stages=3), dz=True),)
    t, v = torch.stack(taps[:2]), torch.stack(taps[2:])
    with emulator(90):
        y = triton_backend.blur_pair(z, t, v, "reflect", True, plan)
    wanted = [
        oracle.blur(exact(z), *map(exact, x), "reflect", adjoint=True)
        for x in ((t[0], v[1]), (v[0], t[1]))
    ]
    assert error(y, sum(wanted)) < 2 * TOLERANCE[z.dtype]


@pytest.mark.parametrize("block_w", [32, 64])
@pytest.mark.parametrize("block_h", [32, 64])
def test_no_gradient_that_passes_the_check_races(block_h: int, block_w: int) -> None:
    """With blocks of 64 on one side alone, Triton leaves a product in flight whose operand the next
    tile is loaded over: ``check`` refuses them."""
    h, w, radius = 70, block_w, 3
    problem = Problem("blur_backward", 2, 1, h, w, radius, "symmetric", 2, False)
    cfg = tile(problem, (1, block_h, block_w), num_warps=4)
    plan = (plans.Launch(cfg, dz=True, da=True, db=True),)
    if block_h != block_w:
        with pytest.raises(ValueError):
            plans.check(plan, problem)
        return
    z, g = (common.random(2, 1, h, w, seed=seed, dtype=torch.float16) for seed in (1, 2))
    a, b = (gaussians((1,), radius, seed) for seed in (3, 4))
    with emulator(90):
        dz, _ = triton_backend.blur_backward(g, z, torch.stack([a, b]), "symmetric", plan)
    assert error(dz, blurred(g, a, b, "symmetric", adjoint=True)) < 2 * TOLERANCE[z.dtype]


def _inputs(kind: str, *shape: int) -> Tensor:
    """A map, and where there is memory around it, that is NaN."""
    x = common.random(*shape, dtype=torch.float16)
    n, c, h, w = shape
    if kind == "expanded":
        return x[:1, :, :, :1].expand(shape)
    if kind == "far apart":  # in memory of few real pages
        stride = 2**31 + 64
        memory = torch.from_numpy(np.empty(stride + x[0].numel(), np.float16))
        return memory.as_strided(shape, (stride, *x.stride()[1:])).copy_(x)
    around = torch.full((n, c + 2, 80, 80), math.nan, dtype=x.dtype)
    views = {
        "misaligned": around.flatten()[1 : x.numel() + 1].view(shape),  # by an element
        "sliced": around[:, 1 : c + 1, 2 : h + 2, 3 : w + 3],
        "transposed": around.mT[:, :c, :h, :w],
    }
    return views[kind].copy_(x)


@pytest.mark.sampled(("kind", "op"), ("kind", "size"))
@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize("op", ["blur", "backward"])
@pytest.mark.parametrize("size", [(9, 17), (70, 20)], ids=str)
@pytest.mark.parametrize("kind", ["misaligned", "sliced", "transposed", "expanded", "far apart"])
def test_any_strides(kind: str, size: tuple[int, int], op: str, target: int) -> None:
    z, g = _inputs(kind, 2, 3, *size), _inputs("sliced", 2, 3, *size)
    with emulator(target):
        check(op, g, z, 4, "symmetric")


@pytest.mark.sampled
@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize("kind", KINDS[::3], ids=lambda kind: f"{str(kind[0])[6:]}-{kind[1]}")
@pytest.mark.parametrize("stride", [(2, 2), (3, 1), (1, 50)], ids=str)
@pytest.mark.parametrize("size", [(9, 14), (40, 20), (17, 100)], ids=str)
def test_a_stride(
    size: tuple[int, int], stride: tuple[int, int], kind: tuple[torch.dtype, str], target: int
) -> None:
    """Nothing is written but what is kept."""
    dtype, layout = kind
    z = common.random(1, 2, *size, seed=1, dtype=dtype, layout=layout)
    a, b = (gaussians((2,), 4, seed) for seed in (2, 3))
    with emulator(target):
        y = ops.blur_strided(z, torch.stack([a, b]), "reflect", stride, "triton")
    wanted = blurred(z, a, b, "reflect")[..., :: stride[0], :: stride[1]]
    assert error(y, wanted) < TOLERANCE[dtype]


@pytest.mark.sampled(("kind", "shape"), ("dim", "border"))
@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize(
    "shape", [(2, 3, 1, 300, 15), (1, 5, 9, 14, 12), (1, 2, 40, 33, 5)], ids=str
)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{str(kind[0])[6:]}-{kind[1]}")
def test_one_axis_alone(
    kind: tuple[torch.dtype, str], shape: tuple[int, ...], border: str, dim: int, target: int
) -> None:
    (dtype, layout), (*maps, radius) = kind, shape
    z, g = (common.random(*maps, seed=seed, dtype=dtype, layout=layout) for seed in (1, 2))
    a = gaussians((maps[1],), radius, 3)
    none = torch.zeros_like(a)
    none[:, 0] = 1
    taps = (a, none) if dim == 2 else (none, a)
    with emulator(target):
        y = axis_ops.blur_axis(z, a, dim, border, False, "triton")
        dz, da = axis_ops.axis_backward(g, z, a, dim, border, "triton")
    assert error(y, blurred(z, *taps, border)) < TOLERANCE[dtype]
    assert error(dz, blurred(g, *taps, border, adjoint=True)) < 2 * TOLERANCE[dtype]
    wanted = oracle.tap_grads(exact(g), exact(z), *map(exact, taps), border)[dim - 2]
    assert error(da, wanted) < 2 * TOLERANCE[dtype]


@pytest.mark.sampled
@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("size", [12, 40, 70])
def test_taps_of_each_sample(size: int, op: str, target: int) -> None:
    z, g = (common.random(3, 2, size, 20, seed=seed, dtype=torch.float16) for seed in (1, 2))
    with emulator(target):
        check(op, g, z, 5, "reflect", per="sample")


@pytest.mark.sampled
@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("truncate", [None, 3.0])
@pytest.mark.parametrize("radius", [3, 15, 31])
def test_gated_taps(radius: int, truncate: float | None, family: str, target: int) -> None:
    """And their derivatives, against autograd through the composition in float64."""
    r, s = torch.tensor([0.0, 0.05, 0.4, 0.9, 2.5, 7.0, 30.0]), torch.linspace(-4, 4, 7)
    vr, vs = common.random(2, 7, seed=1).float()
    dt = common.random(2, 7, radius + 1, seed=3).float()
    options = True, radius, family, truncate
    with emulator(target):
        t = triton_backend.gated_taps(r, s, *options)
        first = triton_backend.gated_taps_grad(r, s, dt, *options)
        second = triton_backend.gated_taps_grad_grad(r, s, dt, vr, vs, *options)
    k = oracle.taps(np.abs(exact(r)), radius, gaussian=family, truncate=truncate)
    np.testing.assert_allclose(t[1].numpy(), k, atol=3e-7)
    np.testing.assert_allclose(t[0].numpy(), k / (1 + np.exp(-exact(s)))[:, None], atol=3e-7)
    x = [y.double().requires_grad_() for y in (r, s, dt)]
    taps = composition.taps(x[0], radius, family, truncate)[..., radius:]
    form = (x[2] * torch.stack([torch.sigmoid(x[1])[:, None] * taps, taps])).sum()
    wanted = torch.autograd.grad(form, x[:2], create_graph=True)
    again = torch.autograd.grad((vr * wanted[0] + vs * wanted[1]).sum(), x)
    for found, want in zip((*first, *second), (*wanted, *again), strict=True):
        torch.testing.assert_close(found.double(), want.detach(), rtol=2e-5, atol=2e-5)


# As in test_cuda.py, through autograd


@contextlib.contextmanager
def stub_driver(target: int) -> Iterator[None]:
    """Through Triton's own launcher: the driver library that it calls hands launches over."""
    reason = stub.why_not()
    if reason is not None:
        pytest.skip(reason)

    def run(launch: stub.Launch) -> None:
        assert launch.grid[1:] == (1, 1)
        emulate(Launch(launch.kernel.ptx, launch.grid[0], launch.shared, [*launch.parameters]))

    device = DEVICES[target]._replace(name="stub")
    with known(), fuzz.poisoned(), stub.driver(device, run):
        yield


@pytest.mark.sampled
@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("shape", [(3, 5, 7, 7), (2, 8, 14, 14), (1, 2, 33, 20)], ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_modulate(
    dtype: torch.dtype, layout: str, shape: tuple[int, ...], border: str, target: int
) -> None:
    z, g = (common.random(*shape, seed=seed, dtype=dtype, layout=layout) for seed in (1, 2))
    r, s = (common.random(shape[1], seed=seed).float() for seed in (3, 4))
    with stub_driver(target):
        with unassembled():
            check_modulate(z, g, 3 * r, s, border, 7)  # compiles
        check_modulate(g, z, 2 * r, s, border, 7)  # as every later call


EAGER = [
    name if name in ("2nd order", "func.vmap") else pytest.param(name, marks=pytest.mark.whole)
    for name in capabilities.CAPABILITIES
    if name not in capabilities.COMPILED
]


@pytest.mark.sampled
@pytest.mark.parametrize("capability", EAGER)
@pytest.mark.parametrize("name", capabilities.CALLABLES)
def test_capability(name: str, capability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AKM_BACKEND", "triton")
    with stub_driver(90), unassembled():
        capabilities.check(name, capability, "triton", torch.float32, 1e-4)


# What the emulator sees


@triton.jit
def product_kernel(a_ptr, b_ptr, c_ptr, M, N, K, BLOCK: tl.constexpr, DEPTH: tl.constexpr):
    """c = a b of row-major matrices; copies and products run ahead."""
    i, j = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, BLOCK)
    c = tl.zeros((BLOCK, BLOCK), tl.float32)
    for start in tl.range(0, K, DEPTH):
        k = start + tl.arange(0, DEPTH)
        a = tl.load(a_ptr + i[:, None] * K + k, (i[:, None] < M) & (k < K), 0.0)
        b = tl.load(b_ptr + k[:, None] * N + j, (k[:, None] < K) & (j < N), 0.0)
        c = tl.dot(a, b, c)
    tl.store(c_ptr + i[:, None] * N + j, c, (i[:, None] < M) & (j < N))


@pytest.fixture(scope="module")
def launches() -> dict[int, list[tuple[Launch, Tensor, Tensor]]]:
    """For each target launches, their results and what these should be: of a product, and of a blur
    of a ragged map."""
    found = {}
    for target in DEVICES:
        caught: list[Launch] = []
        a, b = common.random(100, 208).half(), common.random(208, 48).half()
        c = torch.empty(100, 48)
        z, taps = common.random(2, 1, 30, 28).half(), gaussians((1,), 7, seed=1)
        with emulator(target, caught.append):
            product_kernel[(2,)](a, b, c, 100, 48, 208, BLOCK=64, DEPTH=32, num_stages=3)
            y = ops.blur(z, torch.stack([taps, taps]), "symmetric", False, "triton")
        wanted = exact(a) @ exact(b), blurred(z, taps, taps, "symmetric")
        found[target] = [*zip(caught, (c, y), wanted, strict=True)]
    return found


def _survives(launch: Launch, result: Tensor, wanted: Array) -> bool:
    """Whether it runs without a fault and to the right result."""
    result.fill_(math.nan)
    try:
        emulate(launch)
    except Fault:
        return False
    scale = np.abs(wanted).max()
    return bool(np.abs(exact(result) - wanted).max() < TOLERANCE[result.dtype] * scale)


SPOILED = {
    "barrier": (r"\tbar\.sync\s+0;", ""),
    "wait for copies": (r"\tcp\.async\.wait_group[^;]*;", ""),
    "size of a copy": (r"(cp\.async\.c[ag]\.[^;]*, 0x)(\w+), %r\d+;", r"\1\2, 0x\2;"),
    "mask of a load": (r"@!?%p\d+ (ld\.global)", r"\1"),
    "mask of a store": (r"@!?%p\d+ (st\.global)", r"\1"),
    "shared store": (r"\t(st\.shared|stmatrix)[^;]*;", ""),
    "address of a load": (r"(ld\.global[^;]*\[ %rd\d+) \+ 0", r"\1 + 2"),
    "address of a store": (r"(st\.global[^;]*\[ %rd\d+) \+ 0", r"\1 + 2"),
    "fence of copies": (r"\tfence\.proxy\.async[^;]*;", ""),
    "fence of products": (r"\twgmma\.fence[^;]*;", ""),
    "wait for products": (r"\twgmma\.wait_group[^;]*;", ""),
}
"""What is looked for in the code, and what it becomes."""
ON_HOPPER = ("fence of copies", "fence of products", "wait for products")


@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize("what", SPOILED)
def test_a_fault_is_seen(
    what: str, target: int, launches: dict[int, list[tuple[Launch, Tensor, Tensor]]]
) -> None:
    """A statement spoiled, one at a time. Not each is needed: the last barrier guards nothing, and
    some masks are always true."""
    if what in ON_HOPPER and target != 90:
        return
    pattern, becomes = SPOILED[what]
    survived = []
    for launch, result, wanted in launches[target]:
        found = [*re.finditer(pattern, launch.ptx)]
        for place in found[:: max(1, len(found) // 4)]:
            before, after = launch.ptx[: place.start()], launch.ptx[place.end() :]
            spoiled = launch._replace(ptx=before + place.expand(becomes) + after)
            survived.append(_survives(spoiled, result, wanted))
    assert survived and survived.count(False) >= len(survived) / 4


@pytest.mark.parametrize("target", DEVICES)
def test_what_is_not_spoiled_survives(
    target: int, launches: dict[int, list[tuple[Launch, Tensor, Tensor]]]
) -> None:
    assert all(_survives(*launch) for launch in launches[target])


def test_an_unknown_instruction_is_named(
    launches: dict[int, list[tuple[Launch, Tensor, Tensor]]],
) -> None:
    launch = launches[80][0][0]
    strange = launch._replace(ptx=launch.ptx.replace("mma.sync", "mma.strange"))
    with pytest.raises(Unknown, match=r"mma\.strange"):
        emulate(strange)


KERNEL = """
.visible .entry kernel(
	.param .u64 .ptr .global .align 1 x
)
.reqntid 64
{{
	.reg .pred %p<3>;
	.reg .b32 %r<8>;
	.reg .b64 %rd<3>;
	ld.param.b64 %rd1, [x];
	mov.u32 %r1, %tid.x;
	setp.lt.u32 %p1, %r1, 32;
	setp.lt.u32 %p2, %r1, 8;
	shl.b32 %r2, %r1, 2;
	mov.b32 %r3, global_smem;
	add.s32 %r4, %r3, %r2;
	xor.b32 %r5, %r4, 128;
{}
	ret;
}}
"""
"""r1 is the thread; r4 and r5 are where it has a word in shared memory, and the other warp one."""

FAULTS = {
    "out of bounds in lane 0: byte 256 of 256 of tensor 0": "ld.global.b32 %r6, [%rd1+256];",
    "out of bounds in lane 0: byte -4": "st.global.b32 [%rd1+-4], %r1;",
    "misaligned global access of 8 bytes": "ld.global.v2.b32 {%r6, %r7}, [%rd1+4];",
    "in no tensor": "mov.b64 %rd1, 64; ld.global.b32 %r6, [%rd1];",
    "written twice, with different values": "st.global.b32 [%rd1], %r1;",
    "shared access out of bounds": "ld.shared.b32 %r6, [global_smem+1024];",
    "misaligned shared access": "st.shared.b32 [%r4+2], %r1;",
    "was not written": "st.shared.b32 [%r4], %r1; bar.sync 0; ld.shared.b32 %r6, [%r4+256];",
    "race: read": "st.shared.b32 [%r4], %r1; ld.shared.b32 %r6, [%r5];",
    "race: write over what another warp read": "st.shared.b32 [%r4], %r1; bar.sync 0;"
    " ld.shared.b32 %r6, [%r5]; st.shared.b32 [%r4], %r1;",
    "race: another warp has written": "st.shared.b32 [%r4], %r1; st.shared.b32 [%r5], %r1;",
    "race: different values": "st.shared.b32 [global_smem], %r1;",
    "cp.async may not have filled": "cp.async.ca.shared.global [%r4], [%rd1], 4;"
    " cp.async.commit_group; cp.async.wait_group 1; ld.shared.b32 %r6, [%r4];",
    "where cp.async may still write": "cp.async.ca.shared.global [%r4], [%rd1], 4;"
    " cp.async.commit_group; st.shared.b32 [%r4], %r1;",
    "race: read of what another": "cp.async.ca.shared.global [%r4], [%rd1], 4;"
    " cp.async.wait_all; ld.shared.b32 %r6, [%r5];",
    "part of a warp": "@%p2 shfl.sync.bfly.b32 %r6, %r1, 1, 31, -1;",
    "different barriers": "@%p1 bra $a; bar.sync 0; ret;\n$a:\n bar.sync 0;",
    "does not end": "$a:\n bra $a;",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_a_few_lines(fault: str) -> None:
    x = torch.zeros(64)
    with pytest.raises(Fault, match=re.escape(fault)):
        emulate(Launch(KERNEL.format(FAULTS[fault]), 1, 512, [x]))


def test_lines_without_a_fault() -> None:
    """Copies in two groups, waited for one after the other, with barriers where they belong."""
    x = torch.arange(64, dtype=torch.int32)
    code = """
	mul.wide.u32 %rd2, %r2, 1;
	add.s64 %rd1, %rd1, %rd2;
	cp.async.ca.shared.global [%r4], [%rd1], 4;
	cp.async.commit_group;
	cp.async.ca.shared.global [%r4+256], [%rd1], 4;
	cp.async.commit_group;
	cp.async.wait_group 1;
	bar.sync 0;
	ld.shared.b32 %r6, [%r5];
	cp.async.wait_group 0;
	bar.sync 0;
	ld.shared.b32 %r7, [%r5+256];
	bar.sync 0;
	st.shared.b32 [%r4], %r6;
	add.s32 %r6, %r6, %r7;
	@%p1 st.global.b32 [%rd1], %r6;
"""
    emulate(Launch(KERNEL.format(code), 1, 512, [x]))
    assert x.tolist() == [2 * (i + 32) for i in range(32)] + [*range(32, 64)]
