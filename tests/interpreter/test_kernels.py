"""The kernels, as the rule launches them, against the float64 oracle."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from akm_triton import borders
from akm_triton.backend import torch as torch_backend
from akm_triton.backend import triton as triton_backend
from akm_triton.backend.tiles import fold_index, fold_once
from akm_triton.launch.axis import Axis, steps
from akm_triton.launch.device import describe
from akm_triton.launch.plan import Config, Launch, Plan, grids, tile
from akm_triton.launch.plan import check as check_plan
from akm_triton.launch.problem import Problem
from reference import composition, oracle
from tests import common, fuzz
from tests.common import BORDERS

random = partial(common.random, dtype=torch.float32)
Array = NDArray[np.float64]


def tolerance(dtype: torch.dtype, radius: int) -> float:
    """Of the largest sum of absolute values: rounding grows as the root of the terms summed, 2R+1
    taps. float16 rounds taps on both axes, the value between the products and the result, each
    by half an ulp at most, 2⁻¹¹."""
    if dtype == torch.float32:
        return 5e-7 * math.sqrt(2 * radius + 1)
    return 4 * 2**-11


def gaussians(shape: tuple[int, ...], radius: int, seed: int = 0) -> Tensor:
    sigma = np.random.default_rng(seed).uniform(0.2, max(1.0, radius / 2), shape)
    return torch.from_numpy(oracle.taps(sigma, radius)).float()


def exact(x: Tensor) -> Array:
    return x.double().numpy()


def error(found: Tensor, wanted: Array, size: Array | None = None) -> float:
    """Largest error over the largest value, or over the largest of ``size``: the same sum of
    absolute values, by which rounding is bounded."""
    assert found.shape == wanted.shape
    assert not found.isnan().any()
    scale = np.abs(wanted if size is None else size).max()
    return float(np.abs(exact(found) - wanted).max() / scale)


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    with fuzz.poisoned():
        yield


# (N, C, H, W, R): 1, 7, 14, 33, 100, non-square, C = 1, radius beyond the map, blocks of rows,
# strips of columns, both
SHAPES = [
    (2, 1, 1, 1, 15),
    (1, 3, 7, 7, 3),
    (2, 2, 14, 14, 15),
    (2, 2, 1, 33, 7),
    (1, 2, 3, 5, 31),
    (1, 2, 33, 29, 15),
    (1, 1, 33, 100, 15),
    (1, 1, 100, 33, 31),
    (1, 1, 100, 20, 7),
    (1, 1, 40, 150, 1),
]
KINDS = [(torch.float32, "nchw"), (torch.float16, "nchw"), (torch.float32, "channels_last")]


@pytest.mark.sampled(("kind", "border"))
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("kind", KINDS, ids=["fp32", "fp16", "fp32-channels_last"])
def test_blur_and_gradients(
    kind: tuple[torch.dtype, str], shape: tuple[int, ...], border: str
) -> None:
    check(*kind, shape, border)


@pytest.mark.sampled
@pytest.mark.parametrize("shape", [(1, 35, 7, 7, 3), (1, 9, 33, 20, 5)], ids=["7x7", "33x20"])
@pytest.mark.parametrize("kind", [*KINDS, (torch.float16, "channels_last")], ids=str)
def test_channels_share_a_program(kind: tuple[torch.dtype, str], shape: tuple[int, ...]) -> None:
    check(*kind, shape, "symmetric")


def check(dtype: torch.dtype, layout: str, shape: tuple[int, ...], border: str) -> None:
    n, c, h, w, radius = shape
    z = random(n, c, h, w, seed=1, dtype=dtype, layout=layout)
    g = random(n, c, h, w, seed=2, dtype=dtype, layout=layout)
    a, b = gaussians((c,), radius, seed=3), gaussians((c,), radius, seed=4)
    exactly = (exact(a), exact(b), border)
    bound = tolerance(dtype, radius)

    gz, zz = exact(g), exact(z)

    y = triton_backend.blur(z, torch.stack([a, b]), border, False)
    assert y.dtype == dtype and y.stride() == z.stride()
    assert error(y, oracle.blur(zz, *exactly), oracle.blur(abs(zz), *exactly)) < bound
    wanted = oracle.blur(gz, *exactly, adjoint=True)
    size = oracle.blur(abs(gz), *exactly, adjoint=True)
    assert error(triton_backend.blur(g, torch.stack([a, b]), border, True), wanted, size) < bound

    dz, (da, db) = triton_backend.blur_backward(g, z, torch.stack([a, b]), border)
    assert dz.dtype == dtype and dz.stride() == z.stride()
    assert error(dz, wanted, size) < bound
    wanted_tables = oracle.tap_grads(gz, zz, *exactly)
    sizes = oracle.tap_grads(abs(gz), abs(zz), *exactly)
    alone = triton_backend.tap_grads(g, z, torch.stack([a, b]), border)
    for found in ((da, db), alone):
        for mine, want, scale in zip(found, wanted_tables, sizes, strict=True):
            assert mine.dtype == torch.float32
            assert error(mine, want, scale) < bound


def by_axes(problem: Problem) -> Plan:
    """Launches of one axis each, with more programs, rounds and repeats than such maps need."""
    plan = []
    for step in steps(problem):
        config = Axis(step.axis, 2, 4, 1, 1, 2, num_warps=1)
        rows = config.size(problem)[0]
        if config.down(problem):
            config = replace(config, rows=min(rows, 7), repeats=2)
        else:
            config = replace(config, rows=min(rows, 3), groups=1, columns=8)
        plan.append(Launch(config, **dict.fromkeys(step.outputs, True)))
    check_plan(tuple(plan), problem)
    return tuple(plan)


@pytest.mark.sampled(("shape", "border"), ("kind", "per"))
@pytest.mark.parametrize("per", ["channel", "sample"])
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("shape", [(2, 3, 9, 20, 3), (1, 2, 5, 12, 11), (2, 3, 17, 13, 4)], ids=str)
@pytest.mark.parametrize("kind", [*KINDS, (torch.float16, "channels_last")], ids=str)
def test_launches_of_single_axes(
    kind: tuple[torch.dtype, str], shape: tuple[int, ...], border: str, per: str
) -> None:
    """Taps of 1e-6 and 1e6 are those that float16 cannot hold a map between two launches of."""
    (dtype, layout), (n, c, h, w, radius) = kind, shape
    z = random(n, c, h, w, seed=1, dtype=dtype, layout=layout)
    g = random(n, c, h, w, seed=2, dtype=dtype, layout=layout)
    of = (n, c) if per == "sample" else (c,)
    a, b = 1e-6 * gaussians(of, radius, seed=3), 1e6 * gaussians(of, radius, seed=4)
    t, exactly, bound = torch.stack([a, b]), (exact(a), exact(b), border), tolerance(dtype, radius)
    problem = Problem(
        "blur", n, c, h, w, radius, border, dtype.itemsize, layout != "nchw", per == "sample"
    )
    y = triton_backend.blur(z, t, border, False, by_axes(problem))
    assert error(y, oracle.blur(exact(z), *exactly), oracle.blur(abs(exact(z)), *exactly)) < bound
    if border not in borders.SELF_ADJOINT:
        return
    plan = by_axes(problem._replace(op="blur_backward"))
    dz, grads = triton_backend.blur_backward(g, z, t, border, plan)
    sizes = oracle.blur(abs(exact(g)), *exactly)
    assert error(dz, oracle.blur(exact(g), *exactly), sizes) < bound
    alone = triton_backend.tap_grads(g, z, t, border, by_axes(problem._replace(op="tap_grads")))
    wanted = oracle.tap_grads(exact(g), exact(z), *exactly)
    sizes = oracle.tap_grads(abs(exact(g)), abs(exact(z)), *exactly)
    for found in (grads, alone):
        for mine, want, size in zip(found, wanted, sizes, strict=True):
            assert error(mine, want, size) < bound


@pytest.mark.sampled(("shape", "border"), ("kind", "per"), ("shape", "dim"))
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("per", ["channel", "layer", "sample"])
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize(
    "shape", [(2, 3, 1, 70, 5), (2, 3, 36, 1, 7), (1, 2, 5, 12, 31), (2, 3, 17, 20, 4)], ids=str
)
@pytest.mark.parametrize("kind", [*KINDS, (torch.float16, "channels_last")], ids=str)
def test_one_axis_alone(
    kind: tuple[torch.dtype, str], shape: tuple[int, ...], border: str, per: str, dim: int
) -> None:
    """Against both axes, of which one has taps that change nothing."""
    (dtype, layout), (n, c, h, w, radius) = kind, shape
    z = random(n, c, h, w, seed=1, dtype=dtype, layout=layout)
    g = random(n, c, h, w, seed=2, dtype=dtype, layout=layout)
    a = gaussians({"channel": (c,), "layer": (1,), "sample": (n, c)}[per], radius, seed=3)
    none = np.zeros(a.shape)
    none[..., 0] = 1
    taps = (exact(a), none) if dim == 2 else (none, exact(a))
    zz, gz, bound = exact(z), exact(g), tolerance(dtype, radius)

    for adjoint, x in ((False, z), (True, g)):
        y = triton_backend.blur_axis(x, a, dim, border, adjoint)
        assert y.dtype == dtype and y.stride() == x.stride()
        wanted, size = (
            oracle.blur(one, *taps, border, adjoint=adjoint) for one in (exact(x), abs(exact(x)))
        )
        assert error(y, wanted, size) < bound

    dz, da = triton_backend.axis_backward(g, z, a, dim, border)
    assert error(dz, wanted, size) < bound and dz.stride() == z.stride() and dz.dtype == dtype
    alone = triton_backend.axis_grads(g, z, radius, dim, border, per == "sample")
    wanted, size = (
        oracle.tap_grads(*maps, *taps, border)[dim - 2] for maps in ((gz, zz), (abs(gz), abs(zz)))
    )
    assert error(da, wanted, size) < bound
    assert error(alone.sum_to_size(a.shape), wanted, size) < bound


@pytest.mark.sampled(("size", "border"))
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("size", [9, 70])
def test_pair(size: int, border: str, kind: tuple[torch.dtype, str]) -> None:
    """The derivative of blur by both tables, and its adjoint, in one launch."""
    dtype, layout = kind
    radius = 5
    a, b, c, d = (gaussians((2,), radius, seed=i) for i in range(4))
    z = random(2, 2, size, 36, seed=4, dtype=dtype, layout=layout)
    for adjoint in (False, True):
        t, v = torch.stack([a, b]), torch.stack([c, d - 0.3])
        y = triton_backend.blur_pair(z, t, v, border, adjoint)
        assert y.dtype == dtype and y.stride() == z.stride()
        wanted = sum(
            oracle.blur(exact(z), exact(left), exact(right), border, adjoint=adjoint)
            for left, right in ((a, d - 0.3), (c, b))
        )
        assert error(y, wanted) < 2 * tolerance(dtype, radius)


@pytest.mark.sampled
@pytest.mark.parametrize("kind", [*KINDS, (torch.float16, "channels_last")], ids=str)
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("stride", [(2, 2), (3, 1), (1, 4), (100, 5)], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 9, 14), (1, 2, 33, 100), (1, 1, 70, 20)], ids=str)
def test_a_stride_writes_what_it_keeps(
    shape: tuple[int, ...], stride: tuple[int, int], border: str, kind: tuple[torch.dtype, str]
) -> None:
    """In one tile, in strips of columns, and in blocks of rows."""
    dtype, layout = kind
    z = random(*shape, seed=1, dtype=dtype, layout=layout)
    a, b = (gaussians(shape[1:2], 5, seed=seed) for seed in (2, 3))
    y = triton_backend.blur(z, torch.stack([a, b]), border, False, stride=stride)
    wanted = oracle.blur(exact(z), exact(a), exact(b), border)[..., :: stride[0], :: stride[1]]
    assert y.dtype == dtype
    assert y.is_contiguous(
        memory_format=torch.channels_last if layout == "channels_last" else torch.contiguous_format
    )
    assert error(y, wanted) < tolerance(dtype, 5)


@pytest.mark.parametrize("per", ["layer", "channel", "sample"])
@pytest.mark.parametrize("size", [9, 70])
def test_table_shapes(size: int, per: str) -> None:
    n, c, radius = 3, 2, 5
    shape = {"layer": (1,), "channel": (c,), "sample": (n, c)}[per]
    a, b = gaussians(shape, radius, seed=1), gaussians(shape, radius, seed=2)
    z, g = random(n, c, size, 6, seed=3), random(n, c, size, 6, seed=4)
    exactly = (exact(a), exact(b), "symmetric")
    bound = tolerance(z.dtype, radius)
    y = triton_backend.blur(z, torch.stack([a, b]), "symmetric", False)
    assert error(y, oracle.blur(exact(z), *exactly)) < bound
    found = triton_backend.blur_backward(g, z, torch.stack([a, b]), "symmetric")[1]
    for mine, want in zip(found, oracle.tap_grads(exact(g), exact(z), *exactly), strict=True):
        assert error(mine, want) < bound


@pytest.mark.sampled
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("per_sample", [False, True], ids=["per channel", "per sample"])
@pytest.mark.parametrize("n, programs, shares", [(3, 4, [6, 5, 5, 5]), (1, 2, [4, 3]), (1, 1, [7])])
def test_shares_of_tiles(
    n: int, programs: int, shares: list[int], per_sample: bool, border: str
) -> None:
    """Seven blocks of rows of each image, shared among programs that begin and end within an image;
    where each sample has its own taps, an image for each or a part of one."""
    c, h, w, radius = 1, 100, 20, 15
    z, g = random(n, c, h, w, seed=1), random(n, c, h, w, seed=2)
    shape = (n, c) if per_sample else (c,)
    a, b = gaussians(shape, radius, seed=3), gaussians(shape, radius, seed=4)
    problem = Problem("blur", n, c, h, w, radius, border, 4, False, per_sample)
    cfg = tile(problem, (1, 16, 32), num_warps=4, programs_per_sm=programs)
    device = describe(z.device)
    (grid,) = grids((Launch(cfg, dz=True),), problem, device)
    found = [grid.share + (split < grid.extra) for split in range(grid.splits)]
    assert found == ([1] * 7 * n if per_sample and n == 1 else [7] * n if per_sample else shares)
    check_tiles(cfg, z, g, a, b, border)


@pytest.mark.sampled
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize(("h", "radius"), [(17, 16), (32, 31), (33, 31), (48, 31)])
def test_a_halo_that_reaches_across_the_map(h: int, radius: int, border: str) -> None:
    """Blocks of 16 rows fold nearly all of a map in, once and no more."""
    z, g = random(1, 1, h, 9, seed=1), random(1, 1, h, 9, seed=2)
    a, b = gaussians((1,), radius, seed=3), gaussians((1,), radius, seed=4)
    problem = Problem("blur", 1, 1, h, 9, radius, border, 4, False)
    cfg = tile(problem, (1, 16, 16), num_warps=4)
    assert cfg.halo_h == (16 if radius <= 16 else 32)
    check_tiles(cfg, z, g, a, b, border)


def check_tiles(cfg: Config, z: Tensor, g: Tensor, a: Tensor, b: Tensor, border: str) -> None:
    """The blur, and all gradients in one launch."""
    exactly, bound = (exact(a), exact(b), border), tolerance(z.dtype, a.shape[-1] - 1)
    t = torch.stack([a, b])
    y = triton_backend.blur(z, t, border, False, (Launch(cfg, dz=True),))
    assert error(y, oracle.blur(exact(z), *exactly)) < bound
    plan = (Launch(cfg, dz=True, da=True, db=True),)
    dz, grads = triton_backend.blur_backward(g, z, t, border, plan)
    assert error(dz, oracle.blur(exact(g), *exactly, adjoint=True)) < bound
    for mine, want in zip(grads, oracle.tap_grads(exact(g), exact(z), *exactly), strict=True):
        assert error(mine, want) < bound


@triton.jit
def folding(folded_ptr, once_ptr, SIZE: tl.constexpr, BORDER: tl.constexpr, LANES: tl.constexpr):
    lane = tl.arange(0, LANES)
    index = lane - LANES // 2
    tl.store(folded_ptr + lane, fold_index(index, SIZE, BORDER))
    near = (index > -SIZE) & (index < 2 * SIZE - 1)
    tl.store(once_ptr + lane, fold_once(index, SIZE, BORDER), mask=near)


@pytest.mark.parametrize("size", [1, 2, 3, 17, 40])
@pytest.mark.parametrize("border", BORDERS)
def test_kernels_fold_as_the_borders_do(border: str, size: int) -> None:
    """``fold_once`` what lies less than a map outside, ``fold_index`` all; "zeros" clamps."""
    lanes = 256
    folded, once = (torch.full((lanes,), -7, dtype=torch.int32) for _ in range(2))
    folding[(1,)](folded, once, size, border, lanes)
    index = np.arange(lanes) - lanes // 2
    wanted = borders.fold_index(index, size, "replicate" if border == "zeros" else border)
    assert (folded.numpy() == wanted).all()
    near = (index > -size) & (index < 2 * size - 1)
    assert (once.numpy() == np.where(near, wanted, -7)).all()


def test_rows_and_strips_of_a_tile_1024_wide() -> None:
    z = random(1, 1, 40, 1024)
    a, b = gaussians((1,), 15, seed=3), gaussians((1,), 15, seed=4)
    y = triton_backend.blur(z, torch.stack([a, b]), "symmetric", False)
    wanted = oracle.blur(exact(z), exact(a), exact(b), "symmetric")
    assert error(y, wanted) < tolerance(z.dtype, 15)


@pytest.mark.parametrize("kind", ["sliced", "expanded", "stride 0", "transposed"])
def test_strides_serve_without_a_copy(kind: str) -> None:
    x = random(2, 6, 20, 24, seed=1)
    z = {
        "sliced": x[:, 1:4, 2:11, 3:20],
        "expanded": x[:1, :3, :9, :17].expand(2, 3, 9, 17),
        "stride 0": x[:1, :1, :1, :1].expand(2, 3, 9, 17),
        "transposed": x[:, :3, :17, :9].mT,
    }[kind]
    a, b = gaussians((3,), 4, seed=2), gaussians((3,), 4, seed=3)
    wanted = oracle.blur(exact(z), exact(a), exact(b), "symmetric")
    y = triton_backend.blur(z, torch.stack([a, b]), "symmetric", False)
    assert y.is_contiguous()
    assert error(y, wanted) < tolerance(z.dtype, 4)
    dz, (da, _) = triton_backend.blur_backward(z, z, torch.stack([a, b]), "symmetric")
    assert error(dz, wanted) < tolerance(z.dtype, 4)
    da_wanted = oracle.tap_grads(exact(z), exact(z), exact(a), exact(b), "symmetric")[0]
    assert error(da, da_wanted) < tolerance(z.dtype, 4)


def test_empty_batch() -> None:
    z = torch.empty(0, 3, 5, 5)
    a = gaussians((3,), 4)
    assert triton_backend.blur(z, torch.stack([a, a]), "symmetric", False).shape == z.shape
    dz, (da, db) = triton_backend.blur_backward(z, z, torch.stack([a, a]), "symmetric")
    assert dz.shape == z.shape
    assert torch.equal(da, torch.zeros_like(a)) and torch.equal(db, torch.zeros_like(a))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter is NumPy, and NumPy warns
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_in_a_table_or_sigma_gives_nan(value: float) -> None:
    a = gaussians((2,), 4)
    a[0] = value
    y = triton_backend.blur(random(1, 2, 5, 5), torch.stack([a, a]), "symmetric", False)
    assert y[:, 0].isnan().all() and not y[:, 1].isnan().any()
    for family in ("discrete", "sampled"):
        r = torch.tensor([value, 1.0])
        k, _ = triton_backend.gated_taps(r, r, False, 4, family, None)
        assert k[0].isnan().all() and not k[1].isnan().any()


def test_bfloat16_is_lifted_for_the_interpreter() -> None:
    z = random(1, 2, 9, 9, dtype=torch.bfloat16)
    a = gaussians((2,), 4)
    y = triton_backend.blur(z, torch.stack([a, a]), "symmetric", False)
    assert y.dtype == torch.bfloat16
    assert error(y, oracle.blur(exact(z), exact(a), exact(a), "symmetric")) < 2**-8


def eager_half(z: Tensor, r: Tensor, s: Tensor, radius: int) -> Array:
    """float16 as one would write it, the result of each operator rounded once and correctly: an
    eager convolution can do no better, on whatever device."""

    def rounded(x: Array) -> Array:
        return x.astype(np.float16).astype(np.float64)

    taps = rounded(oracle.taps(exact(r.half()), radius))
    identity = np.eye(1, radius + 1).repeat(len(taps), 0)
    rows = rounded(oracle.blur(exact(z), taps, identity, "symmetric"))
    blurred = rounded(oracle.blur(rows, identity, taps, "symmetric"))
    gate = rounded(1 / (1 + np.exp(-exact(s.half()))))
    return rounded(gate[:, None, None] * blurred)


@pytest.mark.parametrize("size", [14, 56, 100])
@pytest.mark.parametrize("sigma", [0.4, 1.0, 3.0, 6.0])
def test_half_precision_is_no_worse_than_eager(sigma: float, size: int) -> None:
    z = random(24 if size < 50 else 2, 4, size, size, dtype=torch.float16)  # enough for a maximum
    r, s = torch.full((4,), sigma), torch.full((4,), 0.7)
    options: dict[str, Any] = dict(
        gaussian="discrete", border="symmetric", truncate=None, max_radius=15
    )
    a, b = triton_backend.gated_taps(r, s, True, 15, "discrete", None)
    mine = exact(triton_backend.blur(z, torch.stack([a, b]), "symmetric", False))
    eager = eager_half(z, r, s, 15)
    wanted = oracle.modulate(exact(z), exact(r), exact(s), **options)
    for norm in (np.max, lambda x: np.sqrt(np.mean(x**2))):
        assert norm(np.abs(mine - wanted)) <= 1.05 * norm(np.abs(eager - wanted))


@pytest.mark.sampled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("size", [7, 40, 100])
@pytest.mark.parametrize("value", [1.0, 0.7, 65504.0, 2**-24])
def test_constants_stay_constant(
    value: float, size: int, dtype: torch.dtype, pytestconfig: pytest.Config
) -> None:
    """Half precision gives the very value back, up to the border."""
    sigma = torch.linspace(0, 12, 40 if size < 100 or pytestconfig.getoption("--all") else 13)
    k, _ = triton_backend.gated_taps(sigma, sigma, False, 15, "discrete", None)
    z = torch.full((1, len(sigma), size, size), value, dtype=dtype)
    y = triton_backend.blur(z, torch.stack([k, k]), "symmetric", False)
    ulp = z - torch.nextafter(z, torch.zeros_like(z))
    allowed = 0 if dtype == torch.float16 else 8  # float32 keeps what two sums of 31 round off
    assert ((y - z).abs() <= allowed * ulp).all()


@pytest.mark.sampled(("size", "border"))
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("size", [20, 70])
@pytest.mark.parametrize("scale", [1e-25, 1e-6, 1.0, 1e6])
def test_half_precision_up_to_its_largest_number(scale: float, size: int, border: str) -> None:
    """Whatever the size and the signs of maps and taps, where the result is a number of float16."""
    radius = 15
    random_taps = partial(random, 2, radius + 1)
    a, b = random_taps(seed=1) * scale, random_taps(seed=2) / scale / 200
    c, d = gaussians((2,), radius) * scale, gaussians((2,), radius, seed=5) / scale / 200
    draw = np.random.default_rng(3).uniform(-65504, 65504, (2, 1, 2, size, 20))
    z, g = torch.from_numpy(draw).half()
    tables = [exact(x) for x in (a, b, c, d)]

    def check(y: Tensor, x: Tensor, pairs: list[tuple[int, int]], adjoint: bool) -> None:
        """y is the sum of the blurs of x by these pairs of tables."""
        wanted, largest = np.zeros(x.shape), 0.0
        for pair in pairs:
            left, right = (tables[i] for i in pair)
            wanted += oracle.blur(exact(x), left, right, border, adjoint=adjoint)
            size = oracle.blur(abs(exact(x)), abs(left), abs(right), border, adjoint=adjoint)
            largest += size.max()
        fits = np.abs(wanted) < 65504
        assert fits.mean() > 0.5
        assert np.abs(exact(y) - wanted)[fits].max() < tolerance(x.dtype, radius) * largest

    one, two = [(2, 3)], [(0, 3), (2, 1)]
    for adjoint in (False, True):
        y = triton_backend.blur(z, torch.stack([c, d]), border, adjoint)
        check(y, z, one, adjoint)
        y = triton_backend.blur_pair(z, torch.stack([a, b]), torch.stack([c, d]), border, adjoint)
        check(y, z, two, adjoint)
    dz, grads = triton_backend.blur_backward(g, z, torch.stack([c, d]), border)
    check(dz, g, one, True)
    wanted = oracle.tap_grads(exact(g), exact(z), *tables[2:], border)
    sizes = oracle.tap_grads(abs(exact(g)), abs(exact(z)), *tables[2:], border)
    for mine, want, largest in zip(grads, wanted, sizes, strict=True):
        assert error(mine, want, largest) < tolerance(z.dtype, radius)


@pytest.mark.sampled
@pytest.mark.parametrize("size", [(20, 40), (70, 20)], ids=str)
@pytest.mark.parametrize("border", BORDERS)
def test_adjoint_of_the_largest_constant(border: str, size: tuple[int, int]) -> None:
    """Where a border folds many taps into one input, the map between the products is larger than
    the map that came."""
    g = torch.full((1, 1, *size), 65504.0, dtype=torch.float16)
    box = torch.full((1, 16), 1 / 31)
    for a, b in ((0.01 * box, box), (box, 0.01 * box)):
        y = triton_backend.blur(g, torch.stack([a, b]), border, True)
        wanted = oracle.blur(exact(g), exact(a), exact(b), border, adjoint=True)
        assert error(y, wanted) < tolerance(g.dtype, 15)
        both = triton_backend.blur_backward(g, g, torch.stack([a, b]), border)
        assert error(both[0], wanted) < tolerance(g.dtype, 15)
        for found, want in zip(
            both[1], oracle.tap_grads(exact(g), exact(g), exact(a), exact(b), border), strict=True
        ):
            assert error(found, want) < tolerance(g.dtype, 15)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter is NumPy, and NumPy warns
def test_random_calls() -> None:
    fuzz.run(seed=0, count=3, backend="triton")


@pytest.mark.sampled
@pytest.mark.parametrize("stride", [2**32, 2**31 + 64])
@pytest.mark.parametrize("size", [5, 70])
def test_samples_far_apart(size: int, stride: int) -> None:
    """Strides of the batch whose products do not fit 32 bits."""
    memory = np.empty(stride + size * 8, np.float16)  # no page that is not touched exists
    x = torch.from_numpy(memory)
    far = x.as_strided((2, 1, size, 8), (stride, size * 8, 8, 1))
    near = random(2, 1, size, 8, dtype=torch.float16)
    far.copy_(near)
    t = torch.stack([gaussians((1,), 4, seed=2), gaussians((1,), 4, seed=3)])
    for adjoint in (False, True):
        y, wanted = (triton_backend.blur(z, t, "reflect", adjoint) for z in (far, near))
        assert torch.equal(y, wanted)
    for g, z in ((far, near), (near, far)):
        wanted = triton_backend.blur_backward(near, near, t, "reflect")
        for mine, want in zip(
            triton_backend.blur_backward(g, z, t, "reflect"), wanted, strict=True
        ):
            assert torch.equal(mine, want)


@pytest.mark.parametrize("truncate", [None, 3.0])
@pytest.mark.parametrize("family", ["discrete", "sampled"])
def test_tables_and_their_gradient(family: str, truncate: float | None) -> None:
    r = torch.tensor([0.0, 0.05, -0.4, 0.9, 2.5, -7.0, 12.0, -40.0, 1e4, 1e20])
    s = torch.linspace(-4, 4, len(r))
    options = dict(gaussian=family, truncate=truncate)
    gate = 1 / (1 + np.exp(-exact(s)))
    for radius in (1, 7, 15, 31):
        taps = oracle.taps(np.abs(exact(r)), radius, **options)
        a, b = triton_backend.gated_taps(r, s, True, radius, family, truncate)
        np.testing.assert_allclose(b.numpy(), taps, atol=3e-7)
        np.testing.assert_allclose(a.numpy(), gate[:, None] * taps, atol=3e-7)
        da, db = random(len(r), radius + 1, seed=1), random(len(r), radius + 1, seed=2)
        dt = torch.stack([da, db])
        dr, ds = triton_backend.gated_taps_grad(r, s, dt, True, radius, family, truncate)
        slope = oracle.taps_derivative(np.abs(exact(r)), radius, **options)
        slope *= np.sign(exact(r))[:, None]
        wanted = ((gate[:, None] * exact(da) + exact(db)) * slope).sum(-1)
        np.testing.assert_allclose(dr.numpy(), wanted, atol=2e-6)
        wanted = gate * (1 - gate) * (exact(da) * taps).sum(-1)
        np.testing.assert_allclose(ds.numpy(), wanted, atol=2e-6)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("truncate", [None, 3.0])
@pytest.mark.parametrize("family", ["discrete", "sampled"])
def test_second_derivative_of_the_tables(family: str, truncate: float | None, gated: bool) -> None:
    """Against autograd through the composition, in float64."""
    r, s = torch.tensor([0.0, 0.3, 0.9, 2.5, 7.0, 30.0]), torch.linspace(-4, 4, 6)
    vr, vs = random(6, seed=1), random(6, seed=2)
    for radius in (1, 7, 31):
        dt = random(2, 6, radius + 1, seed=3)
        x = [y.double().requires_grad_() for y in (r, s, dt)]
        k = composition.taps(x[0], radius, family, truncate)[..., radius:]
        gate = torch.sigmoid(x[1]) if gated else 1 + 0 * x[1]
        form = (x[2] * torch.stack([gate[:, None] * k, k])).sum()
        dr, ds = torch.autograd.grad(form, x[:2], create_graph=True)
        wanted = torch.autograd.grad((vr * dr + vs * ds).sum(), x)
        found = triton_backend.gated_taps_grad_grad(
            r, s, dt, vr, vs, gated, radius, family, truncate
        )
        for mine, want in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine.double(), want, rtol=2e-5, atol=2e-5)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter is NumPy, and NumPy warns
@pytest.mark.parametrize("family", ["discrete", "sampled"])
def test_derivatives_of_the_tables_far_beyond_the_window(family: str) -> None:
    """k_0 - 1/31 ≈ 40/31 / σ²; its derivatives follow until they underflow, and none is NaN."""
    r = torch.tensor([60.0, 1e4, -1e7, 1e9, 1e15, 3e38])
    centre = torch.zeros(2, len(r), 16)
    centre[0, :, 0] = 1
    options = False, 15, family, None
    first = triton_backend.gated_taps_grad(r, r, centre, *options)[0]
    one = torch.ones_like(r)
    second = triton_backend.gated_taps_grad_grad(r, r, centre, one, one, *options)[0]
    for found, wanted in (
        (first, -80 / 31 / r.double() ** 3),
        (second, 240 / 31 / r.double() ** 4),
    ):
        assert found.isfinite().all()
        torch.testing.assert_close(found, wanted.float(), rtol=0.1, atol=1e-36)


@pytest.mark.parametrize("border", BORDERS)
def test_both_backends_agree(border: str) -> None:
    z, g = random(2, 3, 20, 37, seed=1), random(2, 3, 20, 37, seed=2)
    a, b = gaussians((3,), 6, seed=3), gaussians((3,), 6, seed=4)
    pairs = zip(
        (
            triton_backend.blur(z, torch.stack([a, b]), border, False),
            *triton_backend.blur_backward(g, z, torch.stack([a, b]), border),
        ),
        (
            torch_backend.blur(z, torch.stack([a, b]), border, False),
            *torch_backend.blur_backward(g, z, torch.stack([a, b]), border),
        ),
        strict=True,
    )
    for mine, other in pairs:
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))
