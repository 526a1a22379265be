"""On a GPU alone: every kernel variant of the rule against float64, and no read on the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import akm_triton as akm
from reference import oracle

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

BORDERS = ("symmetric", "zeros", "replicate", "reflect", "circular")
TOLERANCE = {torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
SHAPES = [
    (3, 5, 7, 7),
    (2, 8, 14, 14),
    (9, 8, 28, 20),
    (2, 3, 56, 56),
    (1, 4, 33, 130),
    (1, 2, 224, 70),
]


def random(*shape: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def error(found: Tensor, wanted: Any) -> float:
    assert not found.isnan().any()
    return float(np.abs(found.double().cpu().numpy() - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("radius", [3, 15, 31])
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_against_float64(
    dtype: torch.dtype,
    layout: torch.memory_format,
    shape: tuple[int, ...],
    border: str,
    radius: int,
) -> None:
    options: dict[str, Any] = dict(
        gaussian="discrete", border=border, truncate=None, max_radius=radius
    )
    z, g = random(*shape, seed=1), random(*shape, seed=2)
    z, g = (x.cuda().to(dtype).contiguous(memory_format=layout) for x in (z, g))
    r, s = random(shape[1], seed=3).cuda().float() * 3, random(shape[1], seed=4).cuda().float()
    inputs = [x.requires_grad_() for x in (z, r, s)]
    y = akm.modulate(z, r, s, backend="triton", **options)
    assert y.is_contiguous(memory_format=layout)
    arrays = [x.detach().double().cpu().numpy() for x in inputs]
    assert error(y, oracle.modulate(*arrays, **options)) < TOLERANCE[dtype]
    wanted = oracle.modulate_backward(g.double().cpu().numpy(), *arrays, **options)
    for found, want in zip(torch.autograd.grad(y, inputs, g), wanted, strict=True):
        assert error(found, want) < 2 * TOLERANCE[dtype]


def test_nothing_is_read_on_the_host() -> None:
    z = torch.randn(2, 8, 56, 56, device="cuda", requires_grad=True)
    r = torch.rand(8, device="cuda", requires_grad=True)
    akm.modulate(z, r, r).sum().backward()  # compiles and makes the constants
    torch.cuda.set_sync_debug_mode("error")
    try:
        akm.modulate(z, r, r).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_runs_are_bitwise_equal() -> None:
    z = torch.randn(8, 8, 56, 56, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    r = torch.rand(8, device="cuda", requires_grad=True)
    runs = []
    for _ in range(2):
        y = akm.modulate(z, r, r)
        runs.append((y, *torch.autograd.grad(y.square().sum(), (z, r))))
    assert all(torch.equal(x, y) for x, y in zip(*runs, strict=True))
