"""Time and memory of a meta-gradient: over tasks, at once and one by one, and over inner steps."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from bench import meta
from bench.sweep import Row
from plots.style import MIB, MS, in_units, log_sizes, measured_on, panels, series

ADAPT = {"all": "all parameters", "modulation": "r and s alone"}


def draw(record: dict[str, Any]) -> Figure:
    by_tasks, by_steps = cases(record["rows"])
    figure, axes = panels(2, 2, 5.6, sharex="col", sharey="row")
    for line, key, label, unit in (
        (axes[0], "p50", "time (ms)", MS),
        (axes[1], "peak_bytes", "peak memory (MiB)", MIB),
    ):
        _draw_lines(line[0], by_tasks, "tasks", key)
        _draw_lines(line[1], by_steps, "steps", key)
        line[0].set_yscale("log", base=2)
        line[0].yaxis.set_major_locator(LogLocator(base=2, numticks=12))
        line[0].yaxis.set_major_formatter(in_units(unit))
        line[0].set_ylabel(label)
    steps, tasks = (next(iter(x.values()))[0] for x in (by_tasks, by_steps))
    axes[1, 0].set_xlabel(f"tasks, of {steps['steps']} inner steps each")
    axes[1, 1].set_xlabel(f"inner steps, of {tasks['tasks']} tasks at once")
    for axis in axes[0]:
        axis.legend(loc="upper left")
    figure.suptitle(
        f"A second-order meta-gradient of the few-shot network ({meta.WAY}-way, {meta.WAY} + "
        f"{meta.WAY * meta.QUERY} images of {meta.SIZE}×{meta.SIZE})\n{measured_on(record)}"
    )
    return figure


def cases(rows: list[Row]) -> tuple[dict[str, list[Row]], dict[str, list[Row]]]:
    """The lines over tasks and those over inner steps. Where steps are varied, each number of them
    was measured with and without checkpoints."""
    varied = {row["steps"] for row in rows if row["checkpoint"]}
    by_tasks: dict[str, list[Row]] = {}
    by_steps: dict[str, list[Row]] = {}
    for row in rows:
        if row["steps"] in varied:
            name = "inner steps computed again" if row["checkpoint"] else "inner steps kept"
            by_steps.setdefault(name, []).append(row)
        else:
            name = f"{ADAPT[row['adapt']]}, tasks {'at once' if row['at_once'] else 'one by one'}"
            by_tasks.setdefault(name, []).append(row)
    return by_tasks, by_steps


def _draw_lines(axis: Axes, lines: dict[str, list[Row]], x: str, y: str) -> None:
    for number, (name, rows) in enumerate(lines.items()):
        axis.plot([row[x] for row in rows], [row[y] for row in rows], label=name, **series(number))
    log_sizes(axis, (row[x] for rows in lines.values() for row in rows))
