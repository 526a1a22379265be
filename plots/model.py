"""The analytic model's throughput over kernel size, dashed, and what was measured, solid."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from bench import model
from bench.sweep import title
from plots.style import measured_on

LOOKS = {
    ("float16", "nchw"): ("black", "o"), ("float16", "channels_last"): ("#0072B2", "s"),
    ("float32", "nchw"): ("#D55E00", "^"), ("float32", "channels_last"): ("#009E73", "D"),
}  # fmt: skip
OPS = {"blur": "forward", "blur_backward": "backward"}


def draw(sweep: dict[str, Any]) -> Figure:
    rows = sweep["rows"]
    shapes = list(dict.fromkeys(tuple(row["shape"]) for row in rows))
    figure, axes = plt.subplots(
        len(model.OPS), len(shapes), figsize=(1.6 + 4.2 * len(shapes), 6.6), squeeze=False,
        sharex=True, sharey="row", layout="constrained",
    )  # fmt: skip
    for line, op in zip(axes, model.OPS, strict=True):
        for axis, shape in zip(line, shapes, strict=True):
            for (dtype, layout), (colour, marker) in LOOKS.items():
                found = [
                    row
                    for row in rows
                    if (row["op"], tuple(row["shape"]), row["dtype"], row["layout"])
                    == (op, shape, dtype, layout)
                ]
                kernels, name = [row["kernel"] for row in found], f"{dtype}, {layout}"
                axis.plot(
                    kernels, [row["predicted_gelements"] for row in found], color=colour,
                    marker=marker, markerfacecolor="none", linestyle="--", linewidth=1.0,
                    label=f"{name}: model",
                )  # fmt: skip
                done = [row for row in found if row["status"] == "ok"]
                if done:
                    axis.plot(
                        [row["kernel"] for row in done], [row["gelements"] for row in done],
                        color=colour, marker=marker, linestyle="-", label=f"{name}: measured",
                    )  # fmt: skip
                if layout == "nchw":
                    axis.plot(
                        kernels, [row["roof_gelements"] for row in found], color=colour,
                        linestyle=":", linewidth=1.2, label=f"{dtype}: DRAM's data sheet",
                    )  # fmt: skip
            axis.set_title(f"{OPS[op]}, {title(shape)}")
            axis.set_xscale("log")
            axis.set_yscale("log")
            ticks = sorted({row["kernel"] for row in rows})
            axis.set_xticks(ticks, [str(tick) for tick in ticks])
            axis.xaxis.set_minor_locator(NullLocator())
            axis.grid(True)
        line[0].set_ylabel("throughput (Gelement/s)")
    for axis in axes[-1]:
        axis.set_xlabel("kernel size K = 2R + 1 (pixels)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles=handles, labels=labels, loc="outside lower center", ncols=3)
    measured = any(row["status"] == "ok" for row in rows)
    what = measured_on(sweep) if measured else "nothing here is measured"
    figure.suptitle(
        f"A model of the kernels on an {rows[0]['device']}: dashed lines are predicted; {what}",
        fontsize=10,
    )
    return figure
