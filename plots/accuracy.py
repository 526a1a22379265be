"""Errors against float64 over kernel size, ours and each rival's, by dtype and result."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from bench import accuracy
from plots.style import legend_below, log_sizes, look, measured_on, panels

TITLES = {"y": "output", "dz": "gradient w.r.t. map", "dsigma": "gradient w.r.t. σ"}


def draw(record: dict[str, Any]) -> Figure:
    rows = [row for row in record["rows"] if row["status"] == "ok" and row["max"] > 0]
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    figure, axes = panels(
        len(dtypes), len(accuracy.WHAT), 1.5 + 2.2 * len(dtypes), sharex=True, sharey="row"
    )
    for line, dtype in zip(axes, dtypes, strict=True):
        for axis, what in zip(line, accuracy.WHAT, strict=True):
            here = [row for row in rows if (row["dtype"], row["what"]) == (dtype, what)]
            for name in dict.fromkeys(row["provider"] for row in here):
                found = [row for row in here if row["provider"] == name]
                axis.plot(
                    [row["kernel"] for row in found], [row["max"] for row in found],
                    label=name, **look(name),
                )  # fmt: skip
            axis.set_yscale("log")
            axis.set_title(f"{TITLES[what]}, {dtype}")
            log_sizes(axis, (row["kernel"] for row in rows))
        line[0].set_ylabel("largest error / largest value")
    for axis in axes[-1]:
        axis.set_xlabel("kernel size K (pixels)")
    legend_below(figure, 4)
    figure.suptitle(f"Errors against float64 (lower is better)\n{measured_on(record)}")
    return figure
