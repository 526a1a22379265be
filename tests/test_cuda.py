"""On a GPU alone: every kernel variant of the rule against float64, and no read on the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import akm_triton as akm
from reference import oracle
from tests.capabilities import CALLABLES, CAPABILITIES, check
from tests.common import BORDERS, random

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

TOLERANCE = {torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
SHAPES = [
    (3, 5, 7, 7),
    (2, 8, 14, 14),
    (9, 8, 28, 20),
    (2, 3, 56, 56),
    (1, 4, 33, 130),
    (1, 2, 224, 70),
]


def error(found: Tensor, wanted: Any, of_squares: Any = 0.0) -> float:
    """Of the largest value wanted; or, if that is more, of half the root of ``of_squares``, the
    same sums over squares. A wide blur of a small map nearly cancels; rounding errors do not."""
    assert not found.isnan().any()
    scale = max(np.abs(wanted).max(), np.sqrt(of_squares).max() / 2)
    return float(np.abs(found.double().cpu().numpy() - wanted).max() / scale)


@pytest.mark.parametrize("radius", [3, 15, 31])
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_against_float64(
    dtype: torch.dtype, layout: str, shape: tuple[int, ...], border: str, radius: int
) -> None:
    z, g = (random(*shape, seed=seed, dtype=dtype, layout=layout).cuda() for seed in (1, 2))
    r, s = (random(shape[1], seed=seed).cuda().float() for seed in (3, 4))
    check_modulate(z, g, 3 * r, s, border, radius)


def check_modulate(z: Tensor, g: Tensor, r: Tensor, s: Tensor, border: str, radius: int) -> None:
    """Value and gradients; y has the memory format of z."""
    options: dict[str, Any] = dict(
        gaussian="discrete", border=border, truncate=None, max_radius=radius
    )
    inputs = [x.detach().requires_grad_() for x in (z, r, s)]
    y = akm.modulate(*inputs, backend="triton", **options)
    for layout in (torch.contiguous_format, torch.channels_last):
        assert y.is_contiguous(memory_format=layout) or not z.is_contiguous(memory_format=layout)
    arrays = [x.detach().double().cpu().numpy() for x in inputs]
    squares = arrays[0] ** 2, *arrays[1:]
    wanted = oracle.modulate(*arrays, **options)
    assert error(y.detach(), wanted, oracle.modulate(*squares, **options)) < TOLERANCE[z.dtype]
    cotangent = g.double().cpu().numpy()
    gradients = oracle.modulate_backward(cotangent, *arrays, **options)
    scales = oracle.modulate_backward(cotangent**2, *arrays, **options)[0], 0.0, 0.0
    for found, *want in zip(torch.autograd.grad(y, inputs, g), gradients, scales, strict=True):
        assert error(found, *want) < 2 * TOLERANCE[z.dtype]


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


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("name", CALLABLES)
def test_capability(name: str, capability: str) -> None:
    check(name, capability, "triton", torch.float32, 1e-4, device="cuda")


@pytest.mark.parametrize("order", [1, 2])
def test_a_graph_replays_with_another_sigma(order: int) -> None:
    z = torch.randn(4, 8, 28, 28, device="cuda", requires_grad=True)
    r = torch.rand(8, device="cuda", requires_grad=True)
    s = torch.zeros(8, device="cuda", requires_grad=True)

    def derivatives() -> list[Tensor]:
        y = akm.modulate(z, r, s)
        found = torch.autograd.grad(y.square().sum(), (z, r, s), create_graph=order > 1)
        if order > 1:
            found = torch.autograd.grad(sum(x.square().sum() for x in found), (z, r, s))
        return [y.detach(), *(x.detach() for x in found)]

    akm.warmup(z, r, s, order=order)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # PyTorch's own kernels warm up, too
        derivatives()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = derivatives()
    with torch.no_grad():
        r.add_(2.0)
        z.mul_(0.5)
    graph.replay()
    for found, wanted in zip(captured, derivatives(), strict=True):
        torch.testing.assert_close(found, wanted)


def test_inductor() -> None:
    """The compiled model launches our kernels, and compiles nothing for another σ or batch."""
    layer = akm.AKMConv2d(3, 8, 3, padding=1).cuda()
    compiled = torch.compile(layer, fullgraph=True, dynamic=None)
    for batch in (4, 7):
        x = torch.randn(batch, 3, 30, 28, device="cuda")
        torch._dynamo.mark_dynamic(x, 0)
        with torch.no_grad():
            layer.r.add_(0.7)
        y, wanted = compiled(x), layer(x)
        torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-4)
        parameters = list(layer.parameters())
        torch.testing.assert_close(
            torch.autograd.grad(y.square().mean(), parameters),
            torch.autograd.grad(wanted.square().mean(), parameters),
            rtol=1e-3, atol=1e-5,
        )  # fmt: skip
