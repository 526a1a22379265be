"""Ordinary training moves σ and gate, and the network classifies."""

import pytest
import torch
import torch.nn.functional as F

from bench import digits

SEEDS = (0, 1)


@pytest.fixture(scope="module")
def outcomes() -> list[digits.Outcome]:
    return [digits.train(seed=seed) for seed in SEEDS]


def test_the_held_out_third_is_classified(outcomes: list[digits.Outcome]) -> None:
    """Seven wrong answers of 598, or fewer, were counted with three seeds; 17 are allowed."""
    for outcome in outcomes:
        assert outcome.accuracy >= 0.97
        assert outcome.losses[-1] < 0.05 * outcome.losses[0]


def test_every_sigma_and_gate_has_a_gradient() -> None:
    """The first step of Adam moves each of them."""
    net = digits.digits_net()
    images, _, labels, _ = digits.digits()
    F.cross_entropy(net(images[:64]), labels[:64]).backward()
    for layer in digits.modulations(net):
        for p in (layer.r, layer.s):
            assert p.grad is not None and (p.grad != 0).all()


@pytest.mark.parametrize("layer", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize(("what", "least"), [("sigma", 0.1), ("gate", 0.02)])
def test_sigma_and_gate_move(
    outcomes: list[digits.Outcome], layer: int, what: str, least: float
) -> None:
    states = [outcome.layers[layer] for outcome in outcomes]
    start, end = (
        torch.tensor([state[when][what] for state in states]) for when in ("start", "end")
    )
    moved = (end - start).abs()  # (seed, channel)
    assert (moved.amax(1) > 0).all()
    assert moved.max() > least


def test_channels_of_a_layer_differ(outcomes: list[digits.Outcome]) -> None:
    for outcome in outcomes:
        sigma = outcome.layers[0]["end"]["sigma"]
        assert max(sigma) - min(sigma) > 0.1
