"""Corrupted images: what each arm gains over the plain network, shallow and deep."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from plots.arms import NOTE, by_arm, draw_gains
from plots.style import legend_below, measured_on, panels, series


def draw(record: dict[str, Any]) -> Figure:
    metrics, baseline = list(record["protocol"]["metrics"]), record["protocol"]["baseline"]
    conditions = record["protocol"]["conditions"]
    arms = len(record["protocol"]["arms"]) - 1
    figure, axes = panels(1, len(metrics), 1.4 + 0.32 * arms, sharey=True)
    for axis, metric in zip(axes[0], metrics, strict=True):
        for number, condition in enumerate(conditions):
            rows = by_arm(record, condition)
            del rows[baseline]
            place = 0.3 * (number - (len(conditions) - 1) / 2)
            draw_gains(axis, rows, metric, place, label=condition, **series(number))
        axis.set_title(metric)
    legend_below(figure, len(conditions))
    seeds = record["rows"][0]["seeds"]
    figure.suptitle(
        f"Corrupted images: points of accuracy above {baseline}, {seeds} seeds; {NOTE}\n"
        f"{measured_on(record)}"
    )
    return figure
