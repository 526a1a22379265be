"""What the analytic model predicts over kernel size, and what was measured where it was."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from bench import model
from bench.sweep import title
from plots.style import legend_below, log_sizes, measured_on, panels, series

OPS = {"blur": "forward", "blur_backward": "backward"}


def draw(record: dict[str, Any]) -> Figure:
    rows = record["rows"]
    shapes = list(dict.fromkeys(tuple(row["shape"]) for row in rows))
    kinds = list(dict.fromkeys((row["dtype"], row["layout"]) for row in rows))
    figure, axes = panels(len(model.OPS), len(shapes), 5.4, sharex=True, sharey=True)
    for line, op in zip(axes, model.OPS, strict=True):
        for axis, shape in zip(line, shapes, strict=True):
            for number, kind in enumerate(kinds):
                name = ", ".join(kind)
                found = [
                    row
                    for row in rows
                    if (row["op"], tuple(row["shape"])) == (op, shape)
                    and (row["dtype"], row["layout"]) == kind
                ]
                dashed = {**series(number), "linestyle": "--", "markerfacecolor": "none"}
                axis.plot(
                    [row["kernel"] for row in found], [row["of_roof"] for row in found],
                    label=f"{name}: predicted", **dashed,
                )  # fmt: skip
                done = [row for row in found if row["status"] == "ok"]
                if done:
                    axis.plot(
                        [row["kernel"] for row in done],
                        [row["gelements"] / row["roof_gelements"] for row in done],
                        label=f"{name}: measured", **{**series(number), "linestyle": "-"},
                    )  # fmt: skip
            axis.set_title(f"{OPS[op]}, {title(shape)}")
            log_sizes(axis, (row["kernel"] for row in rows))
        line[0].set_ylabel("fraction of the DRAM limit")
    for axis in axes[-1]:
        axis.set_xlabel("kernel size K = 2R + 1 (pixels)")
    measured = any(row["status"] == "ok" for row in rows)
    axes[0, 0].set_ylim(0, max(1.05, axes[0, 0].get_ylim()[1]))
    legend_below(figure, 2)
    figure.suptitle(
        f"Predicted by an analytic model of the kernels on an {rows[0]['device']}\n"
        + (f"Solid lines: {measured_on(record)}" if measured else "Nothing here was measured"),
        weight="bold",
    )
    return figure
