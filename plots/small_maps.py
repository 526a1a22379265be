"""Small maps in a CUDA graph: each call's time beside that of an identity kernel."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from bench.sweep import title
from plots.style import in_units, legend_below, look, measured_on, panels

IDENTITY = {"color": "0.4", "marker": "|", "markersize": 9}


def draw(record: dict[str, Any]) -> Figure:
    rows = [row for row in record["rows"] if row["status"] == "ok"]
    ops = list(dict.fromkeys(row["op"] for row in rows))
    lines = list(dict.fromkeys((tuple(row["shape"]), row["dtype"], row["layout"]) for row in rows))
    figure, axes = panels(1, len(ops), 1.6 + 0.24 * len(lines), sharey=True)
    for axis, op in zip(axes[0], ops, strict=True):
        for name in dict.fromkeys(row["provider"] for row in rows):
            found = [row for row in rows if (row["op"], row["provider"]) == (op, name)]
            at = [lines.index((tuple(row["shape"]), row["dtype"], row["layout"])) for row in found]
            style = {**(IDENTITY if name == "identity" else look(name)), "linestyle": "none"}
            axis.plot([row["p50"] for row in found], at, label=name, **style)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(in_units(1e6))
        axis.set_xlabel("time of a call in a CUDA graph (µs)")
        axis.set_title(op)
    names = [f"{title(shape)} {dtype} {layout}" for shape, dtype, layout in lines]
    axes[0, 0].set_yticks(range(len(lines)), names)
    axes[0, 0].set_ylim(len(lines) - 0.5, -0.5)  # the first on top
    legend_below(figure, 4)
    figure.suptitle(f"Small maps beside an identity kernel on the same grid\n{measured_on(record)}")
    return figure
