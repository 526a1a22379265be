"""A blur before decimation: of functions, layers and pools, on the PyTorch path."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vmap
from torch.utils.flop_counter import FlopCounterMode

import akm_triton as akm
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
        cases = [
            (r, "symmetric", 2),
            (r, "zeros", 5),
            (r, "reflect", 4),
            (of_samples, "circular", 1),
        ]
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
