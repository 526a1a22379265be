"""Few-shot runs: accuracy while meta-training, at the end, and the σ that was learned."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.fewshot.table import Run, groups

COLOURS = ("black", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("-", "--", "-.", ":")


def draw(runs: list[Run]) -> Figure:
    """Of one data set, way and shot."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
    found = groups(runs)
    _curves(axes[0], found)
    _ends(axes[1], found)
    _sigmas(axes[2], found)
    s = runs[0]["settings"]
    figure.suptitle(
        f"{s['dataset']}, {s['way']}-way {s['shot']}-shot: {s['test_episodes']} test episodes of "
        f"classes not seen in training ({runs[0]['device']})",
        fontsize=10,
    )
    return figure


def _look(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": LINES[number % len(LINES)]}


def _curves(axis: Axes, found: dict[str, list[Run]]) -> None:
    for number, (name, runs) in enumerate(found.items()):
        curves = [[row["val"] for row in run["rows"]] for run in runs]
        shortest = min(len(curve) for curve in curves)
        steps = [row["iteration"] for row in runs[0]["rows"]][:shortest]
        mean = np.mean([curve[:shortest] for curve in curves], axis=0)
        axis.plot(steps, 100 * mean, linewidth=1.2, label=name, **_look(number))
    axis.set_xlabel("outer steps")
    axis.set_ylabel("validation accuracy (%), mean of seeds")
    axis.legend(fontsize=7)
    axis.grid(True)


def _ends(axis: Axes, found: dict[str, list[Run]]) -> None:
    """A point and its interval for each seed, one row for each group."""
    for number, runs in enumerate(found.values()):
        for seed, run in enumerate(runs):
            end = run["accuracy"]
            axis.errorbar(
                100 * end["mean"], -number - 0.15 * seed, xerr=100 * end["ci95"],
                fmt="o", markersize=3, capsize=2, color=COLOURS[number % len(COLOURS)],
            )  # fmt: skip
    floor = next(iter(found.values()))[0]["floor"]["mean"]
    axis.axvline(100 * floor, color="0.5", linestyle="--", linewidth=1)
    axis.annotate(
        f"pixel nearest neighbour {floor:.1%}", (100 * floor, 0), (-3, 4), rotation=90,
        ha="right", xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=7,
    )  # fmt: skip
    axis.set_yticks([-number for number in range(len(found))], list(found), fontsize=7)
    axis.set_xlabel("test accuracy (%) and 95 % interval, a point a seed")
    axis.grid(True, axis="x")


def _sigmas(axis: Axes, found: dict[str, list[Run]]) -> None:
    """σ of every channel, by layer, of all groups that learn it."""
    learned = [
        (number, runs)
        for number, runs in enumerate(found.values())
        if runs[0]["settings"]["layer"] == "akm"
    ]
    width = 0.7 / max(1, len(learned))
    for place, (number, runs) in enumerate(learned):
        for layer in range(len(runs[0]["layers"])):
            sigma = [x for run in runs for x in run["layers"][layer]["end"]["sigma"]]
            left = layer + 0.65 + place * width
            axis.plot(
                np.linspace(left, left + 0.9 * width, len(sigma)), sorted(sigma),
                ".x+"[place % 3], markersize=2.5, color=COLOURS[number % len(COLOURS)],
                label=f"adapts {runs[0]['settings']['adapt']}" if layer == 0 else None,
            )  # fmt: skip
    if learned:
        layers = learned[0][1][0]["layers"]
        start = layers[0]["start"]["sigma"][0]
        axis.axhline(start, color="black", linestyle="--", linewidth=1, label=f"start {start:.2f}")
        axis.set_ylim(top=1.25 * axis.get_ylim()[1])  # for the legend
        axis.legend(fontsize=7, loc="upper right")
        axis.set_xticks(range(1, len(layers) + 1))
    axis.set_xlabel("layer")
    axis.set_ylabel("learned σ (pixels), channels sorted")
