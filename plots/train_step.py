"""Time of a training step and what autograd keeps for it: plain, AKM, composed, compiled."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench import train_step
from bench.sweep import Row
from plots.style import measured_on

COLOURS = ("0.75", "#0072B2", "#56B4E9", "0.45", "#D55E00")
HATCHES = ("", "", "////", "", "....")


def draw(sweep: dict[str, Any]) -> Figure:
    rows = [row for row in sweep["rows"] if row["status"] == "ok"]
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.0), layout="constrained")
    _bars(axes[0], rows, "p50", "time of a step (s)")
    memory = "peak_bytes" if any(row.get("peak_bytes") for row in rows) else "saved_bytes"
    kept = "peak memory" if memory == "peak_bytes" else "kept for backward"
    _bars(axes[1], rows, memory, f"{kept} (bytes)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles=handles, labels=labels, loc="outside lower center", ncols=5)
    figure.suptitle(f"A step of training\n{measured_on(sweep)}", fontsize=10)
    return figure


def _bars(axis: Axes, rows: list[Row], key: str, label: str) -> None:
    networks = list(dict.fromkeys((row["network"], row["batch"], row["side"]) for row in rows))
    width = 0.8 / len(train_step.VARIANTS)
    for number, variant in enumerate(train_step.VARIANTS):
        found = {
            (row["network"], row["batch"], row["side"]): row[key]
            for row in rows
            if row["variant"] == variant and row.get(key)
        }
        at = [networks.index(network) + number * width for network in found]
        axis.bar(
            at, list(found.values()), width, label=variant, color=COLOURS[number],
            hatch=HATCHES[number], edgecolor="white", linewidth=0.5,
        )  # fmt: skip
    names = [f"{name}\n{batch}×3×{side}×{side}" for name, batch, side in networks]
    axis.set_xticks(np.arange(len(networks)) + 0.4 - width / 2, names)
    axis.set_xlim(-width, len(networks) - 0.2)
    axis.set_ylabel(label)
