"""Intervals over seeds and test images, and what an arm costs."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from bench.experiments import cost
from bench.experiments.statistics import interval


def test_without_variance_of_images_it_is_students() -> None:
    means = np.array([0.1, 0.4, 0.2, 0.5])
    found = interval(np.repeat(means[:, None], 50, axis=1))
    low, high = stats.ttest_1samp(means, 0).confidence_interval()
    assert found.half == pytest.approx((high - low) / 2)
    assert found.seeds == pytest.approx(found.half) and found.mean == pytest.approx(0.3)


@pytest.mark.parametrize("sizes", [(0.02, 0.3, 0.4), (0.05, 0.0, 0.4), (0.0, 0.5, 0.2)])
def test_it_covers_the_truth_as_often_as_it_says(sizes: tuple[float, float, float]) -> None:
    """Of seeds and images drawn from normal distributions: at least 95 % of the intervals hold the
    mean; those of the seeds alone, far fewer where images differ."""
    rng = np.random.default_rng(0)
    of_seed, of_image, rest = sizes
    covered = []
    for _ in range(1000):
        values = (
            of_seed * rng.standard_normal((5, 1))
            + of_image * rng.standard_normal((1, 100))
            + rest * rng.standard_normal((5, 100))
        )
        found = interval(values)
        covered.append((abs(found.mean) <= found.half, abs(found.mean) <= found.seeds))
    both, seeds = np.mean(covered, axis=0)
    assert 0.94 < both
    if of_image:
        assert seeds < 0.9


def test_a_verdict_is_where_the_interval_lies() -> None:
    spread = np.array([[-0.01], [0.0], [0.01]]) * np.ones(4)
    assert interval(0.1 + spread).verdict == "above 0"
    assert interval(-0.1 + spread).verdict == "below 0"
    assert interval(spread).verdict == "not shown: the interval holds 0"
    alone = interval(spread[:1])
    assert math.isnan(alone.half) and alone.verdict == "too few seeds"


def test_the_cost_is_counted_by_hand() -> None:
    models: dict[str, tuple[nn.Module, torch.Tensor]] = {
        "conv": (nn.Conv2d(2, 3, 3, padding=1), torch.ones(4, 2, 8, 8)),
        "linear": (nn.Linear(5, 7), torch.ones(4, 5)),
    }
    costs = cost.measure(models, torch.device("cpu"), 0.01)
    assert costs["conv"]["parameters"] == 57 and costs["linear"]["parameters"] == 42
    assert costs["conv"]["flops"] == 2 * 9 * 2 * 3 * 64 and costs["linear"]["flops"] == 2 * 35
    assert all(found[key] > 0 for found in costs.values() for key in ("step_ms", "forward_ms"))
