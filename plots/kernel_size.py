"""Throughput over kernel size: ours and each rival, one panel per map and direction."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from bench import peers, sweeps

# Told apart by marker and line, so that black and white suffices; colours of Okabe and Ito.
LOOKS = {
    peer.name: {"color": colour, "marker": marker, "linestyle": line, "linewidth": 1.1}
    for peer, colour, marker, line in zip(
        peers.RIVALS,
        ("#0072B2", "#56B4E9", "#009E73", "#D55E00", "#CC79A7")
        + ("#E69F00", "0.45", "0.45", "0.45", "0.6"),
        "s^vDP" + "Xp*hx",
        ("-", "--", "-.", "--", ":") + ("-.", "-", "--", ":", "--"),
        strict=True,
    )
}
LOOKS[peers.OURS.name] = {
    "color": "black", "marker": "o", "linestyle": "-", "linewidth": 2.2, "zorder": 3,
}  # fmt: skip


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
    lines = {}
    for axis in axes.flat:
        handles, labels = axis.get_legend_handles_labels()
        lines.update(zip(labels, handles, strict=True))
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=4)
    threads = sweep["threads"]
    where = sweep["device"]
    if "driver" not in sweep:
        where += f", {threads} thread{'s' if threads > 1 else ''}"
    figure.suptitle(
        f"Depthwise Gaussian blur, median of interleaved calls, bars from p20 to p80\n"
        f"{where}, torch {sweep['torch']}, {sweep['date'][:10]}",
        fontsize=10,
    )
    return figure


def _draw_panel(axis: Axes, cells: sweeps.Cells) -> None:
    for name in (peers.OURS.name, *(peer.name for peer in peers.RIVALS)):
        found = [row for (peer, _), row in sorted(cells.items()) if peer == name]
        found = [row for row in found if row["status"] == "ok"]
        if found:
            speeds = [row["gelements"] for row in found]
            low = [x * (1 - row["p50"] / row["p80"]) for x, row in zip(speeds, found, strict=True)]
            high = [x * (row["p50"] / row["p20"] - 1) for x, row in zip(speeds, found, strict=True)]
            axis.errorbar(
                [row["kernel"] for row in found], speeds, (low, high),
                label=name, elinewidth=0.7, markersize=5, **LOOKS[name],
            )  # fmt: skip
    axis.set_xscale("log")
    axis.set_yscale("log")
    kernels = sorted({kernel for _, kernel in cells})
    axis.set_xticks(kernels, [str(k) for k in kernels])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.grid(True)
