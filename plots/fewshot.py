"""Few-shot runs: accuracy at the end and while meta-training, and the σ that was learned."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.fewshot.table import LAYERS, Run, groups
from plots.style import WIDTH, draw_sorted, measured_on, series

ADAPT = {"all": "adapts all", "modulation": "adapts r and s alone"}


def draw(runs: list[Run]) -> Figure:
    """Of one data set, way and shot."""
    figure = plt.figure(figsize=(WIDTH, 5.6), layout="constrained")
    subfigures: Any = figure.subfigures(2, 1, height_ratios=(2, 3))
    above, below = subfigures
    found = {_name(group[0]): group for group in groups(runs).values()}
    curves, sigmas = below.subplots(1, 2)
    _draw_ends(above.subplots(), found)
    _draw_curves(curves, found)
    _draw_sigmas(sigmas, found)
    s = runs[0]["settings"]
    figure.suptitle(
        f"{s['dataset']}, {s['way']}-way {s['shot']}-shot: {s['test_episodes']} test episodes of "
        f"classes not seen in training\n{measured_on(runs[0])}"
    )
    return figure


def _name(run: Run) -> str:
    s = run["settings"]
    return f"{LAYERS[s['layer']]}; {s['algorithm']} {ADAPT.get(s['adapt'], s['adapt'])}"


def _draw_ends(axis: Axes, found: dict[str, list[Run]]) -> None:
    """A point and its interval for each seed, below each other in the line of their group."""
    for number, runs in enumerate(found.values()):
        for seed, run in enumerate(runs):
            end = run["accuracy"]
            axis.errorbar(
                100 * end["mean"], number + 0.22 * (seed - (len(runs) - 1) / 2),
                xerr=100 * end["ci95"], capsize=2, **series(number),
            )  # fmt: skip
    floor = 100 * next(iter(found.values()))[0]["floor"]["mean"]
    axis.axvline(floor, color="0.4", linestyle="--", linewidth=1)
    axis.annotate(
        f"nearest neighbour\nby pixels: {floor:.1f}", (floor, 1), (4, -2), va="top",
        xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8,
    )  # fmt: skip
    axis.set_yticks(range(len(found)), list(found))
    axis.set_ylim(len(found) - 0.5, -0.5)  # the first on top
    axis.set_xlabel("test accuracy (%) with its 95 % interval, a point for each seed")


def _draw_curves(axis: Axes, found: dict[str, list[Run]]) -> None:
    for number, runs in enumerate(found.values()):
        curves = [[row["val"] for row in run["rows"]] for run in runs]
        shortest = min(len(curve) for curve in curves)
        steps = [row["iteration"] for row in runs[0]["rows"]][:shortest]
        mean = np.mean([curve[:shortest] for curve in curves], axis=0)
        axis.plot(steps, 100 * mean, markevery=max(1, shortest // 8), **series(number))
    axis.set_title("colours and marks as above")
    axis.set_xlabel("outer steps")
    axis.set_ylabel("validation accuracy (%), mean of seeds")


def _draw_sigmas(axis: Axes, found: dict[str, list[Run]]) -> None:
    """σ of every channel, by layer, of the groups that learn it."""
    learned = {
        number: runs
        for number, runs in enumerate(found.values())
        if runs[0]["settings"]["layer"] == "akm"
    }
    for place, (number, runs) in enumerate(learned.items()):
        layers = [
            [x for run in runs for x in run["layers"][layer]["end"]["sigma"]]
            for layer in range(len(runs[0]["layers"]))
        ]
        draw_sorted(axis, layers, (place, len(learned)), **series(number))
    for runs in list(learned.values())[:1]:
        start = runs[0]["layers"][0]["start"]["sigma"][0]
        axis.axhline(start, color="black", linestyle="--", linewidth=1)
        axis.set_title(f"dashed: every σ at the start, {start:.2f} pixels")
    axis.set_xlabel("channels of all seeds, sorted")
    axis.set_ylabel("learned σ (pixels)")
