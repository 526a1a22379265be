"""First and second derivatives through the kernels, against the PyTorch path in float64."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor

import akm_triton as akm
from akm_triton import modulation
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


@pytest.mark.parametrize(("shape", "stride"), [("sample", (1, 3))], ids=str)
def test_first_and_second_order_of_a_stride(shape: str, stride: Any) -> None:
    options: dict[str, Any] = dict(border="replicate", max_radius=4, stride=stride)
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


def leaves(needs: tuple[bool, ...] = (True, True, True)) -> list[Tensor]:
    torch.manual_seed(0)
    inputs = torch.randn(2, 3, 5, 6), torch.tensor([0.3, 1.0, 2.0]), torch.randn(3)
    return [x.requires_grad_(need) for x, need in zip(inputs, needs, strict=True)]


@pytest.fixture
def by_ops(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls a function with nothing but the registered ops."""

    def call(function: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(modulation, "is_plain", lambda *tensors: False)
            return function()

    return call


modulate = partial(akm.modulate, max_radius=3, border="reflect", backend="triton")


@pytest.mark.parametrize(
    "needs",
    [
        pytest.param(x, marks=pytest.mark.whole) if sum(x) == 2 else x
        for x in product((True, False), repeat=3)
        if any(x)
    ],
    ids=str,
)
def test_one_node_trains_as_the_registered_ops_do(needs: tuple[bool, ...], by_ops: Any) -> None:
    """To the bit, whatever needs a gradient, also of the blur alone, and by a second backward."""
    g = torch.randn(2, 3, 5, 6)

    def trained() -> list[Tensor | None]:
        z, r, s = leaves(needs)
        y = modulate(z, r, s)
        blurred = akm.gaussian_blur(z, r, max_radius=3, backend="triton")
        names.append(y.grad_fn.name())
        for _ in range(2):
            y.backward(g, retain_graph=True)
        if blurred.requires_grad:
            blurred.backward(g)
        return [y, z.grad, r.grad, s.grad]

    names: list[str] = []
    found, wanted = trained(), by_ops(trained)
    assert names[0] == "_ModulateBackward" != names[1]
    for mine, want, needed in zip(found[1:], wanted[1:], needs, strict=True):
        assert (mine is None) is (want is None) is not needed
        assert mine is None or torch.equal(mine, want)
    assert torch.equal(found[0], wanted[0])


def test_derivatives_of_the_node_differentiate_again(by_ops: Any) -> None:
    """Third order, a batch of gradients, and a tangent of the gradient that comes in."""

    def derived() -> list[Tensor]:
        inputs = leaves()
        y = modulate(*inputs)
        g = torch.linspace(-1, 1, y.numel()).view_as(y).requires_grad_()
        first = torch.autograd.grad(y, inputs, g, create_graph=True)
        second = torch.autograd.grad(
            sum(x.square().sum() for x in first), [*inputs, g], create_graph=True
        )
        third = torch.autograd.grad(
            sum(x.square().sum() for x in second), [*inputs, g], retain_graph=True
        )
        batch = torch.stack([g.detach(), 2 * g.detach()])
        batched = torch.autograd.grad(y, inputs, batch, retain_graph=True, is_grads_batched=True)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(g.detach(), g.detach())
            grads = torch.autograd.grad(y, inputs, dual)
            tangents = [torch.autograd.forward_ad.unpack_dual(x).tangent for x in grads]
        return [*first, *second, *third, *batched, *tangents]

    for mine, want in zip(derived(), by_ops(derived), strict=True):
        torch.testing.assert_close(mine, want)


def test_the_node_keeps_its_inputs_as_autograd_does() -> None:
    z, r, s = leaves()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: -x):
        y = modulate(z, r, s)
    assert [x.shape for x in kept] == [z.shape, r.shape, s.shape, (2, 3, 4)]
    wanted = torch.autograd.grad(modulate(z, r, s), z, torch.ones_like(y))
    found = torch.autograd.grad(y, z, torch.ones_like(y))  # linear in the taps, so in both of them
    torch.testing.assert_close(found, wanted)
    y = modulate(z, r, s)
    with torch.no_grad():
        s.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    # under checkpointing the forward runs again
    z, r, s = leaves()
    wanted = torch.autograd.grad(modulate(z, r, s).sum(), (z, r, s))
    for reentrant in (False, True):
        y = torch.utils.checkpoint.checkpoint(modulate, z, r, s, use_reentrant=reentrant)
        y.sum().backward()
        for x, want in zip((z, r, s), wanted, strict=True):
            assert torch.equal(x.grad, want)
            x.grad = None
