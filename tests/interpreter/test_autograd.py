"""First and second derivatives through the kernels, against the PyTorch path in float64."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import akm_triton as akm
from tests.common import BORDERS


def derivatives(backend: str, dtype: torch.dtype, shape: str, **options: Any) -> list[Tensor]:
    """y, its gradients, and the gradients of a function of those."""
    generator = torch.Generator().manual_seed(0)

    def leaf(*size: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        x = torch.randn(size, generator=generator, dtype=torch.float64) * scale + shift
        return x.to(dtype).requires_grad_()

    z = leaf(2, 3, 9, 7)
    sizes = {"layer": (1,), "channel": (3,), "sample": (2, 3)}[shape]
    inputs = (z, leaf(*sizes, scale=0.3, shift=1.2), leaf(*sizes))
    y = akm.modulate(*inputs, backend=backend, **options)
    first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
    mixed = sum((x * x).sum() for x in first)
    second = torch.autograd.grad(mixed, inputs)  # type: ignore[arg-type]
    return [y, *first, *second]


@pytest.mark.sampled(("border", "gaussian"))
@pytest.mark.parametrize("shape", ["layer", "channel", "sample"])
@pytest.mark.parametrize("gaussian", ["discrete", "sampled"])
@pytest.mark.parametrize("border", BORDERS)
def test_first_and_second_order(border: str, gaussian: str, shape: str) -> None:
    options: dict[str, Any] = dict(border=border, gaussian=gaussian, max_radius=4)
    mine = derivatives("triton", torch.float32, shape, **options)
    exact = derivatives("torch", torch.float64, shape, **options)
    for found, wanted in zip(mine, exact, strict=True):
        assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_module_trains_through_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AKM_BACKEND", "triton")
    layer = akm.AKMConv2d(3, 4, 3, padding=1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    x, target = torch.randn(2, 3, 8, 8), torch.randn(2, 4, 8, 8)
    before = {name: p.clone() for name, p in layer.named_parameters()}
    losses = []
    for _ in range(5):
        loss = (layer(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert all(not torch.equal(p, before[name]) for name, p in layer.named_parameters())


def test_numbers_that_stand_for_others() -> None:
    """Tensors with a negative bit, and zeros without memory, as the dispatcher resolves them."""
    z = torch.randn(1, 3, 5, 6, dtype=torch.complex64).conj().imag
    r, s = torch._neg_view(torch.tensor([0.5, 1.0, 2.0])), torch._neg_view(torch.randn(3))
    g = torch._neg_view(torch.randn(1, 3, 5, 6))
    assert all(x.is_neg() for x in (z, r, s, g))
    lazy, plain = [z, r, s], [x.clone().resolve_neg() for x in (z, r, s)]
    modulate = partial(akm.modulate, max_radius=2, backend="triton")
    wanted = modulate(*plain)
    for i in range(3):
        torch.testing.assert_close(modulate(*plain[:i], lazy[i], *plain[i + 1 :]), wanted)
    nothing = torch._efficientzerotensor(3)
    torch.testing.assert_close(modulate(z, r, nothing), modulate(z, r, torch.zeros(3)))

    def gradients(inputs: list[Tensor], g: Tensor) -> tuple[Tensor, ...]:
        inputs = [x.detach().requires_grad_() for x in inputs]
        return torch.autograd.grad(modulate(*inputs), inputs, g)

    expected = gradients(plain, g.clone().resolve_neg())
    torch.testing.assert_close(gradients(lazy, g), expected)
