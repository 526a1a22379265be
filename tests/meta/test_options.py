"""Options of the learners: what they take, and which are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import akm_triton as akm
from akm_triton.meta import MAML, Reptile
from akm_triton.meta.learner import Learner
from tests.meta.tasks import (
    episodes,
    network,
)


def test_rates_may_be_a_tensor_and_must_be_numbers() -> None:
    rates = MAML(network(), inner_lr=torch.tensor([0.3, 0.1]), inner_steps=2).rates
    torch.testing.assert_close(rates[0].detach(), torch.tensor([0.3, 0.1]).double())
    for wrong in ("0.1", {"r": 0.1}, ["0.1", "0.2"], True, torch.tensor([True]), [[0.1]], b"ab"):
        with pytest.raises(TypeError, match="inner_lr must be a number"):
            MAML(network(), inner_lr=wrong, inner_steps=2)


NUMBERS = {
    "list": [0.3, 0.1],
    "tuple": (0.3, 0.1),
    "array": np.array([0.3, 0.1]),
    "tensor": torch.tensor([0.3, 0.1], dtype=torch.float64),
    "tensors": [torch.tensor(0.3, dtype=torch.float64), np.float64(0.1)],
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_rates_and_step_weights_of_every_kind_are_the_same(kind: str) -> None:
    """Step weights may be given at construction or assigned later."""
    wanted = MAML(network(), inner_lr=[0.3, 0.1], inner_steps=2, step_weights=[0.3, 0.1])
    wanted_loss = wanted(episodes(), F.cross_entropy).loss
    assert wanted_loss != MAML(network(), inner_steps=2)(episodes(), F.cross_entropy).loss
    maml = MAML(network(), inner_lr=NUMBERS[kind], inner_steps=2, step_weights=NUMBERS[kind])
    assert maml(episodes(), F.cross_entropy).loss == wanted_loss
    maml.step_weights = [1.0, 0.0]
    assert maml(episodes(), F.cross_entropy).loss != wanted_loss
    maml.step_weights = NUMBERS[kind]
    assert maml(episodes(), F.cross_entropy).loss == wanted_loss


@pytest.mark.parametrize("rate", [np.float32(0.5), np.float64(0.5), np.int64(1), torch.tensor(0.5)])
def test_a_rate_may_be_a_scalar_of_a_library(rate: Any) -> None:
    assert MAML(network(), inner_lr=rate).rates[0].tolist() == [float(rate)]


def test_integers_and_flags_of_libraries_are_taken() -> None:
    maml = MAML(
        network(), inner_steps=np.int64(2), order=torch.tensor(1), vectorize=np.bool_(False),
        checkpoint=np.bool_(True), check=0,
    )  # fmt: skip
    options = maml.inner_steps, maml.order, maml.vectorize, maml.checkpoint, maml.check
    assert options == (2, 1, False, True, False)
    assert [type(option) for option in options] == [int, int, bool, bool, bool]


def test_vectorize_that_is_zero_means_one_by_one() -> None:
    """The model is called for the two sets of each task, not once for all supports and queries."""
    maml = MAML(nn.Linear(2, 1), inner_steps=1)
    calls: list[int] = []
    maml.model.register_forward_hook(lambda *_: calls.append(1))
    x, y = torch.randn(3, 5, 2), torch.randn(3, 5, 1)
    for vectorize, count in ((False, 6), (0, 6), (np.bool_(False), 6), (None, 2)):
        calls.clear()
        maml.vectorize = vectorize
        maml(((x, y), (x, y)), F.mse_loss)
        assert len(calls) == count


OPTIONS_REFUSED: dict[str, dict[str, Any]] = {
    "matches no trainable parameter": dict(adapt=lambda name: "gamma" in name),
    "adapt must be": dict(adapt="everything"),
    "inner_steps must be at least 1": dict(inner_steps=0),
    "order must be 1 or 2": dict(order=3),
    "needs one rate or 5": dict(inner_lr=[0.1, 0.2]),
    "inner_lr must be finite": dict(inner_lr=float("nan")),
    "learn_lr must be": dict(learn_lr="layer"),
    "step_weights needs 5 numbers, got 1": dict(step_weights=[1.0]),
    "step_weights needs 5 numbers, got 0": dict(step_weights=[]),
    "step_weights needs 5 numbers, got 4": dict(step_weights=torch.ones(4)),
    "step_weights must be finite": dict(step_weights=np.array([0, 0, 0, 0, np.inf])),
    "step_weights would not learn": dict(step_weights=nn.Parameter(torch.ones(5))),
    "inner_lr would not learn": dict(inner_lr=torch.tensor(0.1, requires_grad=True)),
}


@pytest.mark.parametrize("message", OPTIONS_REFUSED)
def test_bad_options_are_refused(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MAML(network(), **OPTIONS_REFUSED[message])


def test_step_weights_assigned_anew_are_checked_at_the_call() -> None:
    maml = MAML(network(), inner_steps=2)
    for weights, error, message in (
        ([1.0], ValueError, "step_weights needs 2 numbers, got 1"),
        (torch.tensor([1.0, torch.nan]), ValueError, "step_weights must be finite"),
        ("no", TypeError, "step_weights must be a number or a sequence"),
    ):
        maml.step_weights = weights
        with pytest.raises(error, match=message):
            maml(episodes(), F.cross_entropy)


TYPES_REFUSED: dict[str, dict[str, Any]] = {
    "inner_steps must be an integer, got True": dict(inner_steps=True),
    "inner_steps must be an integer, got 2.0": dict(inner_steps=2.0),
    "inner_steps must be an integer, got '2'": dict(inner_steps="2"),
    "order must be an integer, got True": dict(order=True),
    "order must be an integer, got 2.0": dict(order=2.0),
    "vectorize must be True or False, got 'no'": dict(vectorize="no"),
    "checkpoint must be True or False, got None": dict(checkpoint=None),
    "check must be True or False, got 'yes'": dict(check="yes"),
    "step_weights must be a number or a sequence": dict(step_weights="11111"),
    "model must be an nn.Module, got str": dict(model="network"),
}


@pytest.mark.parametrize("message", TYPES_REFUSED)
def test_options_of_a_wrong_type_are_refused(message: str) -> None:
    with pytest.raises(TypeError, match=message):
        MAML(**{"model": network(), **TYPES_REFUSED[message]})


@pytest.mark.parametrize("adapt", [["0.r"], np.array(["all", "modulation"]), None, True])
def test_adapt_of_a_wrong_type_is_refused(adapt: Any) -> None:
    with pytest.raises(ValueError, match="adapt must be 'all', 'modulation' or a predicate"):
        MAML(network(), adapt=adapt)


def test_options_of_the_learner_are_given_by_name() -> None:
    for learner in (MAML, Reptile, Learner):
        with pytest.raises(TypeError, match="positional"):
            learner(network(), 0.1)


def test_modulation_needs_a_layer_of_ours() -> None:
    with pytest.raises(ValueError, match="'modulation' matches no"):
        MAML(nn.Linear(2, 2), adapt="modulation")


class Exp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


def wrapped() -> nn.Module:
    """r under another name first, and a layer under two."""
    layer = akm.AKMConv2d(1, 4, 3, padding=1)
    model = nn.Sequential(layer, akm.Modulation2d(4), layer)
    model[1].r = layer.r
    model.register_parameter("width", layer.r)
    return model


MODULATION: dict[str, tuple[Any, list[str]]] = {
    "plain": (lambda layer: layer, ["r", "s"]),
    "parametrised": (
        lambda layer: parametrize.register_parametrization(layer, "r", Exp()),
        ["s", "parametrizations.r.original"],
    ),
    "normed": (
        lambda layer: parametrizations.weight_norm(layer, "s"),
        ["r", "parametrizations.s.original0", "parametrizations.s.original1"],
    ),
    "pruned": (lambda layer: prune.l1_unstructured(layer, "r", 1), ["s", "r_orig"]),
    "normed by hook": (lambda layer: weight_norm(layer, "r"), ["s", "r_g", "r_v"]),
    "spectral norm by hook": (
        lambda layer: spectral_norm(layer, "weight"), ["r", "s"]
    ),
    "compiled": (lambda layer: torch.compile(layer), ["_orig_mod.r", "_orig_mod.s"]),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", MODULATION)
def test_modulation_is_found_by_layer(kind: str) -> None:
    change, names = MODULATION[kind]
    model = nn.Sequential(nn.Linear(2, 2), change(akm.AKMConv2d(1, 4, 3)))
    names = [f"1.{name}" for name in names]
    assert akm.modulation_names(model) == names
    assert MAML(model, adapt="modulation").adapted_names == names


def test_modulation_under_other_names() -> None:
    assert akm.modulation_names(wrapped()) == ["width", "0.s", "1.s"]
    assert akm.modulation_names(nn.Linear(2, 2)) == []
    model = network()
    model[0].s.requires_grad_(False)
    assert MAML(model, adapt="modulation").adapted_names == ["0.r"]
