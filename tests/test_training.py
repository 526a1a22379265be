"""Ordinary training moves σ and gate, and the network classifies."""

import pytest

from bench import digits


@pytest.fixture(scope="module")
def outcome() -> digits.Outcome:
    return digits.train()


def test_the_held_out_third_is_classified(outcome: digits.Outcome) -> None:
    assert outcome.accuracy >= 0.97
    assert outcome.losses[-1] < 0.05 * outcome.losses[0]


@pytest.mark.parametrize("layer", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize(("what", "least"), [("sigma", 0.1), ("gate", 0.02)])
def test_sigma_and_gate_move(outcome: digits.Outcome, layer: int, what: str, least: float) -> None:
    start, end = (outcome.layers[layer][when][what] for when in ("start", "end"))
    moved = [abs(b - a) for a, b in zip(start, end, strict=True)]
    assert max(moved) > least
    assert all(x > 0 for x in moved)


def test_channels_of_a_layer_differ(outcome: digits.Outcome) -> None:
    sigma = outcome.layers[0]["end"]["sigma"]
    assert max(sigma) - min(sigma) > 0.1
