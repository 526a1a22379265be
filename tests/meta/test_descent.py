"""Momentum, bounded gradients and mini-batches of the inner loop, against plain autograd and
PyTorch's own optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from akm_triton.meta import MAML, Reptile
from akm_triton.meta.descent import bounded
from tests.meta.tasks import (
    ADAPT,
    RATE,
    Point,
    close,
    episodes,
    gradients,
    gradients_of,
    half_square,
    network,
    unstacked,
)

STEPS = 3
MOVES = {
    "momentum": (0.8, False),
    "bound": (0.0, True),
    "both": (0.8, True),
}
BOUND = {"all": 0.9, "modulation": 0.07}  # of the gradients by hand some are longer, some shorter


def by_hand(
    order: int, adapt: str, inner_momentum: float = 0.0, inner_max_norm: float = float("inf")
) -> tuple[Tensor, dict[str, Tensor], list[float]]:
    """Query loss, its gradients by the parameters and by a rate for each, norms met."""
    model = network()
    theta = dict(model.named_parameters())
    names = list(MAML(model, adapt=ADAPT[adapt]).adapted_names)
    rates = {name: torch.tensor(RATE, dtype=torch.float64).requires_grad_() for name in names}
    losses, norms = [], []
    for (x, y), (xq, yq) in unstacked(episodes()):
        phi, momenta = dict(theta), {}
        for _ in range(STEPS):
            loss = F.cross_entropy(functional_call(model, phi, (x,)), y)
            inner = [phi[name] for name in names]
            grads = torch.autograd.grad(loss, inner, create_graph=order == 2)
            norm = torch.cat([g.reshape(-1) for g in grads]).norm()
            norms.append(norm.item())
            for name, g in zip(names, grads, strict=True):
                g = g * inner_max_norm / norm if norm > inner_max_norm else g
                momenta[name] = momenta[name] * inner_momentum + g if name in momenta else g
                phi[name] = phi[name] - rates[name] * momenta[name]
        losses.append(F.cross_entropy(functional_call(model, phi, (xq,)), yq))
    loss = torch.stack(losses).mean()
    outer = {f"model.{name}": p for name, p in theta.items()}
    outer |= {f"rates.{number}": rates[name] for number, name in enumerate(names)}
    return loss.detach(), gradients_of(outer, loss), norms


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    "more", [{}, dict(vectorize=False), dict(checkpoint=True)], ids=["vmap", "one by one", "kept"]
)
def test_momentum_and_bound(move: str, order: int, more: dict[str, Any]) -> None:
    adapt = "modulation" if order == 2 else "all"
    momentum, is_bound = MOVES[move]
    options: dict[str, float] = dict(inner_momentum=momentum)
    if is_bound:
        options["inner_max_norm"] = BOUND[adapt]
    maml = MAML(
        network(), inner_lr=RATE, inner_steps=STEPS, order=order, adapt=ADAPT[adapt],
        learn_lr="tensor", **options, **more,
    )  # fmt: skip
    result = maml(episodes(), F.cross_entropy)
    wanted_loss, wanted, norms = by_hand(order, adapt, **options)
    torch.testing.assert_close(result.loss.detach(), wanted_loss, rtol=1e-12, atol=0)
    found = {name: g.reshape(-1).squeeze() for name, g in gradients(maml, result.loss).items()}
    close(found, {name: g.reshape(-1).squeeze() for name, g in wanted.items()}, 1e-10)
    assert min(norms) < BOUND[adapt] < max(norms)


@pytest.mark.parametrize("learner", [MAML, Reptile])
def test_adapts_as_sgd_does(learner: Any) -> None:
    model, (x, y) = network(), episodes()[0]
    options = dict(inner_momentum=0.9, inner_max_norm=0.5)
    adapted = learner(model, inner_lr=RATE, inner_steps=4, **options).adapt(
        (x[0], y[0]), F.cross_entropy
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(model(x[0]), y[0]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)  # adds 1e-6 to the norm
        optimizer.step()
    for p, q in zip(adapted.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)


def test_a_bound_where_the_gradient_is_zero() -> None:
    """No NaN in the outer gradient, which is that without a bound."""
    x = torch.ones(1, 1, 3, dtype=torch.float64)
    task = (x, x * Point().w.detach()), (x, x * 0)
    found = []
    for bound in (None, 0.1):
        maml = MAML(Point(), inner_lr=0.5, inner_steps=2, inner_max_norm=bound)
        maml(task, half_square).loss.backward()
        found.append(maml.model.w.grad)
    assert found[0].abs().max() > 0
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_no_square_overflows(dtype: torch.dtype) -> None:
    size = float(torch.finfo(dtype).max) / 8
    grads = {"a": torch.tensor([3 * size], dtype=dtype), "b": torch.tensor([4 * size], dtype=dtype)}
    found = bounded(grads, 10.0)
    assert found["a"].dtype == dtype
    assert [float(found["a"]), float(found["b"])] == pytest.approx([6.0, 8.0], rel=1e-3)
    tiny = {"a": torch.full((2,), torch.finfo(torch.float32).tiny / 8)}
    assert torch.equal(bounded(tiny, 10.0)["a"], tiny["a"])


def seen(vectorize: bool | None, seed: int = 0, **options: Any) -> tuple[Any, list[list[float]]]:
    """What MAML gives, and the first pixels of each batch that the model was called with."""
    torch.manual_seed(0)
    model, calls = network(), []
    maml = MAML(model, inner_lr=RATE, inner_steps=3, vectorize=vectorize, **options)
    if not vectorize:
        model.register_forward_pre_hook(
            lambda _, args: calls.append(args[0][:, 0, 0, 0].detach().tolist())
        )
    torch.manual_seed(seed)
    return maml(episodes(tasks=2, support=6), F.cross_entropy), calls


def test_batches_of_the_support_set() -> None:
    result, calls = seen(False, inner_batch=2)
    x = episodes(tasks=2, support=6)[0][0][:, :, 0, 0, 0]
    orders = []
    for task in range(2):
        steps = calls[4 * task : 4 * task + 3]  # the fourth is of the query set
        assert [len(step) for step in steps] == [2, 2, 2]
        order = [x[task].tolist().index(value) for step in steps for value in step]
        assert sorted(order) == list(range(6))
        orders.append(order)
    assert orders[0] != orders[1]
    again, _ = seen(True, inner_batch=2)
    torch.testing.assert_close(again.loss, result.loss, rtol=1e-12, atol=0)
    other, _ = seen(True, seed=1, inner_batch=2)
    assert abs(other.loss - result.loss) > 1e-6
    assert result.inner_losses.shape == (2, 3)
    whole, _ = seen(True)
    shuffled, _ = seen(True, inner_batch=6)
    torch.testing.assert_close(shuffled.loss, whole.loss, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(inner_momentum=1.0), ValueError, "inner_momentum must be at least 0 and less than 1"),
        (dict(inner_momentum=[0.1, 0.2]), TypeError, "inner_momentum must be a number"),
        (dict(inner_max_norm=0.0), ValueError, "inner_max_norm must be None or positive, got 0"),
        (dict(inner_max_norm="1"), TypeError, "inner_max_norm must be a number"),
        (dict(inner_batch=0), ValueError, "inner_batch must be None or at least 1, got 0"),
        (dict(inner_batch=2.0), TypeError, "inner_batch must be an integer"),
    ],
)
def test_refuses(options: dict[str, Any], error: type[Exception], message: str) -> None:
    for learner in (MAML, Reptile):
        with pytest.raises(error, match=message):
            learner(network(), **options)


def test_refuses_a_batch_larger_than_the_support_set() -> None:
    maml = MAML(network(), inner_batch=4)
    with pytest.raises(ValueError, match="number of support examples, 3, got 4"):
        maml(episodes(), F.cross_entropy)
