"""Throughput over kernel size: ours and each rival, one panel per map and direction."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from bench import peers, sweeps

# (colour, marker, line) of each rival, in the order of the registry: told apart in black and white
# too. The colours are those of Okabe and Ito.
LOOKS = (
    ("#0072B2", "s", "-"),
    ("#56B4E9", "^", "--"),
    ("#009E73", "v", "-."),
    ("#D55E00", "D", "--"),
    ("#CC79A7", "P", ":"),
    ("#E69F00", "X", "-."),
    ("#999999", "p", "-"),
    ("#999999", "*", "--"),
    ("#999999", "h", ":"),
    ("#666666", "x", "--"),
)


def _style(number: int) -> dict[str, Any]:
    """Ours is number 0."""
    if number == 0:
        return {"color": "black", "marker": "o", "linestyle": "-", "linewidth": 2.2, "zorder": 3}
    colour, marker, line = LOOKS[number - 1]
    return {"color": colour, "marker": marker, "linestyle": line, "linewidth": 1.1}


def draw(sweep: dict[str, Any]) -> Figure:
    panels = sweeps.panels(sweep["rows"])
    maps = list(dict.fromkeys((shape, dtype) for shape, dtype, _ in panels))
    figure, axes = plt.subplots(
        len(sweeps.DIRECTIONS), len(maps), figsize=(1.6 + 3.7 * len(maps), 6.6),
        sharex=True, sharey="row", squeeze=False, layout="constrained",
    )  # fmt: skip
    for row, direction in zip(axes, sweeps.DIRECTIONS, strict=True):
        for axis, (shape, dtype) in zip(row, maps, strict=True):
            _draw_panel(axis, panels[shape, dtype, direction])
            axis.set_title(f"{sweeps.title(shape)} {dtype}, {direction}")
        row[0].set_ylabel("throughput (Gelement/s)")
    for axis in axes[-1]:
        axis.set_xlabel("kernel size K = 2R + 1 (pixels)")
    lines: dict[str, Any] = {}
    for axis in axes.flat:
        handles, labels = axis.get_legend_handles_labels()
        lines.update(zip(labels, handles, strict=True))
    figure.legend(
        handles=list(lines.values()), labels=list(lines), loc="outside lower center", ncols=4
    )
    figure.suptitle(
        "Gaussian blur with a σ for each channel: median of interleaved calls, bars p20 to p80\n"
        f"{_where(sweep)}, torch {sweep['torch']}, {sweep['date'][:10]}",
        fontsize=10,
    )
    return figure


def _where(sweep: dict[str, Any]) -> str:
    if "driver" in sweep:
        return f"{sweep['device']}, driver {sweep['driver']}, triton {sweep['triton']}"
    return f"{sweep['device']}, {sweep['threads']} thread{'s' if sweep['threads'] > 1 else ''}"


def _draw_panel(axis: Axes, cells: sweeps.Cells) -> None:
    for number, peer in enumerate((peers.OURS, *peers.RIVALS)):
        rows = [cells[key] for key in sorted(cells) if key[0] == peer.name]
        found = [row for row in rows if row["status"] == "ok"]
        if found:
            speeds = [row["gelements"] for row in found]
            low = [x * (1 - row["p50"] / row["p80"]) for x, row in zip(speeds, found, strict=True)]
            high = [x * (row["p50"] / row["p20"] - 1) for x, row in zip(speeds, found, strict=True)]
            axis.errorbar(
                [row["kernel"] for row in found], speeds, (low, high),
                label=peer.name, elinewidth=0.7, markersize=5, **_style(number),
            )  # fmt: skip
    axis.set_xscale("log")
    axis.set_yscale("log")
    kernels = sorted({kernel for _, kernel in cells})
    axis.set_xticks(kernels, [str(k) for k in kernels])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.grid(True)
