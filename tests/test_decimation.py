"""A blur before decimation: of functions, layers and pools, on the PyTorch path."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, jvp, vmap
from torch.utils.flop_counter import FlopCounterMode

import akm_triton as akm
import akm_triton.surgery.pictures
from akm_triton.backend import torch as torch_backend
from akm_triton.backend.layout import is_channels_last
from reference import composition, oracle
from tests.common import BORDERS, FAMILIES, random

STRIDES = (2, 3, (2, 1), (1, 4), (50, 3))


def pair(stride: Any) -> tuple[int, int]:
    return stride if isinstance(stride, tuple) else (stride, stride)


def kept(y: Any, stride: Any) -> Any:
    """By slicing, the rows and columns that a stride keeps."""
    down, across = pair(stride)
    return y[..., ::down, ::across]


# The functions


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("per", [(), (3,), (2, 3)], ids=["layer", "channel", "sample"])
@pytest.mark.parametrize("border", BORDERS)
def test_values(border: str, per: tuple[int, ...], layout: str) -> None:
    """On maps of every algorithm: cosines, products whole and in blocks, convolutions."""
    sizes = [(1, 9, 3), (5, 7, 9), (14, 14, 15), (33, 21, 1), (40, 50, 4), (70, 40, 20)]
    for i, (h, w, radius) in enumerate(sizes):
        for stride in STRIDES[i % 2 :: 2]:
            z = random(2, 3, h, w, seed=i, layout=layout)
            r, s = abs(random(*per, seed=7)) * 2, random(*per, seed=8)
            options: dict[str, Any] = dict(
                border=border, max_radius=radius, gaussian=FAMILIES[i % 2], truncate=None
            )
            y = akm.modulate(z, r, s, stride=stride, **options)
            wanted = oracle.modulate(z.numpy(), r.numpy(), s.numpy(), **options)
            np.testing.assert_allclose(y.numpy(), kept(wanted, stride), atol=1e-12)


@pytest.mark.parametrize("per", [(3,), (0, 3)], ids=["channel", "sample"])
@pytest.mark.parametrize("size", [(7, 9), (70, 40)], ids=str)
def test_an_empty_batch(size: tuple[int, int], per: tuple[int, ...]) -> None:
    z, r = torch.zeros(0, 3, *size, requires_grad=True), torch.ones(per, requires_grad=True)
    for border in BORDERS:
        y = akm.gaussian_blur(z, r, border=border, stride=(2, 3))
        assert y.shape == kept(z, (2, 3)).shape
        grads = torch.autograd.grad(y.sum(), (z, r))
        assert [x.shape for x in grads] == [z.shape, r.shape]


def test_a_stride_of_one_is_none() -> None:
    z, sigma = random(2, 3, 20, 17), random(3).abs()
    for stride in (1, (1, 1), [1, 1]):
        y = akm.gaussian_blur(z, sigma, stride=stride)  # type: ignore[arg-type]
        assert torch.equal(y, akm.gaussian_blur(z, sigma))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_and_format_stay(dtype: torch.dtype) -> None:
    for layout in ("nchw", "channels_last"):
        for size in ((9, 9), (40, 34)):
            z = random(2, 3, *size, dtype=dtype, layout=layout)
            y = akm.modulate(z, 1.3, 0.5, stride=2)
            assert y.dtype == dtype and is_channels_last(y) == (layout == "channels_last")
            torch.testing.assert_close(y, kept(akm.modulate(z, 1.3, 0.5), 2))
            assert torch.equal(akm.modulate(z[0], 1.3, 0.5, stride=2), y[0])
            with torch.autocast("cpu", torch.bfloat16):
                assert akm.modulate(z, 1.3, 0.5, stride=2).dtype == torch.bfloat16


@pytest.mark.parametrize("border", BORDERS)
def test_derivatives(border: str) -> None:
    """Two orders, and one of forward mode, by finite differences."""
    i = BORDERS.index(border)
    h, w, radius = [(5, 4, 3), (3, 5, 2), (4, 5, 2), (1, 5, 4), (4, 3, 2)][i]
    stride = STRIDES[i]
    per = [(2,), (1, 2), (1,), (2,), (1, 2)][i]
    z = random(1, 2, h, w).requires_grad_()
    r, s = ((random(*per, seed=seed) + 1.1).requires_grad_() for seed in (1, 2))

    def call(*x: Tensor) -> Tensor:
        return akm.modulate(*x, border=border, max_radius=radius, stride=stride)

    assert torch.autograd.gradcheck(call, (z, r, s), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, (z, r, s), fast_mode=True)


@pytest.mark.parametrize("size", [(9, 12), (40, 40), (64, 33)], ids=str)
@pytest.mark.parametrize("border", ["symmetric", "replicate"])
def test_what_is_not_kept_is_not_computed(border: str, size: tuple[int, int]) -> None:
    """Counted in products and convolutions: of 16 pixels one is kept."""

    def flops(per: tuple[int, ...], radius: int, stride: tuple[int, int]) -> int:
        z, t = random(2, 3, *size), random(2, *per, radius + 1)
        with FlopCounterMode(display=False) as counter:
            torch_backend.blur(z, t, border, stride=stride)
        return int(counter.get_total_flops())

    for per, radius in (((3,), 2), ((3,), 12), ((2, 3), 5)):
        whole, part = flops(per, radius, (1, 1)), flops(per, radius, (4, 4))
        assert part < 0.75 * whole  # the way into the cosines is whole, and the making of matrices


def test_flops() -> None:
    """Two passes: of all columns, then of those kept."""
    z = random(2, 3, 11, 8)
    with FlopCounterMode(display=False) as counter:
        akm.gaussian_blur(z, 1.0, max_radius=4, stride=(2, 3))
    assert counter.get_total_flops() >= 2 * 9 * 2 * 3 * (6 * 8 + 6 * 3)
    counts = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    assert sum(n for op, n in counts.items() if "akm" in op) == 2 * 9 * 2 * 3 * (6 * 8 + 6 * 3)


@pytest.mark.parametrize(
    ("stride", "error", "message"),
    [
        (0, ValueError, "stride must be at least 1, got 0"),
        ((2, -1), ValueError, r"stride must be at least 1, got \(2, -1\)"),
        (2.0, TypeError, "stride must be an int or a pair of ints, got 2.0"),
        (True, TypeError, "stride must be an int or a pair of ints, got True"),
        ((1, 2, 3), TypeError, "stride must be an int or a pair of ints"),
        ("2", TypeError, "stride must be an int or a pair of ints, got '2'"),
        (None, TypeError, "stride must be an int or a pair of ints, got None"),
    ],
)
def test_refuses_what_is_no_stride(stride: Any, error: type[Exception], message: str) -> None:
    for call in (
        lambda: akm.gaussian_blur(torch.zeros(1, 1, 4, 4), 1.0, stride=stride),
        lambda: akm.modulate(torch.zeros(1, 1, 4, 4), 1.0, 0.0, stride=stride),
    ):
        with pytest.raises(error, match=message):
            call()


def test_transforms_nest() -> None:
    """vmap over tasks of a derivative, of a map under a per-task sigma, and a jvp of it."""
    z, r = random(3, 2, 2, 7, 6), random(3, 2).abs() + 0.4

    def loss(blur: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda r, z: blur(z, r).pow(3).sum()

    def mine(z: Tensor, r: Tensor) -> Tensor:
        return akm.gaussian_blur(z, r, max_radius=3, border="reflect", stride=(3, 2))

    def plain(z: Tensor, r: Tensor) -> Tensor:
        open_gate = torch.full_like(r, 50)
        options: dict[str, Any] = dict(gaussian="discrete", border="reflect", truncate=None)
        return kept(composition.modulate(z, r, open_gate, max_radius=3, **options), (3, 2))

    found, wanted = (vmap(grad(loss(f), (0, 1)))(r, z) for f in (mine, plain))
    torch.testing.assert_close(found, wanted)
    tangents = z[0].cos(), r[0].cos()
    found, wanted = (
        jvp(grad(loss(lambda z, r, f=f: f(r, z))), (z[0], r[0]), tangents) for f in (mine, plain)
    )
    torch.testing.assert_close(found, wanted)


class Blurs(nn.Module):
    """Every algorithm for maps of any size, at a stride."""

    def forward(self, z: Tensor) -> list[Tensor]:
        r = torch.tensor([0.4, 1.3, 2.8])
        of_samples = r * z.mean((2, 3)).sigmoid()
        cases = [(r, "symmetric", 2), (r, "reflect", 4), (of_samples, "circular", 1)]
        return [
            akm.gaussian_blur(z, sigma, border=border, max_radius=radius, stride=(2, 3))
            for sigma, border, radius in cases
        ]


def test_a_program_for_every_size() -> None:
    """Exported with dynamic rows and columns, in plain operators. As with any strided operator of
    PyTorch (2.13), the program is for results of two rows and columns and more."""
    sizes = {i: torch.export.Dim(name, min=4, max=64) for i, name in ((2, "height"), (3, "width"))}
    model = Blurs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's own doing
        program = torch.export.export(model, (torch.randn(2, 3, 12, 10),), dynamic_shapes=(sizes,))
        plain = program.run_decompositions()
    assert not any("akm_triton" in str(node.target) for node in plain.graph.nodes)
    run = plain.module()
    for shape in ((2, 3, 12, 10), (2, 3, 4, 33), (2, 3, 21, 5)):
        z = torch.randn(shape)
        torch.testing.assert_close(run(z), model(z), rtol=0, atol=2e-6)


def test_compiled_with_every_size_dynamic() -> None:
    torch._dynamo.reset()
    layer = akm.AKMConv2d(3, 4, 3, padding=1, stride=2, max_radius=4, decimate="before")
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((4, 3, 13, 12), (5, 3, 21, 17)):
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x), layer(x))


# The convolution


@pytest.mark.parametrize(
    "options",
    [
        dict(stride=2, padding=1),
        dict(stride=(3, 1), padding=(0, 2), dilation=2),
        dict(stride=2, padding=1, padding_mode="circular", bias=False, groups=2),
        dict(stride=3, padding="valid"),
        dict(padding="same"),
    ],
    ids=str,
)
def test_the_stride_comes_after_the_blur(options: Any) -> None:
    layer = akm.AKMConv2d(4, 6, 3, decimate="before", max_radius=5, **options)
    nn.init.uniform_(layer.r, 0.2, 2)
    whole = nn.Conv2d(4, 6, 3, **{**options, "stride": 1})
    whole.load_state_dict({k: x for k, x in layer.state_dict().items() if k in ("weight", "bias")})
    x = torch.randn(2, 4, 13, 12)
    wanted = kept(akm.modulate(whole(x), layer.r, layer.s, max_radius=5), layer.stride)
    torch.testing.assert_close(layer(x), wanted)
    torch.testing.assert_close(layer(x[0]), wanted[0], rtol=1e-5, atol=1e-5)
    assert layer.blurred_size(x) == whole(x).shape[2:]
    after = akm.AKMConv2d(4, 6, 3, **options)
    assert after.blurred_size(x) == after(x).shape[2:] == layer(x).shape[2:]
    after.load_state_dict(layer.state_dict())
    for each in (layer, after):
        nn.init.zeros_(each.r)
    torch.testing.assert_close(layer(x), after(x))  # without a blur they are the same


def test_before_aliases_less_than_after() -> None:
    """A wave of 0.95 times the finest frequency, at every second pixel one of 0.1 times it. Each
    blur damps what it sees, by exp(σ² (cos ω − 1)): the fine wave, or the coarse one that it has
    become."""
    wave = torch.cos(0.95 * torch.pi * torch.arange(80)).double()
    x, sigma = wave.expand(1, 1, 80, 80), 1.0
    sizes = {}
    for decimate, omega in (("before", 0.95 * torch.pi), ("after", 2 * 0.95 * torch.pi)):
        layer = akm.AKMConv2d(1, 1, 1, stride=2, bias=False, border="circular", decimate=decimate)
        layer = layer.double()
        with torch.no_grad():
            layer.weight.fill_(1)
            layer.r.fill_(sigma)
            layer.s.fill_(50)
            y = layer(x)
        sizes[decimate] = float(y.abs().max() / wave[::2].abs().max())
        assert sizes[decimate] == pytest.approx(np.exp(sigma**2 * (np.cos(omega) - 1)), rel=1e-3)
    assert sizes["before"] < 0.15 * sizes["after"]


def test_before_is_steadier_when_the_image_moves() -> None:
    """An image that moves by a pixel moves its output by half a pixel, which a Fourier series does
    exactly; what is off is what has aliased."""
    image = torch.randn(1, 1, 64, 64)
    half = torch.exp(-1j * torch.pi * torch.fft.fftfreq(32))

    def off(decimate: str, sigma: float) -> float:
        layer = akm.AKMConv2d(
            1, 1, 3, stride=2, padding=1, padding_mode="circular", border="circular", bias=False,
            decimate=decimate,
        ).requires_grad_(False)  # fmt: skip
        nn.init.constant_(layer.r, sigma)
        nn.init.dirac_(layer.weight)
        y, moved = layer(image), layer(image.roll((1, 1), (2, 3)))
        wanted = torch.fft.ifft2(torch.fft.fft2(y) * half[:, None] * half).real
        return ((moved - wanted).norm() / y.norm()).item()

    assert off("before", 1.5) < 0.3 * min(off("after", 0.0), off("after", 1.5))


def test_the_choice_is_checked_shown_and_kept() -> None:
    with pytest.raises(ValueError, match=r"decimate must be one of .* got 'no'"):
        akm.AKMConv2d(3, 8, 3, decimate="no")
    layer = akm.AKMConv2d(3, 8, 3, stride=2, decimate="before")
    assert repr(layer).endswith("max_radius=15, decimate='before')")
    assert pickle.loads(pickle.dumps(layer)).decimate == "before"
    old = akm.AKMConv2d(3, 8, 3, stride=2)
    del old.decimate  # as it was saved by an earlier version
    assert copy.deepcopy(old)(torch.zeros(1, 3, 9, 9)).shape == (1, 8, 4, 4)


# Whole networks


def strided() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, stride=2), nn.BatchNorm2d(16),
    ).eval()  # fmt: skip


def test_convert_fold_and_revert() -> None:
    x = torch.randn(2, 16, 21, 18)
    plain, model = strided(), strided()
    with pytest.raises(ValueError, match="decimate must be one of"):
        akm.convert(model, decimate="first")
    with pytest.warns(UserWarning, match="1 convolutions take their stride before the blur.*: 2"):
        akm.convert(model, decimate="before")
    first: Any = model[0]
    assert first.decimate == "before" and not torch.equal(model(x), plain(x))
    nn.init.constant_(first.r, 0.8)
    nn.init.zeros_(model[3].modulation.r)
    y = model(x)
    folded = akm.fold(copy.deepcopy(model), tolerance=1e-4)
    assert folded[0].decimate == "before" and folded[0].max_radius < 15
    torch.testing.assert_close(folded(x), y, rtol=1e-3, atol=1e-3)
    nn.init.zeros_(first.r)
    wholly = akm.fold(copy.deepcopy(model))
    assert type(wholly[0]) is nn.Conv2d and wholly[0].stride == (2, 2)
    torch.testing.assert_close(wholly(x), plain(x), rtol=1e-4, atol=1e-4)
    akm.revert(model)
    assert type(model[0]) is nn.Conv2d and vars(model[0]).keys() == vars(plain[0]).keys()
    torch.testing.assert_close(model(x), plain(x))


def test_summary_counts_pixels_before_the_stride() -> None:
    layer = akm.AKMConv2d(4, 6, 3, stride=2, padding=1, decimate="before", max_radius=7)
    pool = akm.MaxBlurPool2d(6, 3, stride=(2, 1), padding=1, max_radius=3)
    last = akm.Modulation2d(6, max_radius=3)
    model = nn.Sequential(nn.Conv2d(1, 4, 1, stride=3), layer, pool, last)
    for sigma, module in zip((0.5, 0.7, 1.0), model[1:], strict=True):
        nn.init.constant_(module.r, sigma)
    found = akm.summary(model, torch.randn(3, 1, 33, 27))
    first, second, third = found.layers  # maps of 11×9, 6×5 and 3×5
    assert [x.sigma_input for x in found.layers] == pytest.approx([0.5 * 3, 0.7 * 6, 1.0 * 12])
    fields = np.cumsum([(0.5 * 3) ** 2, (0.7 * 6) ** 2, 12.0**2]) ** 0.5
    assert [x.field for x in found.layers] == pytest.approx(list(fields))
    assert first.flops == 2 * 6 * (11 * 9 * 4 * 9 + 15 * (6 * 9 + 6 * 5))
    assert second.flops == 2 * 6 * 7 * (3 * 5 + 3 * 5)
    assert third.flops == 2 * 6 * 7 * 2 * 3 * 5
    assert second.gate is None and second.parameters == 6
    assert "2  " in str(found)


# The pools


@pytest.mark.parametrize("stride", [2, (3, 2), 1], ids=str)
def test_pools_are_a_blur_at_a_stride(stride: Any) -> None:
    pool, most = akm.BlurPool2d(3, stride), akm.MaxBlurPool2d(3, (3, 5), stride, (1, 2))
    z = torch.randn(2, 3, 14, 11)
    wanted = kept(akm.gaussian_blur(z, 0.7), stride)
    torch.testing.assert_close(pool(z), wanted)
    torch.testing.assert_close(pool(z[0]), wanted[0])
    largest = F.max_pool2d(z, (3, 5), 1, (1, 2))
    torch.testing.assert_close(most(z), kept(akm.gaussian_blur(largest, 0.7), stride))
    assert most(z).shape == F.max_pool2d(z, (3, 5), stride, (1, 2)).shape
    assert most.blurred_size(z) == largest.shape[2:]


def test_pools_learn() -> None:
    """σ finds that of the blur which made the target."""
    pool = akm.BlurPool2d(2, max_radius=6)
    z = torch.randn(4, 2, 24, 24)
    target = kept(akm.gaussian_blur(z, torch.tensor([0.4, 1.5]), max_radius=6), 2)
    optimizer = torch.optim.Adam(pool.parameters(), lr=0.05)
    for _ in range(100):
        loss = F.mse_loss(pool(z), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(pool.sigma, torch.tensor([0.4, 1.5]), rtol=0, atol=0.05)


def test_what_knows_layers_knows_pools() -> None:
    model = nn.Sequential(akm.BlurPool2d(4, per="layer"), nn.ReLU(), akm.MaxBlurPool2d(4))
    assert akm.modulation_names(model) == ["0.r", "2.r"]
    groups = akm.parameter_groups(model, lr=0.1, weight_decay=0.2)
    assert [len(group["params"]) for group in groups] == [0, 2]
    assert akm.sigma_penalty(model).item() == pytest.approx(0.7)
    assert akm.scalars(model).keys() == {
        f"{i}.sigma/{what}" for i in (0, 2) for what in ("min", "median", "max")
    }
    x = torch.randn(1, 4, 12, 12)
    y = model(x)
    schedule = akm.SigmaSchedule(model, 2.0, 0.0, 1)
    wide = kept(akm.gaussian_blur(x, (0.49 + 4.0) ** 0.5), 2)
    torch.testing.assert_close(model[0](x), wide)
    schedule.remove()
    assert torch.equal(model(x), y)
    assert len(akm.surgery.pictures.frequency_response(model).axes) == 2
    one = akm.BlurPool2d(1)
    model[0].load_state_dict(one.state_dict())
    model[2].load_state_dict(one.state_dict())  # one number serves each channel
    assert repr(model[2]).startswith("MaxBlurPool2d(4, stride=(2, 2), per='channel'")


def test_as_the_layers_of_timm() -> None:
    """By keyword, as timm does since 0.9, and by position."""
    assert akm.BlurPool2d(channels=4, stride=2)(torch.zeros(1, 4, 8, 8)).shape == (1, 4, 4, 4)
    assert akm.BlurPool2d(4, 3, device="cpu", dtype=torch.float64).r.dtype == torch.float64
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = timm.create_model("resnet18", aa_layer=akm.BlurPool2d)
    assert sum(isinstance(x, akm.BlurPool2d) for x in model.modules()) == 4
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: akm.BlurPool2d(0), ValueError, "channels must be at least 1, got 0"),
        (lambda: akm.BlurPool2d(3, 0), ValueError, "stride must be at least 1, got 0"),
        (lambda: akm.BlurPool2d(3, 1.5), TypeError, "stride must be an int or a pair"),
        (lambda: akm.BlurPool2d(3, per="map"), ValueError, "per must be one of"),
        (lambda: akm.BlurPool2d(3)(torch.zeros(1, 4, 5, 5)), ValueError, "z must have 3 channels"),
        (lambda: akm.MaxBlurPool2d(3, 3, 2, 2), ValueError, "padding must be at most half of"),
        (lambda: akm.MaxBlurPool2d(3, 0), ValueError, "kernel_size must be at least 1, got 0"),
        (lambda: akm.MaxBlurPool2d(3, "3"), TypeError, "kernel_size must be an int or a pair"),
        (lambda: akm.MaxBlurPool2d(3)(torch.zeros(4, 5, 5)), ValueError, "z must have 3 channels"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_pools_refuse(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
