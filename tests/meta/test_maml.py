"""MAML: its gradient through the inner loop, and what its options mean."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import akm_triton as akm
from akm_triton.meta import MAML
from reference import composition
from tests.meta.tasks import (
    ADAPT,
    OPTIONS,
    RATE,
    Observer,
    Point,
    close,
    episodes,
    gradients,
    gradients_of,
    half_square,
    network,
    unstacked,
)


def plain_forward(p: dict[str, Tensor], x: Tensor) -> Tensor:
    z = F.conv2d(x, p["0.weight"], p["0.bias"], padding=1)
    y = composition.modulate(z, p["0.r"], p["0.s"], truncate=None, **OPTIONS)
    return F.linear(y.tanh().flatten(1), p["3.weight"], p["3.bias"])


def plain_maml(
    start: dict[str, Tensor], moved: Callable[[str], bool], steps: int, order: int
) -> Tensor:
    """The mean query loss, by plain autograd and operators that share no code with the layer."""
    losses = []
    for (xs, ys), (xq, yq) in unstacked(episodes()):
        p = dict(start)
        for _ in range(steps):
            names = [name for name in p if moved(name)]
            loss = F.cross_entropy(plain_forward(p, xs), ys)
            grads = torch.autograd.grad(loss, [p[k] for k in names], create_graph=True)
            for name, grad in zip(names, grads, strict=True):
                p[name] = p[name] - RATE * (grad if order == 2 else grad.detach())
        losses.append(F.cross_entropy(plain_forward(p, xq), yq))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("adapt", ADAPT)
def test_meta_gradient_is_that_of_plain_autograd(adapt: str, steps: int, order: int) -> None:
    maml = MAML(network(), inner_lr=RATE, inner_steps=steps, order=order, adapt=ADAPT[adapt])
    result = maml(episodes(), F.cross_entropy)
    moved = {"all": lambda k: True, "modulation": lambda k: k in ("0.r", "0.s")}
    start = dict(maml.model.named_parameters())
    wanted = plain_maml(start, moved.get(adapt, ADAPT["predicate"]), steps, order)
    torch.testing.assert_close(result.loss, wanted, rtol=1e-10, atol=1e-10)
    found = gradients(maml, result.loss)
    close(found, {f"model.{k}": g for k, g in gradients_of(start, wanted).items()}, 1e-8)


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize(("dims", "adapt"), [(1, "modulation"), (3, "all")])
def test_signals_and_volumes(dims: int, adapt: str, vectorize: bool) -> None:
    torch.manual_seed(0)
    conv = {1: akm.AKMConv1d, 3: akm.AKMConv3d}[dims](1, 2, 3, isotropic=dims == 1, **OPTIONS)
    nn.init.uniform_(conv.r, 0.4, 1.5)
    model = nn.Sequential(conv, nn.Tanh(), nn.Flatten(), nn.Linear(2 * 2**dims, 3)).double()
    x, y = torch.randn(2, 3, 1, *[4] * dims, dtype=torch.float64), torch.randint(3, (2, 3))
    maml = MAML(model, inner_lr=RATE, inner_steps=2, adapt=adapt, vectorize=vectorize)
    leaves = tuple(maml.parameters())
    assert torch.autograd.gradcheck(
        lambda *_: maml(((x, y), (x + 1, y)), F.cross_entropy).loss, leaves, fast_mode=True
    )


@pytest.mark.parametrize("learn_lr", ["tensor", "element"])
@pytest.mark.parametrize("adapt", ADAPT)
def test_meta_gradient_by_finite_differences(adapt: str, learn_lr: str) -> None:
    """With respect to the parameters and the inner rates."""
    maml = MAML(
        network(), inner_lr=[0.3, 0.1], inner_steps=2, adapt=ADAPT[adapt], learn_lr=learn_lr,
        step_weights=[0.3, 0.7],
    )  # fmt: skip
    leaves = tuple(maml.parameters())
    assert torch.autograd.gradcheck(
        lambda *_: maml(episodes(), F.cross_entropy).loss, leaves, fast_mode=True
    )


def library_torchopt(model: nn.Module, steps: int) -> Tensor:
    torchopt = pytest.importorskip("torchopt")
    optimizer = torchopt.MetaSGD(model, lr=RATE)
    start = torchopt.extract_state_dict(model, by="reference"), optimizer.state_dict()
    losses = []
    for (xs, ys), (xq, yq) in unstacked(episodes()):
        for _ in range(steps):
            optimizer.step(F.cross_entropy(model(xs), ys))
        losses.append(F.cross_entropy(model(xq), yq))
        torchopt.recover_state_dict(model, start[0])
        optimizer.load_state_dict(start[1])
    return torch.stack(losses).mean()


def library_higher(model: nn.Module, steps: int) -> Tensor:
    higher = pytest.importorskip("higher")
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    losses = []
    for (xs, ys), (xq, yq) in unstacked(episodes()):
        with higher.innerloop_ctx(model, optimizer, copy_initial_weights=False) as (f, inner):
            for _ in range(steps):
                inner.step(F.cross_entropy(f(xs), ys))
            losses.append(F.cross_entropy(f(xq), yq))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("library", [library_torchopt, library_higher])
def test_meta_gradient_is_that_of_other_libraries(library: Callable[..., Tensor]) -> None:
    maml = MAML(network(), inner_lr=RATE, inner_steps=2)
    found = gradients(maml.model, maml(episodes(), F.cross_entropy).loss)
    start = dict(maml.model.named_parameters())
    close(found, gradients_of(start, library(maml.model, 2)), 1e-8)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("rates", [[0.4], [0.4, 0.1, 0.3]], ids=["one step", "three steps"])
def test_closed_form_of_quadratic_tasks(rates: list[float], order: int) -> None:
    """φ_k = c + (1 − α_k h)(φ_{k−1} − c), which gives the meta-gradient by θ and, as in Meta-SGD,
    by every α."""
    torch.manual_seed(0)
    xs, cs, xq, cq = torch.rand(4, 5, 1, 3, dtype=torch.float64)  # 5 tasks of one example
    maml = MAML(
        Point(), inner_lr=rates, inner_steps=len(rates), order=order, learn_lr="element"
    )  # fmt: skip
    result = maml(((xs, xs * cs), (xq, xq * cq)), half_square)
    phi, shrink = [maml.model.w.detach().expand(5, 1, 3)], []
    for rate in rates:
        shrink.append(1 - rate * xs**2)
        phi.append(cs + shrink[-1] * (phi[-1] - cs))
    slope = xq**2 * (phi[-1] - cq)  # of the query loss
    torch.testing.assert_close(result.losses, (slope * (phi[-1] - cq) / 2).sum((1, 2)))
    grads = gradients(maml, result.loss)
    for k in range(len(rates) + 1):  # what of φ_k, or of θ = φ_0, is left at the end
        left = torch.stack([torch.ones_like(xs), *(shrink[k:] if order == 2 else [])]).prod(0)
        if k == 0:
            torch.testing.assert_close(grads["model.w"], (slope * left).mean((0, 1)))
        else:
            by_rate = -left * xs**2 * (phi[k - 1] - cs)
            wanted = (slope * by_rate).mean((0, 1))
            torch.testing.assert_close(grads["rates.0"][k - 1], wanted)
    assert result.accuracy.isnan().all()


def test_first_order_keeps_no_graph_of_the_inner_loop() -> None:
    sizes = []
    for order in (1, 2):
        with Observer() as observer:
            loss = MAML(network(), inner_steps=5, order=order)(episodes(), F.cross_entropy).loss
            assert loss.requires_grad
            sizes.append(observer.bytes_alive)
    assert sizes[0] < sizes[1] / 2


def test_step_weights_and_rates_of_each_step() -> None:
    """The loss is the weighted sum of the losses that fewer steps at the same rates give."""
    rates = [0.3, 0.1, 0.2]
    each = [
        MAML(network(), inner_lr=rates[:k], inner_steps=k)(episodes(), F.cross_entropy).loss
        for k in (1, 2, 3)
    ]
    maml = MAML(network(), inner_lr=lambda _: rates, inner_steps=3, step_weights=[1, 0, 2.5])
    found = maml(episodes(), F.cross_entropy)
    torch.testing.assert_close(found.loss, each[0] + 2.5 * each[2])
    torch.testing.assert_close(found.losses.mean(), each[2].detach())
    assert len({float(x.detach()) for x in each}) == 3


@pytest.mark.parametrize("adapt", ADAPT)
def test_adapt_gives_the_model_of_one_task(adapt: str) -> None:
    maml = MAML(network(), inner_lr=RATE, inner_steps=2, adapt=ADAPT[adapt])
    before = copy.deepcopy(maml.state_dict())
    result = maml(episodes(), F.cross_entropy)
    for number, (support, (xq, yq)) in enumerate(unstacked(episodes())):
        adapted = maml.adapt(support, F.cross_entropy)
        out = adapted(xq)
        moved = dict(adapted.named_parameters())
        same = [name for name, p in maml.model.named_parameters() if torch.equal(p, moved[name])]
        assert not set(same) & set(maml.adapted_names)
        assert len(same) + len(maml.adapted_names) == len(moved)
        torch.testing.assert_close(F.cross_entropy(out, yq).detach(), result.losses[number])
        accuracy = (out.argmax(1) == yq).double().mean()
        torch.testing.assert_close(accuracy, result.accuracy[number])
    after = maml.state_dict()
    assert all(torch.equal(x, after[name]) for name, x in before.items())


def test_parameters_without_gradient_stay() -> None:
    model = network()
    model[0].r.requires_grad_(False)
    maml = MAML(model, inner_steps=1)
    assert maml.adapted_names == ["0.weight", "0.bias", "0.s", "3.weight", "3.bias"]
    maml(episodes(), F.cross_entropy).loss.backward()
    assert model[0].r.grad is None and model[0].s.grad is not None


def test_a_few_outer_steps_learn_the_rates_and_lower_the_loss() -> None:
    maml = MAML(network(), inner_lr=0.05, inner_steps=1, learn_lr="element")
    optimizer = torch.optim.SGD(maml.parameters(), lr=0.5)
    losses = []
    for _ in range(5):
        result = maml(episodes(), F.cross_entropy)
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        losses.append(float(result.loss.detach()))
    assert sorted(losses, reverse=True) == losses and losses[-1] < 0.8 * losses[0]
    assert all((rate != 0.05).any() for rate in maml.rates)
