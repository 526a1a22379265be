"""Every op below the two measured ceilings of the device."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from bench import roofline
from bench.sweep import Row, title
from plots.style import in_units, legend_below, measured_on, panels, series


def draw(record: dict[str, Any]) -> Figure:
    rows = [row for row in roofline.kernels(record["rows"]) if row["status"] == "ok"]
    ceilings = roofline.ceilings(record["rows"])
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    maps = list(dict.fromkeys((title(row["shape"]), row["layout"]) for row in rows))
    figure, axes = panels(len(dtypes), 1, 1.2 + 3.4 * len(dtypes), sharex=True)
    for axis, dtype in zip(axes[:, 0], dtypes, strict=True):
        here = [row for row in rows if row["dtype"] == dtype]
        _draw_ceilings(axis, ceilings["copy", dtype], ceilings["matmul", dtype], here)
        for number, (shape, layout) in enumerate(maps):
            found = [row for row in here if (title(row["shape"]), row["layout"]) == (shape, layout)]
            axis.plot(
                [_intensity(row) for row in found], [row["flops"] for row in found],
                label=f"{shape}, {layout}", **{**series(number), "linestyle": "none"},
            )  # fmt: skip
        for radius in dict.fromkeys(row["radius"] for row in here):
            _name_cluster(axis, radius, [row for row in here if row["radius"] == radius])
        for scale, ticks, unit in (
            (axis.set_xscale, axis.xaxis, 1), (axis.set_yscale, axis.yaxis, 1e-9)
        ):  # fmt: skip
            scale("log")
            ticks.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ticks.set_major_formatter(in_units(unit))
            ticks.set_minor_formatter(NullFormatter())
        lowest = min(row["flops"] for row in here)
        axis.set_ylim(lowest / 5, 1.6 * ceilings["matmul", dtype])  # names stand below the points
        axis.set_ylabel("work by definition (Gflop/s)")
        axis.set_title(dtype)
    axes[-1, 0].set_xlabel("work by definition / least traffic (flop/byte)")
    legend_below(figure, 2)
    figure.suptitle(f"Every op below the measured ceilings\n{measured_on(record)}")
    return figure


def _intensity(row: Row) -> float:
    return float(row["operations"] / row["bytes"])


def _draw_ceilings(axis: Axes, copy: float, product: float, rows: list[Row]) -> None:
    intensities = [*map(_intensity, rows), product / copy]
    x = np.geomspace(min(intensities) / 2, max(intensities) * 2, 100)
    axis.plot(x, np.minimum(copy * x, product), color="black", linewidth=1.4)
    axis.annotate(f"copy {copy / 1e9:.0f} GB/s", (x[0], copy * x[0]), (14, -4),
                  textcoords="offset points")  # fmt: skip
    axis.annotate(f"matrix product {product / 1e9:.0f} Gflop/s", (x[-1], product), (-4, 4),
                  textcoords="offset points", ha="right")  # fmt: skip


def _name_cluster(axis: Axes, radius: int, rows: list[Row]) -> None:
    """The names of the ops below their points, and K beside them."""
    ops: dict[float, dict[str, None]] = {}
    for row in rows:
        ops.setdefault(_intensity(row), {})[row["kernel"]] = None
    lowest = min(row["flops"] for row in rows)
    for x, names in ops.items():
        axis.annotate(
            ",\n".join(names), (x, lowest), (0, -6), textcoords="offset points", rotation=90,
            ha="center", va="top", fontsize=8,
        )  # fmt: skip
    axis.annotate(
        f"K = {2 * radius + 1}", (max(ops), max(row["flops"] for row in rows)), (12, 0),
        textcoords="offset points", va="center", weight="bold",
    )  # fmt: skip
