"""Episodes: how tasks are stacked, and which are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from akm_triton.meta import MAML, Reptile
from tests.meta.tasks import (
    Observer,
    Point,
    episodes,
    half_square,
    network,
    unstacked,
)


@pytest.mark.parametrize(
    ("out", "labels"), [((1,), (5,)), ((3, 4), (5, 4)), ((6, 9), (5, 6))], ids=str
)
def test_only_scores_of_classes_are_held_to_labels(
    out: tuple[int, ...], labels: tuple[int, ...]
) -> None:
    """Integer targets that are counts, maps or sequences of labels may exceed the outputs."""
    model = nn.Sequential(nn.Linear(3, math.prod(out)), nn.Unflatten(1, out)).double()
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    y = torch.full((2, *labels), 200)
    result = MAML(model, inner_steps=1)(((x, y), (x, y)), lambda a, b: a.square().mean())
    assert result.accuracy.isnan().all()


@pytest.mark.parametrize("vectorize", [True, False])
def test_ignored_targets_do_not_count(vectorize: bool) -> None:
    """Scores are the inputs, so that 1, 2, 3, … of the examples are right."""
    right = torch.eye(3).repeat(2, 1)  # 6 examples
    labels = torch.arange(3).repeat(2)
    y = torch.stack([labels, labels, labels])
    y[0, 0] = 1  # five of six
    y[1, 0], y[1, 1:4] = 1, -100  # two of three
    y[2] = -100
    model = nn.Linear(3, 3, bias=False)
    nn.init.eye_(model.weight)
    x = right.expand(3, 6, 3)
    maml = MAML(model, inner_lr=0.0, inner_steps=1, vectorize=vectorize)
    result = maml(((x, labels.expand(3, 6)), (x, y)), lambda out, y: out.mean())
    wanted = torch.tensor([5 / 6, 2 / 3, torch.nan])
    torch.testing.assert_close(result.accuracy, wanted, equal_nan=True)


def test_accuracy_of_many_examples_in_half_precision() -> None:
    """float16 cannot count to 70,000."""
    model = nn.Linear(2, 2, bias=False, dtype=torch.float16)
    nn.init.eye_(model.weight)
    x, y = torch.eye(2, dtype=torch.float16).repeat(35000, 1), torch.arange(2).repeat(35000)
    maml = MAML(model, inner_lr=0.0, inner_steps=1)
    assert maml([((x, y), (x, y))], lambda out, y: out.mean()).accuracy == 1


def test_one_task_is_not_taken_for_many() -> None:
    x = torch.linspace(-5, 5, 10)[:, None]
    episode = ((x, x.sin()), (x, x.sin()))
    maml = MAML(nn.Linear(1, 1), inner_steps=1)
    with pytest.raises(ValueError, match=r"\(10, 1\); one task alone is given as \[episode\]"):
        maml(episode, F.mse_loss)
    assert maml([episode], F.mse_loss).losses.shape == (1,)
    with pytest.raises(ValueError, match=r"task 0 must be \(\(x, y\), \(x_query, y_query\)\)"):
        maml([(*episode, episode[0])], F.mse_loss)


def test_tasks_of_different_sizes_go_one_by_one() -> None:
    maml = MAML(network(), inner_steps=1)
    mixed = [*unstacked(episodes(2)), *unstacked(episodes(1, support=5))]
    result = maml(mixed, F.cross_entropy)
    alone = [maml([task], F.cross_entropy).losses for task in mixed]
    torch.testing.assert_close(result.losses, torch.cat(alone))
    maml.vectorize = True
    with pytest.raises(ValueError, match="same shapes"):
        maml(mixed, F.cross_entropy)


def test_modulation_of_all_tasks_takes_the_convolutions_of_one() -> None:
    """They are ordinary convolutions, over one batch of the samples of all tasks."""
    seen = []
    for tasks in (1, 5):
        with Observer() as observer:
            MAML(network(), inner_steps=2, adapt="modulation")(episodes(tasks), F.cross_entropy)
        seen.append(observer.convolutions)
    assert seen[0] == [(3, 1), (3, 1), (6, 1)]  # two inner steps and the query set
    assert seen[1] == [(5 * n, groups) for n, groups in seen[0]]


def changed(where: tuple[int, int, int], to: Callable[[Tensor], Tensor]) -> list[Any]:
    """The episodes with one tensor (task, support or query, inputs or targets) changed."""
    tasks: list[Any] = [[list(part) for part in task] for task in unstacked(episodes())]
    i, part, which = where
    tasks[i][part][which] = to(tasks[i][part][which])
    return [tuple(tuple(part) for part in task) for task in tasks]


def without_support() -> list[Any]:
    (xs, ys), query = unstacked(episodes(1))[0]
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


def test_episodes_that_are_no_tasks_are_refused() -> None:
    maml = MAML(network(), inner_steps=1)
    tasks = unstacked(episodes())
    for wrong, message in (
        ((task for task in tasks), r"got generator; give list\(episodes\)"),
        (zip(*episodes(), strict=True), r"got zip; give list\(episodes\)"),
        (dict(enumerate(tasks)), "got dict of 3"),
        (None, "got NoneType"),
    ):
        with pytest.raises(TypeError, match=f"episodes must be a sequence of tasks, {message}"):
            maml(wrong, F.cross_entropy)
    for wrong in ([(sets for sets in tasks[0])], [3], [[]]):
        with pytest.raises(ValueError, match=r"task 0 must be \(\(x, y\), .*, got "):
            maml(wrong, F.cross_entropy)
    for wrong in ((x for x in tasks[0][0]), {"x": 1, "y": 2}, None):
        message = f"must be a pair of tensors .x, y., got {type(wrong).__name__}"
        with pytest.raises(TypeError, match=f"support set of task 0 {message}"):
            maml([(wrong, tasks[0][1])], F.cross_entropy)
        with pytest.raises(TypeError, match=f"support set {message}"):
            maml.adapt(wrong, F.cross_entropy)
    support, query = episodes()
    with pytest.raises(ValueError, match=r"must be \(\(x, y\), \(x_query, y_query\)\)"):
        maml((support, query, query), F.cross_entropy)


def test_a_bad_support_set_is_refused() -> None:
    maml = MAML(network())
    (x, y), _ = unstacked(episodes(1))[0]
    for support, message in (((x[:0], y[:0]), "empty"), ((x, y + 9), "labels go up to")):
        with pytest.raises(ValueError, match=message):
            maml.adapt(support, F.cross_entropy)


@pytest.mark.parametrize("vectorize", [True, False])
def test_a_loss_that_is_not_finite_is_named(vectorize: bool) -> None:
    """One task overflows from the second step on, another is NaN from the start."""
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
