"""Throughput of every provider over kernel size, a panel for each map and direction."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from bench import comparison, kernel_size
from bench.sweep import title
from plots.style import legend_below, log_sizes, look, measured_on, panels


def draw(record: dict[str, Any]) -> Figure:
    grouped = kernel_size.panels(record["rows"])
    maps = list(dict.fromkeys((shape, dtype) for shape, dtype, _ in grouped))
    figure, axes = panels(len(maps), len(comparison.DIRECTIONS), 1.4 + 2.5 * len(maps), sharex=True)
    for line, (shape, dtype) in zip(axes, maps, strict=True):
        for axis, direction in zip(line, comparison.DIRECTIONS, strict=True):
            columns = grouped.get((shape, dtype, direction), {})
            rows = [row for column in columns.values() for row in column if row["status"] == "ok"]
            for name in dict.fromkeys(row["provider"] for row in rows):
                found = [row for row in rows if row["provider"] == name]
                axis.errorbar(
                    [row["kernel"] for row in found], [row["gelements"] for row in found],
                    [[row["gelements"] * (1 - row["p50"] / row["p80"]) for row in found],
                     [row["gelements"] * (row["p50"] / row["p20"] - 1) for row in found]],
                    label=name, elinewidth=0.7, **look(name),
                )  # fmt: skip
            axis.set_yscale("log")
            axis.set_title(f"{title(shape)} {dtype}, {direction}")
            log_sizes(axis, (row["kernel"] for row in record["rows"]))
        line[0].set_ylabel("throughput (Gelement/s)")
    for axis in axes[-1]:
        axis.set_xlabel("kernel size K = 2R + 1 (pixels)")
    legend_below(figure, 4)
    figure.suptitle(
        "Gaussian blur: median throughput of every provider, bars from p20 to p80\n"
        f"{measured_on(record)}"
    )
    return figure
