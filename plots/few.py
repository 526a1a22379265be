"""Few images a class: what each arm gains over the plain network."""

from __future__ import annotations

import re
from typing import Any

from matplotlib.figure import Figure

from plots.arms import NOTE, by_arm, gain
from plots.style import legend_below, log_sizes, measured_on, panels, series


def draw(record: dict[str, Any]) -> Figure:
    protocol = record["protocol"]
    conditions, metrics = protocol["conditions"], list(protocol["metrics"])
    counts = [int(re.findall(r"\d+", condition)[0]) for condition in conditions]
    arms = [a["name"] for a in protocol["arms"] if a["name"] != protocol["baseline"]]
    figure, axes = panels(1, len(metrics), 3.2)
    for axis, metric in zip(axes[0], metrics, strict=True):
        for number, name in enumerate(arms):
            found = [gain(by_arm(record, condition)[name], metric) for condition in conditions]
            beside = 1.04 ** (number - (len(arms) - 1) / 2)  # so that no bar hides another
            axis.errorbar(
                [beside * count for count in counts], [middle for middle, _ in found],
                yerr=[half for _, half in found], capsize=2, label=name, **series(number),
            )  # fmt: skip
        axis.axhline(0, color="black", linewidth=1)
        log_sizes(axis, counts)
        axis.set_title(metric)
        axis.set_xlabel("training images a class")
    axes[0, 0].set_ylabel(f"points of accuracy above {protocol['baseline']}")
    legend_below(figure, len(arms))
    seeds = record["rows"][0]["seeds"]
    figure.suptitle(f"Few images a class, {seeds} seeds; {NOTE}\n{measured_on(record)}")
    return figure
