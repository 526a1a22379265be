"""Time and memory of a meta-gradient: over tasks, at once and one by one, and over inner steps."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from bench.sweep import Row
from plots.style import measured_on

# adapt, at once → how it is drawn
TASKS: dict[tuple[str, bool], dict[str, Any]] = {
    ("all", True): {"color": "black", "marker": "o", "linestyle": "-"},
    ("all", False): {"color": "black", "marker": "o", "linestyle": "--", "mfc": "none"},
    ("modulation", True): {"color": "#D55E00", "marker": "s", "linestyle": "-"},
    ("modulation", False): {"color": "#D55E00", "marker": "s", "linestyle": "--", "mfc": "none"},
}
STEPS: dict[bool, dict[str, Any]] = {
    False: {"color": "black", "marker": "o", "linestyle": "-"},
    True: {"color": "#0072B2", "marker": "^", "linestyle": "--"},
}


def draw(sweep: dict[str, Any]) -> Figure:
    rows = sweep["rows"]
    by_steps = [row for row in rows if row["checkpoint"]]
    steps_tasks = by_steps[0]["tasks"] if by_steps else None
    figure, axes = plt.subplots(2, 2, figsize=(9.5, 6.4), layout="constrained")
    for line, key, label in zip(
        axes, ("p50", "peak_bytes"), ("time (s)", "peak memory (bytes)"), strict=True
    ):
        for (adapt, at_once), look in TASKS.items():
            found = [
                row
                for row in rows
                if (row["adapt"], row["at_once"]) == (adapt, at_once)
                and row["steps"] == 3
                and not row["checkpoint"]
            ]
            name = f"adapt={adapt}, {'at once' if at_once else 'one by one'}"
            _line(line[0], found, "tasks", key, name, look)
        for again, look in STEPS.items():
            found = [
                row
                for row in rows
                if row["checkpoint"] == again
                and row["tasks"] == steps_tasks
                and row["steps"] != 3
                and row["adapt"] == "all"
            ]
            name = "inner steps computed again" if again else "inner steps kept"
            _line(line[1], found, "steps", key, name, look)
        line[0].set_ylabel(label)
    axes[1, 0].set_xlabel("tasks, of 3 inner steps")
    axes[1, 1].set_xlabel(f"inner steps, of {steps_tasks} tasks")
    for axis in axes[0]:
        axis.legend(fontsize=8)
    figure.suptitle(
        "A meta-gradient of the few-shot network (5-way, 5 + 15 images of 28×28)\n"
        f"{measured_on(sweep)}",
        fontsize=10,
    )
    return figure


def _line(axis: Axes, rows: list[Row], x: str, y: str, name: str, look: dict[str, Any]) -> None:
    if not rows:
        return
    axis.plot([row[x] for row in rows], [row[y] for row in rows], label=name, **look)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks([row[x] for row in rows], [str(row[x]) for row in rows])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.grid(True)
