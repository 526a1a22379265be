"""Before a stride: steadiness under small moves, over accuracy, with noise beside it."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from plots.arms import by_arm, score
from plots.style import legend_below, measured_on, panels, series

OVER = ("clean", "noise")


def draw(record: dict[str, Any]) -> Figure:
    conditions = record["protocol"]["conditions"]
    figure, axes = panels(len(conditions), len(OVER), 1.2 + 2.6 * len(conditions), sharey="row")
    for line, condition in zip(axes, conditions, strict=True):
        for axis, metric in zip(line, OVER, strict=True):
            for number, (name, row) in enumerate(by_arm(record, condition).items()):
                axis.errorbar(
                    [score(row, metric)], [score(row, "consistency")],
                    xerr=[_half(row, metric)], yerr=[_half(row, "consistency")],
                    label=name, **look(number),
                )  # fmt: skip
            axis.set_xlabel(f"accuracy, {metric} (%)")
            axis.set_title(condition)
        line[0].set_ylabel("predictions that stay (%)")
    legend_below(figure, 4)
    seeds = record["rows"][0]["seeds"]
    figure.suptitle(
        f"Images moved by 1 to 3 pixels, {seeds} seeds; bars: 95 % intervals, not in pairs\n"
        f"{measured_on(record)}"
    )
    return figure


def look(number: int) -> dict[str, Any]:
    """Of an arm; the seventh and on are grey."""
    if number < 6:
        return {**series(number), "linestyle": "none"}
    return {"color": "0.5", "marker": "X", "linestyle": "none"}


def _half(row: dict[str, Any], metric: str) -> float:
    return 100 * (row["metrics"][metric]["half"] or 0.0)
