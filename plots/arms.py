"""What the figures of experiments share: the rows of a condition by arm, in per cent."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

Row = dict[str, Any]
NOTE = "bars: 95 % intervals over seeds and test images, in pairs"


def by_arm(record: dict[str, Any], condition: str) -> dict[str, Row]:
    return {row["arm"]: row for row in record["rows"] if row["condition"] == condition}


def score(row: Row, metric: str) -> float:
    return float(100 * row["metrics"][metric]["mean"])


def gain(row: Row, metric: str) -> tuple[float, float]:
    """The difference from the baseline, and half of its interval; 0 if a single seed gives none."""
    found = row["metrics"][metric]
    return 100 * found["difference"], 100 * (found["difference_half"] or 0.0)


def median_sigma(row: Row, layer: int = -1) -> float:
    """Of a layer's channels, of all seeds, in pixels."""
    return float(np.median([learned["sigma"][layer] for learned in row["learned"]]))


def draw_gains(
    axis: Axes, rows: dict[str, Row], metric: str, shift: float = 0.0, **style: Any
) -> None:
    """The arms below each other, each with its gain over the baseline, ``shift`` lines lower."""
    found = [gain(row, metric) for row in rows.values()]
    axis.errorbar(
        [middle for middle, _ in found], [place + shift for place in range(len(found))],
        xerr=[half for _, half in found], capsize=2, **{**style, "linestyle": "none"},
    )  # fmt: skip
    axis.axvline(0, color="black", linewidth=1)
    axis.set_yticks(range(len(rows)), list(rows))
    axis.set_ylim(len(rows) - 0.5, -0.5)  # the first on top
