"""Throughput over kernel size: ours and each rival, one panel per map and direction."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from bench import comparison, kernel_size, providers
from bench.sweep import Row, title
from plots.style import look, measured_on


def draw(sweep: dict[str, Any]) -> Figure:
    panels = kernel_size.panels(sweep["rows"])
    maps = list(dict.fromkeys((shape, dtype) for shape, dtype, _ in panels))
    figure, axes = plt.subplots(
        len(comparison.DIRECTIONS), len(maps), figsize=(1.6 + 3.7 * len(maps), 6.6),
        sharex=True, sharey="row", squeeze=False, layout="constrained",
    )  # fmt: skip
    for row, direction in zip(axes, comparison.DIRECTIONS, strict=True):
        for axis, (shape, dtype) in zip(row, maps, strict=True):
            _draw_panel(axis, panels[shape, dtype, direction])
            axis.set_title(f"{title(shape)} {dtype}, {direction}")
        row[0].set_ylabel("throughput (Gelement/s)")
    for axis in axes[-1]:
        axis.set_xlabel("kernel size K = 2R + 1 (pixels)")
    lines: dict[str, Any] = {}
    for axis in axes.flat:
        handles, labels = axis.get_legend_handles_labels()
        lines.update(zip(labels, handles, strict=True))
    figure.legend(
        handles=list(lines.values()), labels=list(lines), loc="outside lower center", ncols=5
    )
    figure.suptitle(
        "Gaussian blur with a σ for each channel: median of interleaved calls, bars p20 to p80\n"
        f"{measured_on(sweep)}",
        fontsize=10,
    )
    return figure


def _draw_panel(axis: Axes, columns: dict[int, list[Row]]) -> None:
    for provider in (providers.OURS, *providers.RIVALS, providers.COPY):
        found = [
            row
            for column in columns.values()
            for row in column
            if row["provider"] == provider.name and row["status"] == "ok"
        ]
        if found:
            speeds = [row["gelements"] for row in found]
            low = [x * (1 - row["p50"] / row["p80"]) for x, row in zip(speeds, found, strict=True)]
            high = [x * (row["p50"] / row["p20"] - 1) for x, row in zip(speeds, found, strict=True)]
            axis.errorbar(
                [row["kernel"] for row in found], speeds, (low, high),
                label=provider.name, elinewidth=0.7, markersize=5, **look(provider.name),
            )  # fmt: skip
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(list(columns), [str(kernel) for kernel in columns])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.grid(True)
