"""Small maps in a CUDA graph: each call's time by that of an identity kernel on the same grid."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from bench.sweep import Row, title
from plots.style import look, measured_on

IDENTITY = {"color": "0.4", "marker": "|"}


def draw(sweep: dict[str, Any]) -> Figure:
    rows: list[Row] = [row for row in sweep["rows"] if row["status"] == "ok"]
    ops = list(dict.fromkeys(row["op"] for row in rows))
    figure, axes = plt.subplots(
        1, len(ops), figsize=(10.5, 6.0), squeeze=False, sharey=True, layout="constrained"
    )
    points = list(dict.fromkeys((tuple(row["shape"]), row["dtype"], row["layout"]) for row in rows))
    for axis, op in zip(axes[0], ops, strict=True):
        for name in dict.fromkeys(row["provider"] for row in rows):
            found = [row for row in rows if row["op"] == op and row["provider"] == name]
            if found:
                at = [
                    points.index((tuple(row["shape"]), row["dtype"], row["layout"]))
                    for row in found
                ]
                style = {**(IDENTITY if name == "identity" else look(name)), "linestyle": "none"}
                axis.plot([row["p50"] for row in found], at, label=name, **style)
        axis.set_xscale("log")
        axis.set_xlabel("time of a call in a CUDA graph (s)")
        axis.set_title(op)
        axis.grid(True)
    names = [f"{title(shape)} {dtype} {layout}" for shape, dtype, layout in points]
    axes[0, 0].set_yticks(range(len(points)), names)
    axes[0, 0].invert_yaxis()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles=handles, labels=labels, loc="outside lower center", ncols=4)
    figure.suptitle(f"Small maps\n{measured_on(sweep)}", fontsize=10)
    return figure
