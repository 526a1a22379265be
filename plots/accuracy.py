"""Errors against float64 over kernel size, ours and each rival's, by dtype and result."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from bench import accuracy, providers
from plots.style import look, measured_on

TITLES = {"y": "y", "dz": "gradient by z", "dsigma": "gradient by σ"}


def draw(sweep: dict[str, Any]) -> Figure:
    rows = [row for row in sweep["rows"] if row["status"] == "ok"]
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    figure, axes = plt.subplots(
        len(dtypes), len(accuracy.WHAT), figsize=(10.5, 1.4 + 2.4 * len(dtypes)), sharex=True,
        sharey="row", squeeze=False, layout="constrained",
    )  # fmt: skip
    lines: dict[str, Any] = {}
    for line, dtype in zip(axes, dtypes, strict=True):
        for axis, what in zip(line, accuracy.WHAT, strict=True):
            for provider in (providers.OURS, *providers.RIVALS):
                found = [
                    row
                    for row in rows
                    if (row["dtype"], row["what"], row["provider"]) == (dtype, what, provider.name)
                    and row["max"] > 0
                ]
                if found:
                    (lines[provider.name],) = axis.plot(
                        [row["kernel"] for row in found], [row["max"] for row in found],
                        markersize=4, **look(provider.name),
                    )  # fmt: skip
            kernels = sorted({row["kernel"] for row in rows})
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_xticks(kernels, [str(kernel) for kernel in kernels])
            axis.xaxis.set_minor_locator(NullLocator())
            axis.grid(True)
            axis.set_title(f"{TITLES[what]}, {dtype}")
        line[0].set_ylabel("largest error / largest value")
    for axis in axes[-1]:
        axis.set_xlabel("kernel size K = 2R + 1 (pixels)")
    figure.legend(
        handles=list(lines.values()), labels=list(lines), loc="outside lower center", ncols=4
    )
    figure.suptitle(f"Errors against float64\n{measured_on(sweep)}", fontsize=10)
    return figure
