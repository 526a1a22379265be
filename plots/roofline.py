"""Every kernel on the measured roofline of the device."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from bench import roofline
from plots.style import measured_on

LOOKS = {
    "blur": ("o", "#0072B2"),
    "blur_adjoint": ("s", "#56B4E9"),
    "blur_pair": ("^", "#009E73"),
    "blur_pair_adjoint": ("v", "#E69F00"),
    "tap_grads": ("D", "#CC79A7"),
    "blur_backward": ("P", "#D55E00"),
}


def draw(sweep: dict[str, Any]) -> Figure:
    rows = [row for row in roofline.kernels(sweep["rows"]) if row["status"] == "ok"]
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    figure, axes = plt.subplots(
        1, len(dtypes), figsize=(3.6 + 5.2 * len(dtypes), 5.0), squeeze=False, sharey=True,
        layout="constrained",
    )  # fmt: skip
    ceilings = roofline.ceilings(sweep["rows"])
    for axis, dtype in zip(axes[0], dtypes, strict=True):
        copy, product = ceilings["copy", dtype], ceilings["matmul", dtype]
        found = [row for row in rows if row["dtype"] == dtype]
        intensities = [row["operations"] / row["bytes"] for row in found]
        ends = min(*intensities, product / copy) / 2, max(*intensities, product / copy) * 2
        x = np.geomspace(*ends, 100)
        axis.plot(x, np.minimum(copy * x, product), color="black", linewidth=1.4)
        axis.annotate(f"copy {copy / 1e9:.0f} GB/s", (x[4], copy * x[4]), (4, -12),
                      textcoords="offset points")  # fmt: skip
        axis.annotate(f"matrix product {product / 1e9:.0f} Gflop/s", (ends[1], product), (-4, 4),
                      textcoords="offset points", ha="right")  # fmt: skip
        for op, (marker, colour) in LOOKS.items():
            for last in (False, True):
                points = [
                    (row["operations"] / row["bytes"], row["flops"])
                    for row in found
                    if row["kernel"] == op and (row["layout"] == "channels_last") == last
                ]
                if points:
                    axis.plot(
                        *zip(*points, strict=True), marker=marker, color=colour, linestyle="none",
                        markerfacecolor="none" if last else colour,
                        label=f"{op}{', channels_last' if last else ''}",
                    )  # fmt: skip
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("work by definition / least traffic (flop/byte)")
        axis.set_title(dtype)
        axis.grid(True)
    axes[0, 0].set_ylabel("work by definition (flop/s)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles=handles, labels=labels, loc="outside lower center", ncols=3)
    figure.suptitle(
        f"Every kernel below the measured ceilings, K = 7 and 31\n{measured_on(sweep)}", fontsize=10
    )
    return figure
