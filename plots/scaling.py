"""Cost against batch, channels and side of the map."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from bench import comparison, scaling
from bench.sweep import Row
from plots.style import look, measured_on


def draw(sweep: dict[str, Any]) -> Figure:
    series = scaling.series(sweep["rows"])
    figure, axes = plt.subplots(
        len(comparison.DIRECTIONS), len(scaling.AXES), figsize=(10.5, 6.4), sharey="row",
        sharex="col", layout="constrained",
    )  # fmt: skip
    for row, direction in zip(axes, comparison.DIRECTIONS, strict=True):
        for axis, varied in zip(row, scaling.AXES, strict=True):
            _draw_panel(
                axis,
                {
                    provider: rows
                    for (a, d, provider), rows in series.items()
                    if (a, d) == (varied, direction)
                },
            )
            axis.set_title(direction)
        row[0].set_ylabel("time of a call (s)")
    for axis, varied in zip(axes[-1], scaling.AXES, strict=True):
        axis.set_xlabel(f"{varied} (pixels)" if varied == "side" else varied)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles=handles, labels=labels, loc="outside lower center", ncols=4)
    figure.suptitle(
        f"Cost against batch, channels and side of the map, K = {2 * scaling.RADIUS + 1}; "
        f"in brackets the slope of ours by elements\n{measured_on(sweep)}",
        fontsize=10,
    )
    return figure


def _draw_panel(axis: Axes, lines: dict[str, list[Row]]) -> None:
    for provider, rows in lines.items():
        found = [row for row in rows if row["status"] == "ok"]
        if found:
            axis.plot(
                [row["size"] for row in found], [row["p50"] for row in found], label=provider,
                markersize=4, **look(provider),
            )  # fmt: skip
    axis.set_xscale("log")
    axis.set_yscale("log")
    sizes = sorted({row["size"] for rows in lines.values() for row in rows})
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.grid(True)
    steep = scaling.slope(lines["akm_triton"])
    if steep is not None:
        axis.annotate(f"({steep:.2f})", (0.04, 0.9), xycoords="axes fraction")
