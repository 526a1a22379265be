"""Means with 95 % intervals, over seeds and test images alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Interval:
    """``mean`` ± ``half`` is the interval; NaN where one seed or one image says nothing of it."""

    mean: float
    half: float
    seeds: float  # half the width if the test images were all there are

    @property
    def verdict(self) -> str:
        if math.isnan(self.half):
            return "too few seeds"
        if self.mean - self.half > 0:
            return "above 0"
        return "below 0" if self.mean + self.half < 0 else "not shown: the interval holds 0"


def interval(values: Array) -> Interval:
    r"""Of (seeds, images): each seed's score of each test image, or differences of two arms' scores
    of the same seed and image.

    .. math:: \mathrm{half}^2 = (t_{S-1} \, s_S / \sqrt S)^2 + (t_{I-1} \, s_I / \sqrt I)^2

    where s_S is the standard deviation of the S means over images, and s_I that of the I means over
    seeds; t is Student's, at 97.5 %. What seed and image do together is in both terms, which makes
    the interval a little too wide, never too narrow. It is for one comparison: of twenty true
    zeros, one is expected outside.
    """
    by_seed, by_image = values.mean(1), values.mean(0)
    seeds, images = _half(by_seed), _half(by_image)
    return Interval(float(values.mean()), math.hypot(seeds, images), seeds)


def _half(means: Array) -> float:
    count = len(means)
    if count < 2:
        return math.nan
    return float(stats.t.ppf(0.975, count - 1) * means.std(ddof=1) / count**0.5)
