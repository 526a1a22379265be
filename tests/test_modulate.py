"""modulate and gaussian_blur on CPU tensors, against SciPy, the oracle and differences."""

from __future__ import annotations

import itertools
import math
import tracemalloc
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.fft import dctn, idctn
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import akm_triton as akm
from akm_triton import borders, gaussian
from akm_triton.backend import torch as torch_backend
from reference import composition, oracle
from tests import fuzz
from tests.common import BORDERS, FAMILIES, random


def test_borders_and_families_are_those_of_the_package() -> None:
    """What the other tests go through."""
    assert BORDERS == borders.BORDERS
    assert FAMILIES == gaussian.FAMILIES


@pytest.mark.parametrize("size", [(1, 1), (7, 12), (28, 28), (33, 100)], ids=str)
@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.0, 3.0])
def test_discrete_symmetric_decays_in_the_cosine_basis(sigma: float, size: tuple[int, int]) -> None:
    z = random(1, 1, *size)
    found = akm.gaussian_blur(z, torch.tensor(sigma, dtype=torch.float64), max_radius=45)
    rates = [np.cos(np.pi * np.arange(n) / n) - 1 for n in size]
    decay = np.exp(sigma**2 * (rates[0][:, None] + rates[1]))
    wanted = idctn(decay * dctn(z[0, 0].numpy(), norm="ortho"), norm="ortho")
    np.testing.assert_allclose(found[0, 0].numpy(), wanted, atol=1e-12)


@pytest.mark.parametrize("size", [(7, 12), (33, 100)], ids=str)
@pytest.mark.parametrize("sigma", [0.34, 1.0, 2.6])
def test_the_seed_is_scipy_gaussian_filter(sigma: float, size: tuple[int, int]) -> None:
    z = random(1, 1, *size)
    options = {key: value for key, value in akm.PAPER.items() if key != "per"}
    found = akm.gaussian_blur(z, torch.tensor(sigma, dtype=torch.float64), **options)
    wanted = ndimage.gaussian_filter(z[0, 0].numpy(), sigma, mode="constant", radius=int(3 * sigma))
    np.testing.assert_allclose(found[0, 0].numpy(), wanted, atol=1e-12)


@pytest.mark.parametrize("truncate", [None, 3.0])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("gaussian", FAMILIES)
def test_values_and_gradients(
    gaussian: str, border: str, shape: tuple[int, ...], truncate: float | None
) -> None:
    options: dict[str, Any] = dict(
        gaussian=gaussian, border=border, truncate=truncate, max_radius=7
    )
    z, g = random(2, 3, 9, 5, seed=1), random(2, 3, 9, 5, seed=2)
    r, s = random(*shape, seed=3), random(*shape, seed=4)
    inputs = [x.requires_grad_() for x in (z, r, s)]
    y = akm.modulate(z, r, s, **options)
    arrays = [x.detach().numpy() for x in inputs]
    np.testing.assert_allclose(y.detach().numpy(), oracle.modulate(*arrays, **options), atol=1e-12)
    grads = torch.autograd.grad(y, inputs, g)
    wanted = oracle.modulate_backward(g.numpy(), *arrays, **options)
    for found, want in zip(grads, wanted, strict=True):
        np.testing.assert_allclose(found.numpy(), want, atol=1e-11)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (40, 33), (14, 100)], ids=str)
@pytest.mark.parametrize("radius", [1, 15, 31])
def test_sizes(radius: int, size: tuple[int, int], border: str) -> None:
    """Products of every shape the PyTorch path chooses among."""
    options: dict[str, Any] = dict(
        gaussian="sampled", border=border, truncate=None, max_radius=radius
    )
    z, g = random(2, 2, *size, seed=1), random(2, 2, *size, seed=2)
    r, s = random(2, seed=3) * 4, random(2, seed=4)
    inputs = [x.requires_grad_() for x in (z, r, s)]
    y = akm.modulate(z, r, s, backend="torch", **options)
    arrays = [x.detach().numpy() for x in inputs]
    np.testing.assert_allclose(y.detach().numpy(), oracle.modulate(*arrays, **options), atol=1e-12)
    for found, want in zip(
        torch.autograd.grad(y, inputs, g),
        oracle.modulate_backward(g.numpy(), *arrays, **options),
        strict=True,
    ):
        np.testing.assert_allclose(found.numpy(), want, atol=1e-10)


