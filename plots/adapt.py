"""Adapting to a corrupted domain: the gain over how many numbers move."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from plots.arms import NOTE, by_arm, gain
from plots.style import legend_below, measured_on, panels, series


def draw(record: dict[str, Any]) -> Figure:
    protocol = record["protocol"]
    rows = by_arm(record, protocol["conditions"][0])
    metrics = list(protocol["metrics"])
    figure, axes = panels(1, len(metrics), 3.4, sharey=True)
    kinds = list(dict.fromkeys(_kind(arm) for arm, row in rows.items() if _moved(row)))
    for axis, metric in zip(axes[0], metrics, strict=True):
        for number, kind in enumerate(kinds):
            found = [row for arm, row in rows.items() if _kind(arm) == kind and _moved(row)]
            gains = [gain(row, metric) for row in found]
            axis.errorbar(
                [_moved(row) for row in found], [middle for middle, _ in gains],
                yerr=[half for _, half in gains], capsize=2, label=kind,
                **{**series(number), "linestyle": "none"},
            )  # fmt: skip
        axis.axhline(0, color="black", linewidth=1)
        axis.set_xscale("log")
        axis.set_title(metric)
        axis.set_xlabel("numbers that move")
    axes[0, 0].set_ylabel(f"points above {protocol['baseline']}")
    legend_below(figure, 3)
    seeds = record["rows"][0]["seeds"]
    figure.suptitle(f"Adapted to a corruption, {seeds} seeds; {NOTE}\n{measured_on(record)}")
    return figure


def _kind(arm: str) -> str:
    """Network, and what moves; r and s, and the numbers of norms, are as many."""
    net, _, what = arm.partition(": ")
    if what.endswith("entropy"):
        return f"{net}: by entropy"
    return f"{net}: r, or r and s" if what.startswith("r") else f"{net}: affine, head, all"


def _moved(row: dict[str, Any]) -> int:
    return int(row["learned"][0]["moved"])
