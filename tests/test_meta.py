"""Meta-learning: gradients through the inner loop, tasks at once, the outer loop on processes."""

from __future__ import annotations

import copy
import math
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

import akm_triton as akm
from akm_triton import meta
from akm_triton.meta import MAML, Reptile, norms
from reference import composition
from tests.processes import in_two_processes

ROOT = Path(__file__).parents[1]
SIZE, CLASSES, RATE = 6, 3, 0.3
OPTIONS: dict[str, Any] = dict(gaussian="discrete", border="reflect", max_radius=3)
ADAPT = {"all": "all", "modulation": "modulation", "predicate": lambda name: name != "3.weight"}


def network(norm: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    conv = akm.AKMConv2d(1, 4, 3, padding=1, **OPTIONS)
    nn.init.uniform_(conv.r, 0.4, 1.5)
    nn.init.normal_(conv.s)
    last = nn.Linear(4 * SIZE * SIZE, CLASSES)
    return nn.Sequential(conv, norm or nn.Tanh(), nn.Flatten(), last).double()


def episodes(tasks: int = 3, support: int = 3, query: int = 6) -> Any:
    generator = torch.Generator().manual_seed(1)

    def examples(count: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(tasks, count, 1, SIZE, SIZE, generator=generator, dtype=torch.float64)
        return x, torch.randint(CLASSES, (tasks, count), generator=generator)

    return examples(support), examples(query)


def apart(whole: Any) -> list[Any]:
    (xs, ys), (xq, yq) = whole
    return [((a, b), (c, d)) for a, b, c, d in zip(xs, ys, xq, yq, strict=True)]


def gradients(maml: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    named = {name: p for name, p in maml.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {k: g for k, g in zip(named, grads, strict=True) if g is not None}


def close(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    assert set(found) == set(wanted)
    for name, want in wanted.items():
        assert want.abs().max() > 0, name
        torch.testing.assert_close(found[name], want, rtol=tolerance, atol=tolerance, msg=name)


# The meta-gradient.


def plain_forward(p: dict[str, Tensor], x: Tensor) -> Tensor:
    z = F.conv2d(x, p["0.weight"], p["0.bias"], padding=1)
    y = composition.modulate(z, p["0.r"], p["0.s"], truncate=None, **OPTIONS)
    return F.linear(y.tanh().flatten(1), p["3.weight"], p["3.bias"])


def plain_maml(
    start: dict[str, Tensor], moved: Callable[[str], bool], steps: int, order: int
) -> Tensor:
    """The mean query loss by plain autograd, and operators that share no code with the layer."""
    losses = []
    for (xs, ys), (xq, yq) in apart(episodes()):
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


def gradients_of(named: dict[str, Tensor], loss: Tensor) -> dict[str, Tensor]:
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


@pytest.mark.parametrize("learn_lr", ["tensor", "element"])
@pytest.mark.parametrize("adapt", ADAPT)
def test_meta_gradient_by_finite_differences(adapt: str, learn_lr: str) -> None:
    """By the parameters and by the inner rates."""
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
    for (xs, ys), (xq, yq) in apart(episodes()):
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
    for (xs, ys), (xq, yq) in apart(episodes()):
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


class Point(nn.Module):
    """x·w: with targets x·c, half the squared error is ½ x²(w − c)², a quadratic bowl at c."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.w


def half_square(out: Tensor, y: Tensor) -> Tensor:
    return (out - y).square().sum() / 2


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("rates", [[0.4], [0.4, 0.1, 0.3]], ids=["one step", "three steps"])
def test_closed_form_of_quadratic_tasks(rates: list[float], order: int) -> None:
    """φ_k = c + (1 − α_k h)(φ_{k−1} − c), and so the meta-gradient by θ and, as of Meta-SGD, by
    every α."""
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


# Ways to compute the same.


def groups() -> nn.Module:
    return nn.Sequential(nn.GroupNorm(2, 4), nn.Tanh())


def batch() -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False), nn.Tanh())


def frozen() -> nn.Module:
    return nn.BatchNorm2d(4).eval()


def rms() -> nn.Module:
    return nn.Sequential(nn.RMSNorm([SIZE]), nn.Tanh())


def layers() -> nn.Module:
    return nn.Sequential(nn.LayerNorm([SIZE]), nn.Tanh())


NORMS = pytest.mark.parametrize("norm", [groups, rms, frozen, batch, layers])


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("adapt", ADAPT)
@NORMS
def test_tasks_at_once_are_tasks_one_by_one(
    norm: Callable[[], nn.Module], adapt: str, checkpoint: bool
) -> None:
    found = []
    for once in (True, False):
        maml = MAML(
            network(norm()), inner_steps=2, adapt=ADAPT[adapt], learn_lr="tensor",
            vectorize=None if once else False, checkpoint=checkpoint and once,
        )  # fmt: skip
        result = maml(episodes() if once else apart(episodes()), F.cross_entropy)
        found.append((result, gradients(maml, result.loss)))
    (one, ours), (other, wanted) = found
    for what in ("loss", "losses", "accuracy", "inner_losses"):
        torch.testing.assert_close(getattr(one, what), getattr(other, what))
    assert one.inner_losses.shape == (3, 2) and (one.inner_losses[:, 0] != one.losses).all()
    close(ours, wanted, 1e-9)


@NORMS
def test_what_vmap_gets_wrong_is_refused(
    norm: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else: where PyTorch learns to do it, this fails, and the refusal can go."""
    maml = MAML(network(norm()), inner_steps=1)
    wanted = gradients(maml, maml(episodes(), F.cross_entropy).loss)
    maml.vectorize = True
    refused = norm in (batch, layers)
    if refused:
        with pytest.raises(ValueError, match=r"adapts 1.0.weight: .* wrong under vmap"):
            maml(episodes(), F.cross_entropy)
        monkeypatch.setattr(norms, "INPUT_STATISTICS", {})
    found = gradients(maml, maml(episodes(), F.cross_entropy).loss)
    error = max(float((found[name] - want).abs().max()) for name, want in wanted.items())
    assert error > 1e-6 if refused else error < 1e-12


class Functional(nn.Module):
    """A norm of which there is no module, as MAML networks are often written."""

    def __init__(self, norm: Callable[..., Tensor]) -> None:
        super().__init__()
        self.norm = norm
        self.w = nn.Parameter(torch.linspace(0.5, 1.5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x, self.w).tanh()


FUNCTIONAL = {
    "batch_norm": lambda x, w: F.batch_norm(x, None, None, w, training=True),
    "torch.batch_norm": lambda x, w: torch.batch_norm(
        x, 1 + w, None, None, None, True, 0.1, 1e-5, False
    ),
    "instance_norm": lambda x, w: F.instance_norm(x, weight=w),
    "layer_norm": lambda x, w: F.layer_norm(x.movedim(1, -1), (4,), w).movedim(-1, 1),
}


@pytest.mark.parametrize("name", FUNCTIONAL)
def test_a_norm_without_a_module_goes_one_by_one(name: str) -> None:
    maml = MAML(network(Functional(FUNCTIONAL[name])), inner_steps=2)
    found = gradients(maml, maml(episodes(), F.cross_entropy).loss)
    maml.vectorize = False
    close(found, gradients(maml, maml(episodes(), F.cross_entropy).loss), 1e-12)
    maml.vectorize = True
    with pytest.raises(ValueError, match="wrong under vmap"):
        maml(episodes(), F.cross_entropy)


class Tempered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, out: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.w * out, y)


def test_a_learned_loss_has_its_gradient_with_checkpoint_too() -> None:
    found = []
    for checkpoint in (False, True):
        loss = Tempered()
        MAML(network(), inner_steps=3, checkpoint=checkpoint)(episodes(), loss).loss.backward()
        found.append(loss.w.grad)
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("out", "labels"), [((1,), (5,)), ((3, 4), (5, 4)), ((6, 9), (5, 6))], ids=str
)
def test_only_scores_of_classes_are_held_to_labels(
    out: tuple[int, ...], labels: tuple[int, ...]
) -> None:
    """Not targets that count, nor maps and sequences of labels, with numbers to ignore."""
    model = nn.Sequential(nn.Linear(3, math.prod(out)), nn.Unflatten(1, out)).double()
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    y = torch.full((2, *labels), 200)
    result = MAML(model, inner_steps=1)(((x, y), (x, y)), lambda a, b: a.square().mean())
    assert result.accuracy.isnan().all()


def test_reptile_moves_a_scalar() -> None:
    class Scaled(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 1)
            self.scale = nn.Parameter(torch.tensor(1.5))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * super().forward(x)

    x, y = torch.randn(4, 5, 2), torch.randn(4, 5, 1)
    reptile = Reptile(Scaled(), inner_steps=2)
    reptile(((x, y), (x, y)), F.mse_loss).loss.backward()
    moved = [
        reptile.adapt((a, b), F.mse_loss).parameters["scale"] for a, b in zip(x, y, strict=True)
    ]
    wanted = reptile.model.scale.detach() - torch.stack(moved).mean()
    torch.testing.assert_close(reptile.model.scale.grad, wanted)


def test_one_task_is_not_taken_for_many() -> None:
    x = torch.linspace(-5, 5, 10)[:, None]
    episode = ((x, x.sin()), (x, x.sin()))
    maml = MAML(nn.Linear(1, 1), inner_steps=1)
    with pytest.raises(ValueError, match=r"\(10, 1\); one task alone is given as \[episode\]"):
        maml(episode, F.mse_loss)
    assert maml([episode], F.mse_loss).losses.shape == (1,)
    with pytest.raises(ValueError, match=r"task 0 must be \(\(x, y\), \(x_query, y_query\)\)"):
        maml([(*episode, episode[0])], F.mse_loss)


def test_rates_may_be_a_tensor_and_must_be_numbers() -> None:
    rates = MAML(network(), inner_lr=torch.tensor([0.3, 0.1]), inner_steps=2).rates
    torch.testing.assert_close(rates[0].detach(), torch.tensor([0.3, 0.1]).double())
    for wrong in ("0.1", {"r": 0.1}):
        with pytest.raises(TypeError, match="inner_lr must be a number"):
            MAML(network(), inner_lr=wrong)


def test_a_checkpoint_that_cannot_be_read_is_not_written(tmp_path: Path) -> None:
    path, model = tmp_path / "last.pt", nn.Linear(1, 1)
    meta.save_checkpoint(path, {"model": model}, best=3.0)
    with pytest.raises(TypeError, match="left as it was"):
        meta.save_checkpoint(path, {"model": model}, best=np.float64(4))
    assert meta.load_checkpoint(path, {"model": model}) == {"best": 3.0}


def test_tasks_of_different_sizes_go_one_by_one() -> None:
    maml = MAML(network(), inner_steps=1)
    mixed = [*apart(episodes(2)), *apart(episodes(1, support=5))]
    result = maml(mixed, F.cross_entropy)
    each = [maml([task], F.cross_entropy).losses for task in mixed]
    torch.testing.assert_close(result.losses, torch.cat(each))
    maml.vectorize = True
    with pytest.raises(ValueError, match="same shapes"):
        maml(mixed, F.cross_entropy)


class Observer(TorchDispatchMode):
    """Convolutions called, and the memory of what is still there."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions: list[tuple[int, int]] = []  # samples, groups
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op is torch.ops.aten.convolution.default:
            self.convolutions.append((len(args[0]), args[8]))
        out = op(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor):
                storage = x.untyped_storage()
                self.storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return out

    @property
    def bytes_alive(self) -> int:
        return sum(size for ref, size in self.storages.values() if not ref.expired())


def test_modulation_of_all_tasks_takes_the_convolutions_of_one() -> None:
    """Ordinary ones, over a batch of all the tasks' samples."""
    seen = []
    for tasks in (1, 5):
        with Observer() as observer:
            MAML(network(), inner_steps=2, adapt="modulation")(episodes(tasks), F.cross_entropy)
        seen.append(observer.convolutions)
    assert seen[0] == [(3, 1), (3, 1), (6, 1)]  # two inner steps and the query set
    assert seen[1] == [(5 * n, groups) for n, groups in seen[0]]


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("order", [1, 2])
def test_checkpointing_changes_no_gradient(order: int, vectorize: bool) -> None:
    """Random numbers are the same in both passes."""
    found = []
    for checkpoint in (False, True):
        maml = MAML(
            network(nn.Dropout(0.3)), inner_steps=3, order=order, learn_lr="element",
            checkpoint=checkpoint, vectorize=vectorize, step_weights=(0.2, 0.3, 0.5),
        )  # fmt: skip
        torch.manual_seed(3)
        loss = maml(episodes(), F.cross_entropy).loss
        torch.manual_seed(9)
        found.append(gradients(maml, loss))
    close(found[1], found[0], 1e-12)


def test_checkpointing_needs_the_memory_of_one_step() -> None:
    def alive(steps: int, checkpoint: bool) -> int:
        with Observer() as observer:
            maml = MAML(network(), inner_steps=steps, adapt="modulation", checkpoint=checkpoint)
            loss = maml(episodes(), F.cross_entropy).loss
            assert loss.requires_grad
            return observer.bytes_alive

    grows, stays = (alive(8, flag) / alive(1, flag) for flag in (False, True))
    assert grows > 4 and stays < 1.2


def test_autocast_is_the_same_in_both_passes() -> None:
    found = []
    for checkpoint in (False, True):
        maml = MAML(network().float(), inner_steps=2, adapt="modulation", checkpoint=checkpoint)
        (xs, ys), (xq, yq) = episodes()
        with torch.autocast("cpu", torch.bfloat16):
            loss = maml(((xs.float(), ys), (xq.float(), yq)), F.cross_entropy).loss
        found.append(gradients(maml, loss))
    close(found[1], found[0], 0)


# Algorithms and options.


def test_first_order_keeps_no_graph_of_the_inner_loop() -> None:
    sizes = []
    for order in (1, 2):
        with Observer() as observer:
            loss = MAML(network(), inner_steps=5, order=order)(episodes(), F.cross_entropy).loss
            assert loss.requires_grad
            sizes.append(observer.bytes_alive)
    assert sizes[0] < sizes[1] / 2


def test_reptile_is_the_loop_by_hand() -> None:
    reptile = Reptile(network(), inner_lr=RATE, inner_steps=3)
    ends: list[list[Tensor]] = []
    for (xs, ys), _ in apart(episodes()):
        model = copy.deepcopy(reptile.model)
        inner = torch.optim.SGD(model.parameters(), lr=RATE)
        for _ in range(3):
            inner.zero_grad()
            F.cross_entropy(model(xs), ys).backward()
            inner.step()
        ends.append([p.detach() for p in model.parameters()])
    wanted = [
        p.detach() + 0.25 * (torch.stack(end).mean(0) - p.detach())
        for p, end in zip(reptile.model.parameters(), zip(*ends, strict=True), strict=True)
    ]
    outer = torch.optim.SGD(reptile.parameters(), lr=0.25)
    reptile(episodes(), F.cross_entropy).loss.backward()
    outer.step()
    for p, want in zip(reptile.model.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.detach(), want, rtol=1e-10, atol=1e-12)


def test_step_weights_and_rates_of_each_step() -> None:
    """The loss is the weighted sum over what fewer steps at the same rates give."""
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
    for number, (support, (xq, yq)) in enumerate(apart(episodes())):
        adapted = maml.adapt(support, F.cross_entropy)
        out = adapted(xq)
        assert set(adapted.parameters) == set(maml.adapted_names)
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


# What is refused.


def changed(where: tuple[int, int, int], to: Callable[[Tensor], Tensor]) -> list[Any]:
    """The episodes with one tensor (task, support or query, inputs or targets) changed."""
    tasks: list[Any] = [[list(part) for part in task] for task in apart(episodes())]
    i, part, which = where
    tasks[i][part][which] = to(tasks[i][part][which])
    return [tuple(tuple(part) for part in task) for task in tasks]


def without_support() -> list[Any]:
    (xs, ys), query = apart(episodes(1))[0]
    return [((xs[:0], ys[:0]), query)]


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "no tasks": (lambda: [], "episodes is empty"),
    "no support": (without_support, "support set of task 0 is empty"),
    "targets": (lambda: changed((1, 1, 1), lambda y: y[:-1]), "query set of task 1 .* as many"),
    "query shape": (lambda: changed((2, 1, 0), lambda x: x[..., 1:]), "task 2: query inputs"),
    "query dtype": (lambda: changed((0, 1, 0), Tensor.float), "task 0: query inputs .* float64"),
    "way": (lambda: changed((1, 1, 1), lambda y: y + 7), "labels go up to .*3 classes"),
    "tasks": (lambda: (episodes(3)[0], episodes(2)[1]), "one first axis of tasks"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_episodes_are_refused(case: str) -> None:
    make, message = BAD[case]
    for learner in (MAML(network(), inner_steps=1), Reptile(network(), inner_steps=1)):
        with pytest.raises(ValueError, match=message):
            learner(make(), F.cross_entropy)


def test_a_bad_support_set_is_refused() -> None:
    maml = MAML(network())
    (x, y), _ = apart(episodes(1))[0]
    for support, message in (((x[:0], y[:0]), "empty"), ((x, y + 9), "labels go up to")):
        with pytest.raises(ValueError, match=message):
            maml.adapt(support, F.cross_entropy)


@pytest.mark.parametrize("vectorize", [True, False])
def test_a_loss_that_is_not_finite_is_named(vectorize: bool) -> None:
    """Of a task whose inputs overflow from the second step on, and of one that is NaN at once."""
    maml = MAML(Point(), inner_lr=1.0, inner_steps=3, vectorize=vectorize)
    x = torch.ones(4, 1, 3, dtype=torch.float64)
    x[2] = 1e80
    with pytest.raises(FloatingPointError, match="task 2: the loss before inner step 2 is inf"):
        maml(((x, x), (x, x)), half_square)
    with pytest.raises(FloatingPointError, match="before inner step 2"):
        maml.adapt((x[2], x[2]), half_square)
    x[2], bad = 1, x.clone()
    bad[3] = torch.nan
    with pytest.raises(FloatingPointError, match="task 3: the loss on the query set is nan"):
        maml(((x, x), (bad, x)), half_square)
    maml.check = False
    assert not maml(((x, x), (bad, x)), half_square).loss.isfinite()


OPTIONS_REFUSED: dict[str, dict[str, Any]] = {
    "matches no trainable parameter": dict(adapt=lambda name: "gamma" in name),
    "adapt must be": dict(adapt="everything"),
    "inner_steps must be at least 1": dict(inner_steps=0),
    "order must be 1 or 2": dict(order=3),
    "needs one rate or 5": dict(inner_lr=[0.1, 0.2]),
    "inner_lr must be finite": dict(inner_lr=float("nan")),
    "learn_lr must be": dict(learn_lr="layer"),
    "step_weights needs 5": dict(step_weights=[1.0]),
}


@pytest.mark.parametrize("message", OPTIONS_REFUSED)
def test_bad_options_are_refused(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MAML(network(), **OPTIONS_REFUSED[message])(episodes(), F.cross_entropy)


def test_modulation_needs_a_layer_of_ours() -> None:
    with pytest.raises(ValueError, match="'modulation' matches no"):
        MAML(nn.Linear(2, 2), adapt="modulation")


def test_running_statistics_are_refused_in_training_mode() -> None:
    model = network(nn.BatchNorm2d(4))
    maml = MAML(model, inner_steps=1)
    for ask in (maml, lambda e, f: maml.adapt(apart(e)[0][0], f)):
        with pytest.raises(ValueError, match=r"1 \(BatchNorm2d\) .*replace_all_batch_norm"):
            ask(episodes(), F.cross_entropy)
    torch.func.replace_all_batch_norm_modules_(model)
    maml(episodes(), F.cross_entropy).loss.backward()


# The outer loop on two processes, and across a crash.


def ranked(parallel: str) -> tuple[MAML, list[Any]]:
    maml = MAML(network(), inner_steps=2, learn_lr="tensor")
    maml.idle = nn.Parameter(torch.zeros(2, dtype=torch.float64)) if parallel == "ours" else None
    return maml, apart(episodes(4 if parallel == "DDP" else 5))


def _outer(rank: int, parallel: str, path: str) -> None:
    maml, tasks = ranked(parallel)
    with torch.no_grad():
        maml.model[0].weight.mul_(1 + rank)  # until the first process gives its own
    mine = tasks[rank::2]
    if parallel == "DDP":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped = nn.parallel.DistributedDataParallel(maml)
        wrapped(mine, F.cross_entropy).loss.backward()
    else:
        meta.broadcast(maml)
        maml(mine, F.cross_entropy).loss.backward()
        meta.average_gradients(maml.parameters(), len(mine))
    if rank == 0:
        torch.save([p.grad for p in maml.parameters()], path)


@pytest.mark.parametrize("parallel", ["ours", "DDP"])
def test_two_processes_are_one_with_all_tasks(parallel: str, tmp_path: Path) -> None:
    path = tmp_path / "gradients.pt"
    in_two_processes(_outer, parallel, str(path))
    maml, tasks = ranked(parallel)
    maml(tasks, F.cross_entropy).loss.backward()
    found, wanted = torch.load(path), [p.grad for p in maml.parameters()]
    assert [x is None for x in found] == [x is None for x in wanted]
    for x, want in zip(found, wanted, strict=True):
        if want is not None:
            torch.testing.assert_close(x, want, rtol=1e-9, atol=1e-12)


TRAINING = """
import sys, torch
from pathlib import Path
from akm_triton.meta import MAML, load_checkpoint, save_checkpoint
from tests.test_meta import F, network, nn

torch.set_num_threads(1)
path = Path(sys.argv[1])
sampler = torch.Generator().manual_seed(5)
maml = MAML(network(nn.Dropout(0.2)).float(), inner_steps=1, learn_lr="tensor")
optimizer = torch.optim.Adam(maml.parameters(), lr=1e-2)
parts = {"maml": maml, "optimizer": optimizer, "sampler": sampler}
done = load_checkpoint(path, parts)["iteration"] if path.exists() else 0
for iteration in range(done, 40):
    x = torch.randn(2, 9, 1, 6, 6, generator=sampler)
    y = torch.randint(3, (2, 9), generator=sampler)
    loss = maml(((x[:, :3], y[:, :3]), (x[:, 3:], y[:, 3:])), F.cross_entropy).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    save_checkpoint(path, parts, iteration=iteration + 1)
    print(iteration, flush=True)
"""


def training(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-c", TRAINING, str(path)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole, broken = training(tmp_path / "whole.pt"), training(tmp_path / "broken.pt")
    assert broken.stdout is not None
    for line in broken.stdout:
        if int(line) == 11:
            os.kill(broken.pid, signal.SIGKILL)
            break
    broken.communicate()
    assert broken.returncode == -signal.SIGKILL
    again = training(tmp_path / "broken.pt")
    steps = again.communicate()[0].split()
    whole.communicate()
    assert whole.returncode == again.returncode == 0
    assert int(steps[0]) in (11, 12, 13, 14) and steps[-1] == "39"
    one, other = (torch.load(tmp_path / f"{name}.pt") for name in ("whole", "broken"))
    torch.testing.assert_close(other, one, rtol=0, atol=0)


def test_a_checkpoint_of_other_parts_is_refused(tmp_path: Path) -> None:
    meta.save_checkpoint(tmp_path / "a.pt", {"model": nn.Linear(1, 1)}, epoch=3)
    with pytest.raises(KeyError, match=r"holds .'model'., not .'net'."):
        meta.load_checkpoint(tmp_path / "a.pt", {"net": nn.Linear(1, 1)})


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pt"
    meta.save_checkpoint(path, {}, epoch=1)

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        meta.save_checkpoint(path, {}, epoch=2)
    assert meta.load_checkpoint(path, {}) == {"epoch": 1}
    assert os.listdir(tmp_path) == ["a.pt"]