@pytest.mark.parametrize("radius", [1, 3, 7, 15, 24, 31])
@pytest.mark.parametrize("channels", [1, 16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("border", ["zeros", "symmetric"])
def test_float32(
    border: str, memory_format: torch.memory_format, channels: int, radius: int
) -> None:
    """oneDNN, which serves float32 alone, has an algorithm for each, and not every one is right."""
    options: dict[str, Any] = dict(
        gaussian="discrete", border=border, truncate=None, max_radius=radius
    )
    maps = (random(1, channels, 104, 96, seed=i) for i in (1, 2))
    z, g = (x.float().contiguous(memory_format=memory_format) for x in maps)
    r, s = (random(channels, seed=3) * 4).float(), random(channels, seed=4).float()
    inputs = [x.requires_grad_() for x in (z, r, s)]
    y = akm.modulate(z, r, s, backend="torch", **options)
    arrays = [x.detach().double().numpy() for x in inputs]
    np.testing.assert_allclose(y.detach().numpy(), oracle.modulate(*arrays, **options), atol=2e-6)
    for found, want in zip(
        torch.autograd.grad(y, inputs, g),
        oracle.modulate_backward(g.double().numpy(), *arrays, **options),
        strict=True,
    ):
        np.testing.assert_allclose(found.numpy(), want, atol=1e-5 * max(1, abs(want).max()))


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("gaussian", FAMILIES)
def test_gradcheck_of_the_layer(gaussian: str, border: str) -> None:
    """x, weight, bias, r and s, first and second order."""
    layer = akm.AKMConv2d(
        2, 2, 2, gaussian=gaussian, border=border, max_radius=4, dtype=torch.float64
    )
    names = ("weight", "bias", "r", "s")
    x = random(1, 2, 4, 5).requires_grad_()
    parameters = [random(*getattr(layer, n).shape, seed=i) for i, n in enumerate(names)]
    parameters[2] = parameters[2].abs() + 0.3

    def call(x: Tensor, *values: Tensor) -> Tensor:
        given = dict(zip(names, values, strict=True))
        result: Tensor = torch.func.functional_call(layer, given, (x,))
        return result

    inputs = (x, *(p.requires_grad_() for p in parameters))
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize("gaussian", FAMILIES)
@pytest.mark.parametrize("border", BORDERS)
def test_third_order(border: str, gaussian: str) -> None:
    z, r, s = random(1, 2, 3, 4), torch.tensor([0.6, 1.4]).double(), random(2, seed=1)

    def second(r: Tensor, s: Tensor) -> Tensor:
        y = akm.modulate(z, r, s, border=border, gaussian=gaussian, max_radius=3)
        (first,) = torch.autograd.grad(y.pow(3).sum(), r, create_graph=True)
        return torch.autograd.grad(first.pow(2).sum(), s, create_graph=True)[0]

    assert torch.autograd.gradcheck(second, (r.requires_grad_(), s.requires_grad_()))


@given(
    st.sampled_from(BORDERS), st.integers(1, 12), st.integers(1, 12), st.integers(1, 20),
    st.floats(0, 9),
)  # fmt: skip
def test_gain_and_adjoint(border: str, h: int, w: int, radius: int, sigma: float) -> None:
    """Constants stay constant where the border gives nothing away; <g, Bz> = <Bᵀg, z>."""
    options: dict[str, Any] = dict(border=border, max_radius=radius)
    spread = torch.tensor(sigma, dtype=torch.float64)
    if border != "zeros":
        z = torch.full((1, 1, h, w), 1.7, dtype=torch.float64)
        torch.testing.assert_close(akm.gaussian_blur(z, spread, **options), z)
    z, g = random(1, 1, h, w, seed=1).requires_grad_(), random(1, 1, h, w, seed=2)
    y = akm.gaussian_blur(z, spread, **options)
    (dz,) = torch.autograd.grad(y, z, g)
    left, right = (g * y.detach()).sum(), (dz * z.detach()).sum()
    assert float(left) == pytest.approx(float(right), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [14, 56])
def test_half_precision_is_no_worse_than_eager(
    size: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # its float16 convolution of 31 columns never returns on CPUs with AVX512-FP16 (PyTorch 2.13)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    options: dict[str, Any] = dict(
        gaussian="discrete", border="symmetric", truncate=None, max_radius=15
    )
    z = random(2, 4, size, size, dtype=dtype)
    r, s = torch.tensor([0.4, 1.0, 3.0, 6.0]), torch.full((4,), 0.7)
    y = akm.modulate(z, r, s, **options)
    assert y.dtype == dtype
    wanted = oracle.modulate(z.double().numpy(), r.numpy(), s.numpy(), **options)
    eager = composition.modulate(z, r.to(dtype), s.to(dtype), **options)
    mine, theirs = (np.abs(x.double().numpy() - wanted).max() for x in (y, eager))
    assert mine <= theirs


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_format_is_kept(layout: torch.memory_format) -> None:
    z = random(2, 4, 6, 5).contiguous(memory_format=layout).requires_grad_()
    y = akm.modulate(z, torch.ones(4).double(), torch.ones(4).double())
    assert y.is_contiguous(memory_format=layout)
    (dz,) = torch.autograd.grad(y, z, torch.ones_like(y))
    assert dz.is_contiguous(memory_format=layout)


def test_three_axes_and_empty_batches() -> None:
    z, r, s = random(3, 6, 5), random(3, seed=1), random(3, seed=2)
    torch.testing.assert_close(akm.modulate(z, r, s), akm.modulate(z[None], r, s)[0])
    r, s = r.requires_grad_(), s.requires_grad_()
    y = akm.modulate(torch.empty(0, 3, 6, 5).double(), r, s)
    assert y.shape == (0, 3, 6, 5)
    for grad in torch.autograd.grad(y.sum(), (r, s)):
        assert torch.equal(grad, torch.zeros(3).double())


@pytest.mark.parametrize(
    "shapes", list(itertools.product([(), (1,), (3,), (2, 3)], repeat=2)), ids=str
)
def test_r_and_s_of_different_shapes(shapes: tuple[tuple[int, ...], ...]) -> None:
    z, r, s = random(2, 3, 5, 4), random(*shapes[0], seed=1), random(*shapes[1], seed=2)
    options: dict[str, Any] = dict(
        gaussian="discrete", border="symmetric", truncate=None, max_radius=15
    )
    wanted = oracle.modulate(z.numpy(), r.numpy(), s.numpy(), **options)
    np.testing.assert_allclose(akm.modulate(z, r, s).numpy(), wanted, atol=1e-12)


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("of_each", [True, False], ids=["each sample", "all samples"])
def test_the_result_may_be_changed_in_place(of_each: bool, samples: int, grad: bool) -> None:
    """As by ``nn.ReLU(inplace=True)``; a view, which PyTorch would not let change, is no result."""
    z = random(samples, 3, 8, 8, dtype=torch.float32).requires_grad_()
    r = torch.ones((samples, 3) if of_each else 3, requires_grad=True)
    scale = torch.tensor(2.0, requires_grad=True)
    results = []
    for change in (Tensor.mul_, torch.mul):
        with torch.set_grad_enabled(grad):
            y = akm.modulate(z, r, torch.zeros(3))
        y = change(y, scale)
        results.append((y, *torch.autograd.grad(y.square().sum(), [z, r] if grad else [scale])))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_inf_in_r_give_nan(value: float) -> None:
    y = akm.modulate(random(1, 2, 5, 5), torch.tensor([value, 1.0]).double(), torch.zeros(2))
    assert y[:, 0].isnan().all() and not y[:, 1].isnan().any()


def test_autocast_casts_the_map_and_leaves_the_tables_alone() -> None:
    z, r, s = random(2, 3, 20, 20, dtype=torch.float32), torch.rand(3) + 1, torch.rand(3)
    halved, double = akm.modulate(z.bfloat16(), r, s), akm.modulate(z.double(), r, s)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(akm.modulate(z, r, s), halved)
        assert torch.equal(akm.modulate(z.double(), r, s), double)  # as any operator under autocast


def test_random_calls() -> None:
    fuzz.run(seed=0, count=150, backend="torch")


def test_a_sum_of_two_blurs_is_rounded_once() -> None:
    """Each of them would be too large for half precision."""
    z = torch.full((1, 1, 9, 9), 60000.0, dtype=torch.float16)
    k = akm.gaussian_taps(torch.tensor([2.0]), 5)
    y = torch_backend.blur_pair(
        z, torch.stack([k, -3.0 * k]), torch.stack([k, 2.5 * k]), "symmetric"
    )
    torch.testing.assert_close(y, torch.full_like(z, -30000.0))


@pytest.mark.parametrize("shape", [(1, 3), (2, 1), (1, 1)])
def test_axes_of_size_one(shape: tuple[int, int]) -> None:
    z, r, s = random(2, 3, 5, 6), random(*shape, seed=1), random(2, 3, seed=2)
    wide = r.expand(2, 3).contiguous()
    for parameters, expanded in (((r, s), (wide, s)), ((s, r), (s, wide))):
        y = akm.modulate(z, *parameters)
        torch.testing.assert_close(y, akm.modulate(z, *expanded))
    torch.testing.assert_close(akm.gaussian_blur(z, r), akm.gaussian_blur(z, wide))


LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("per", ["channel", "sample"])
@pytest.mark.parametrize("radius", [1, 5])
@pytest.mark.parametrize("border", ["symmetric", "reflect"])
@pytest.mark.parametrize("memory_format", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_derivatives_inside_autocast(
    dtype: torch.dtype, memory_format: torch.memory_format, border: str, radius: int, per: str
) -> None:
    """The same up to third order as of a map that was cast before, without autocast: nothing but
    the map is rounded, neither products of maps nor those of taps."""
    maps = random(2, 3, 48, 48).to(dtype).float().contiguous(memory_format=memory_format)
    shape = (3,) if per == "channel" else (2, 3)
    leaves = [maps, random(*shape, seed=1).float() + 1, random(*shape, seed=2).float()]

    def gradients(z: Tensor, r: Tensor, s: Tensor, cast: bool) -> list[Tensor]:
        inputs = [x.detach().requires_grad_() for x in (z, r, s)]
        z = inputs[0].to(dtype) if cast else inputs[0]
        y = akm.modulate(z, inputs[1], inputs[2], max_radius=radius, border=border)
        assert y.dtype == dtype
        outputs: tuple[Tensor, ...] = (y,)
        found = []
        for _ in range(3):
            loss = sum((x.float() ** 2).mean() for x in outputs)
            assert isinstance(loss, Tensor)
            grads = torch.autograd.grad(loss, inputs, create_graph=True)
            found += grads
            outputs = grads[1:]
        return found

    wanted = gradients(*leaves, cast=True)
    with torch.autocast("cpu", dtype=dtype):
        found = gradients(*leaves, cast=False)
    for mine, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(
            mine, want, rtol=1e-5, atol=1e-5 * float(want.detach().abs().max())
        )


@pytest.mark.parametrize("lacking", [(), ("cpu",)], ids=["float64", "no float64"])
def test_taps_inside_autocast(lacking: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaussian, "_WITHOUT_FLOAT64", lacking)
    sigma = torch.tensor([0.5, 3.0, 40.0], requires_grad=True)
    wanted = akm.gaussian_taps(sigma)
    (slope,) = torch.autograd.grad(wanted[:, 0].sum(), sigma)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = akm.gaussian_taps(sigma)
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(torch.autograd.grad(found[:, 0].sum(), sigma), (slope,))


NETWORKS = {
    "AKM, AKM": lambda: [akm.AKMConv2d(2, 4, 3), nn.ReLU(), akm.AKMConv2d(4, 2, 3)],
    "AKM, conv": lambda: [akm.AKMConv2d(2, 4, 3), nn.Conv2d(4, 2, 3)],
    "modulation, conv": lambda: [akm.Modulation2d(2), nn.Conv2d(2, 4, 3)],
    "conv, modulation, linear": lambda: [
        nn.Conv2d(2, 2, 3), akm.Modulation2d(2), nn.Flatten(), nn.Linear(72, 4),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_autocast_under_vmap_is_that_of_a_convolution(name: str) -> None:
    """Under vmap PyTorch leaves a batched convolution in float32. What stands beside it must too,
    or the next convolution gets a map of another dtype than its weight."""
    torch.manual_seed(0)
    model = nn.Sequential(*NETWORKS[name]())
    parameters = dict(model.named_parameters())
    x = random(3, 2, 2, 8, 8).float()

    def loss(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, p, (x,)).float().square().mean()

    over_maps = torch.func.vmap(loss, (None, 0))
    transforms = {
        "vmap": lambda: over_maps(parameters, x),
        "vmap of grad": lambda: torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x),
        "grad of vmap": lambda: torch.func.grad(lambda p: over_maps(p, x).sum())(parameters),
        "nested": lambda: torch.func.vmap(lambda x: over_maps(parameters, x[None]))(x),
        "vmap of grad of vmap": lambda: torch.func.vmap(
            lambda x: torch.func.grad(lambda p: over_maps(p, x[None]).sum())(parameters)
        )(x),
        "of a constant": lambda: torch.func.vmap(lambda q: q * loss(parameters, x[0]))(x[:, 0]),
    }
    for transform in transforms.values():
        wanted = tree_leaves(transform())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = tree_leaves(transform())
        for mine, want in zip(found, wanted, strict=True):
            assert (mine - want).abs().max() < 2**-4 * want.abs().max() + 1e-3


def test_which_devices_cast_the_convolution_that_vmap_makes() -> None:
    """A CPU does not, the others do, and what stands beside it does as they do."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    cast = {x: has_kernel("aten::convolution", f"Autocast{x}") for x in ("CPU", "CUDA", "XPU")}
    assert cast == {"CPU": False, "CUDA": True, "XPU": True}


def test_autocast_under_compiled_vmap() -> None:
    torch._dynamo.reset()
    akm_layer, conv = akm.AKMConv2d(2, 4, 3), nn.Conv2d(4, 2, 3)

    def squares(x: Tensor) -> Tensor:
        return torch.func.vmap(lambda x: conv(akm_layer(x)))(x).float().square()

    x = random(3, 2, 2, 8, 8).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.compile(squares, fullgraph=True, backend="aot_eager")(x)
        torch.testing.assert_close(found, squares(x))


Z = torch.zeros(2, 3, 5, 5)
ONE = torch.ones(3)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # nested tensors are called a prototype
    NESTED = torch.nested.nested_tensor([Z[0], Z[1, :, :3]])
REFUSALS: list[tuple[dict[str, Any], type[Exception], str]] = [
    (dict(z=[1.0]), TypeError, r"z must be a Tensor, got list"),
    (dict(z=Z.int()), TypeError, r"z must be float16, .* got torch.int32"),
    (dict(z=Z.to(torch.complex64)), TypeError, r"z must be float16, .* got torch.complex64"),
    (dict(z=Z[0, 0]), ValueError, r"z must be \(N, C, H, W\) or \(C, H, W\), got shape \(5, 5\)"),
    (
        dict(z=Z[..., :0]),
        ValueError,
        r"z must have channels, rows and columns, got .*\(2, 3, 5, 0\)",
    ),
    (dict(z=NESTED), TypeError, r"z must be a dense tensor, got layout nested"),
    (dict(z=Z.to_sparse()), TypeError, r"z must be a dense tensor, got layout sparse_coo"),
    (dict(z=Z.to_mkldnn()), TypeError, r"z must be a dense tensor, got layout mkldnn"),
    (dict(s=ONE.to_sparse()), TypeError, r"s must be a dense tensor, got layout sparse_coo"),
    (dict(r=torch.ones(2, 2)), ValueError, r"r must have shape .* got \(2, 2\)"),
    (dict(r="1"), TypeError, r"r must be a Tensor or a number, got str"),
    (dict(s=True), TypeError, r"s must be a Tensor or a number, got bool"),
    (dict(r=ONE.int()), TypeError, r"r must be floating point, got torch.int32"),
    (dict(r=torch.ones(4)), ValueError, r"r must have shape .*\(3,\) or \(2, 3\).* got \(4,\)"),
    (dict(s=torch.ones(3, 3)), ValueError, r"s must have shape .* got \(3, 3\)"),
    (dict(s=ONE.to("meta")), ValueError, r"s is on meta but z is on cpu"),
    (dict(gaussian="box"), ValueError, r"gaussian must be one of .* got 'box'"),
    (dict(border="wrap"), ValueError, r"border must be one of .* got 'wrap'"),
    (dict(truncate=0.0), ValueError, r"truncate must be None or positive .* got 0.0"),
    (dict(truncate=math.nan), ValueError, r"truncate must be None or positive .* got nan"),
    (dict(truncate=-math.inf), ValueError, r"truncate must be None or positive .* got -inf"),
    (dict(truncate=[3]), TypeError, r"truncate must be None or a number, got \[3\]"),
    (dict(truncate=True), TypeError, r"truncate must be None or a number, got True"),
    (dict(truncate="3"), TypeError, r"truncate must be None or a number, got '3'"),
    (dict(truncate=ONE), TypeError, r"truncate must be None or a number, got tensor"),
    (dict(max_radius=0), ValueError, r"max_radius must be at least 1 pixel, got 0"),
    (dict(max_radius=256), ValueError, r"max_radius must be at most 255 pixels, .* got 256"),
    (dict(max_radius=2**40), ValueError, r"max_radius must be at most 255 pixels"),
    (dict(max_radius=2.0), TypeError, r"max_radius must be an int \(pixels\), got float"),
    (dict(max_radius=True), TypeError, r"max_radius must be an int \(pixels\), got bool"),
    (dict(backend="cuda"), ValueError, r"backend must be one of .* got 'cuda'"),
    (dict(backend="triton"), ValueError, r"backend 'triton' needs CUDA tensors, got z on cpu"),
    (dict(backend="triton", z=Z.double()), TypeError, r"backend 'triton' takes .* got float64"),
    (dict(backend="triton", max_radius=32), ValueError, r"takes max_radius up to 31, got 32"),
]


@pytest.mark.parametrize(("change", "error", "message"), REFUSALS, ids=lambda x: str(x)[:40])
def test_refusals(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = dict(z=Z, r=ONE, s=ONE) | change
    with pytest.raises(error, match=message):
        akm.modulate(arguments.pop("z"), arguments.pop("r"), arguments.pop("s"), **arguments)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_number_serves_all_channels(dtype: torch.dtype) -> None:
    z = random(2, 3, 6, 7, dtype=dtype)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    r, s = torch.full((3,), 0.7, dtype=exact), torch.full((2, 3), -1.0, dtype=exact)
    closeness = dict(rtol=1e-12, atol=1e-12) if dtype == torch.float64 else {}
    for found, wanted in (
        (akm.modulate(z, 0.7, s), akm.modulate(z, r, s)),
        (akm.modulate(z, r, -1), akm.modulate(z, r, s)),
        (akm.modulate(z, np.float64(0.7), -1.0), akm.modulate(z, r, s)),
        (akm.gaussian_blur(z[0], -0.7), akm.gaussian_blur(z[0], r)),
        (akm.gaussian_taps(0.7), akm.gaussian_taps(torch.tensor(0.7))),
    ):
        torch.testing.assert_close(found, wanted, **closeness)
    assert akm.gaussian_blur(z, math.inf).isnan().all()


def test_an_r_of_each_sample_serves_all_its_channels() -> None:
    z, r = random(2, 3, 6, 7), torch.tensor([[0.5], [1.5]])
    assert torch.equal(akm.gaussian_blur(z, r), akm.gaussian_blur(z, r.expand(2, 3)))


def test_numbers_of_numpy_are_numbers() -> None:
    options: dict[str, Any] = dict(gaussian="sampled", max_radius=np.int64(7))
    y = akm.modulate(Z, ONE, ONE, truncate=np.float32(1.5), **options)
    assert torch.equal(y, akm.modulate(Z, ONE, ONE, gaussian="sampled", max_radius=7, truncate=1.5))
    layer = akm.Modulation2d(np.int64(3), max_radius=np.int64(7), truncate=np.float64(3))
    assert [type(x) for x in (layer.channels, layer.max_radius, layer.truncate)] == [
        int,
        int,
        float,
    ]


@pytest.mark.parametrize("order", [1.5, "1", True, None])
def test_warmup_refuses_what_is_no_order(order: Any) -> None:
    with pytest.raises(TypeError, match=f"order must be an int, got {order!r}"):
        akm.warmup(Z, ONE, ONE, order=order)


def test_sigma_is_named_in_its_refusal() -> None:
    with pytest.raises(ValueError, match=r"sigma must have shape"):
        akm.gaussian_blur(Z, torch.ones(7))


def test_environment_names_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AKM_BACKEND", "torch")
    akm.modulate(Z, ONE, ONE)
    monkeypatch.setenv("AKM_BACKEND", "triton")
    with pytest.raises(ValueError, match="needs CUDA tensors"):
        akm.modulate(Z, ONE, ONE)
    monkeypatch.setenv("AKM_BACKEND", "fast")
    with pytest.raises(ValueError, match="AKM_BACKEND must be one of"):
        akm.modulate(Z, ONE, ONE)


def test_the_largest_radius() -> None:
    """A box of everything, on a map that is much smaller."""
    z = random(1, 1, 6, 4)
    y = akm.gaussian_blur(z, torch.tensor(1e9), max_radius=255, border="circular")
    torch.testing.assert_close(y, z.mean().expand_as(z), rtol=0, atol=1e-2)
    assert akm.Modulation2d(1, max_radius=255).max_radius == 255


def test_making_a_constant_takes_little_more_than_to_keep_it() -> None:
    (block,) = borders.row_blocks(232, 100, "symmetric", 32)
    like = torch.zeros((), dtype=torch.float64)
    tracemalloc.start()
    try:
        made = borders.indicator(block, 100, "symmetric", like)
        peak = tracemalloc.get_traced_memory()[1]  # of NumPy alone
    finally:
        tracemalloc.stop()
    assert peak < made.nbytes


def test_constants_that_are_kept_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def bytes_kept() -> int:
        return sum(x.nbytes for x in borders._kept.values())

    monkeypatch.setattr(borders, "_kept", {})
    monkeypatch.setattr(borders, "KEPT_BYTES", 20_000)
    sigma, most = torch.tensor(2.0), 0
    options: dict[str, Any] = dict(max_radius=6, border="replicate", backend="torch")
    for side in (5, 9, 5, 12, 20, 5, 33):
        z = random(1, 2, side, side, dtype=torch.float32)
        y = akm.gaussian_blur(z, sigma, **options)
        most = max(most, bytes_kept())
        assert bytes_kept() <= 20_000
        kept = dict(borders._kept)
        assert torch.equal(akm.gaussian_blur(z, sigma, **options), y)
        assert all(borders._kept[key] is x for key, x in kept.items())  # made once
    assert most > 10_000
