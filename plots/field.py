"""Texture mosaics: accuracy over σ set by hand, and AKM at the σ that it learned."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from plots.arms import NOTE, by_arm, draw_gains, gain, median_sigma, score
from plots.style import legend_below, measured_on, panels, series


def draw(record: dict[str, Any]) -> Figure:
    protocol = record["protocol"]
    conditions, baseline = protocol["conditions"], protocol["baseline"]
    hand = {a["name"]: a["options"]["sigma"] for a in protocol["arms"] if "sigma" in a["options"]}
    learned = [a["name"] for a in protocol["arms"] if a["name"].startswith("AKM ×")]
    others = [a["name"] for a in protocol["arms"] if a["name"] not in (*hand, *learned, baseline)]
    figure, axes = panels(2, len(conditions), 3.6 + 0.24 * len(others), sharey="row")
    for curve, gains, condition in zip(*axes, conditions, strict=True):
        rows = by_arm(record, condition)
        halves = [gain(rows[name], "accuracy")[1] for name in hand]
        curve.errorbar(
            list(hand.values()), [score(rows[name], "accuracy") for name in hand], yerr=halves,
            capsize=2, label="σ by hand", **series(0),
        )  # fmt: skip
        for number, name in enumerate(learned, 1):
            row = rows[name]
            curve.errorbar(
                [median_sigma(row)], [score(row, "accuracy")], yerr=[gain(row, "accuracy")[1]],
                capsize=2, label=f"{name}, at the median σ of layer 2", **series(number),
            )  # fmt: skip
        floor = score(rows[baseline], "accuracy")
        curve.axhline(floor, color="0.4", linestyle="--", linewidth=1, label=baseline)
        curve.set_title(condition)
        curve.set_xlabel("σ (pixels)")
        draw_gains(gains, {name: rows[name] for name in others}, "accuracy", **series(0))
        gains.set_xlabel(f"points of accuracy above {baseline}")
    axes[0, 0].set_ylabel("test accuracy (%)")
    legend_below(figure, 3)
    seeds = record["rows"][0]["seeds"]
    figure.suptitle(
        f"Texture mosaics, {seeds} seeds; {NOTE} with {baseline}\n{measured_on(record)}"
    )
    return figure
