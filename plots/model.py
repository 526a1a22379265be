"""What is predicted from the kernels' machine code over the side of the map, and what was measured
where it was."""

from __future__ import annotations

import textwrap
from typing import Any

from matplotlib.figure import Figure

from plots.style import legend_below, log_sizes, measured_on, panels, series

OPS = {"blur": "forward", "blur_backward": "backward"}


def draw(record: dict[str, Any]) -> Figure:
    rows = [row for row in record["rows"] if "of_copy" in row]
    kinds = list(dict.fromkeys((row["dtype"], row["layout"]) for row in rows))
    ops = [op for op in OPS if any(row["op"] == op for row in rows)]
    figure, axes = panels(len(ops), len(kinds), 5.4, sharex=True, sharey=True)
    for line, op in zip(axes, ops, strict=True):
        for axis, kind in zip(line, kinds, strict=True):
            of_panel = [
                row for row in rows if (row["op"], row["dtype"], row["layout"]) == (op, *kind)
            ]
            for number, radius in enumerate(sorted({row["radius"] for row in rows})):
                found = [row for row in of_panel if row["radius"] == radius]
                _draw_radius(axis, found, series(number), f"R = {radius}")
            axis.set_title(f"{OPS[op]}, {kind[0]}\n{kind[1]}")
            log_sizes(axis, (row["shape"][2] for row in rows))
        line[0].set_ylabel("fraction of a copy's speed")
    for axis in axes[-1]:
        axis.set_xlabel("side of the map (pixels)")
    axes[0, 0].set_ylim(0, 1.05)
    legend_below(figure, 3)
    measured = any("measured_of_copy" in row for row in rows)
    where = f"Solid lines: {measured_on(record)}" if measured else "Nothing here was measured"
    figure.suptitle(
        f"Predicted from machine code by a model of an {rows[0]['machine']}\n"
        + "\n".join(textwrap.wrap(f"{where}. {record['calibration']['stated']}", 105)),
        fontsize=9,
    )
    return figure


def _draw_radius(axis: Any, rows: list[dict[str, Any]], look: dict[str, Any], name: str) -> None:
    """The prediction and how far the model's guesses move it, and what was measured."""
    sizes = [row["shape"][2] for row in rows]
    low, high = ([row[key] for row in rows] for key in ("low", "high"))
    axis.fill_between(sizes, low, high, color=look["color"], alpha=0.12, linewidth=0)
    dashed = {**look, "linestyle": "--", "markerfacecolor": "none"}
    axis.plot(sizes, [row["of_copy"] for row in rows], label=f"{name}: predicted", **dashed)
    done = [row for row in rows if "measured_of_copy" in row]
    if done:
        axis.plot(
            [row["shape"][2] for row in done], [row["measured_of_copy"] for row in done],
            label=f"{name}: measured", **{**look, "linestyle": "-"},
        )  # fmt: skip
