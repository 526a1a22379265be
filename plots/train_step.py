"""Time of a training step and what autograd keeps for it: plain, AKM, composed, compiled."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.sweep import Row
from plots.style import MIB, MS, legend_below, measured_on, panels

# by the name of the variant
LOOKS: dict[str, dict[str, Any]] = {
    "plain": {"color": "0.75"},
    "AKM": {"color": "#0072B2"},
    "AKM composed": {"color": "#56B4E9", "hatch": "////"},
    "plain, compiled": {"color": "0.45"},
    "AKM, compiled": {"color": "#D55E00", "hatch": "...."},
}


def draw(record: dict[str, Any]) -> Figure:
    rows = [row for row in record["rows"] if row["status"] == "ok"]
    figure, axes = panels(1, 2, 3.9, gridspec_kw={"width_ratios": (5, 3.4)})
    memory = "peak_bytes" if any(row.get("peak_bytes") for row in rows) else "saved_bytes"
    _draw_bars(axes[0, 0], rows, "p50", MS)
    _draw_bars(axes[0, 1], rows, memory, MIB)
    axes[0, 0].set_title("time of a training step (ms)")
    kept = "kept from forward to backward (MiB);\nnot visible under torch.compile"
    axes[0, 1].set_title("peak memory (MiB)" if memory == "peak_bytes" else kept)
    legend_below(figure, 5)
    dtypes = ", ".join(dict.fromkeys(row["dtype"] for row in rows))
    figure.suptitle(
        f"ResNet with plain 3×3 convolutions and with AKM in their place, {dtypes}\n"
        f"{measured_on(record)}"
    )
    return figure


def _draw_bars(axis: Axes, rows: list[Row], key: str, unit: float) -> None:
    """A group of bars for each network, of the variants that have the key, with its value in the
    unit."""
    networks = list(dict.fromkeys((row["network"], row["batch"], row["side"]) for row in rows))
    found = [row for row in rows if row.get(key)]
    variants = list(dict.fromkeys(row["variant"] for row in found))
    width = 0.85 / max(1, len(variants))
    for number, variant in enumerate(variants):
        mine = [row for row in found if row["variant"] == variant]
        places = [networks.index((row["network"], row["batch"], row["side"])) for row in mine]
        bars = axis.bar(
            [place + (number - (len(variants) - 1) / 2) * width for place in places],
            [row[key] for row in mine], width, label=variant, edgecolor="white", linewidth=0.5,
            **LOOKS.get(variant, {"color": "0.25"}),
        )  # fmt: skip
        axis.bar_label(bars, [f"{unit * row[key]:.0f}" for row in mine], fontsize=8)
    names = [f"{name}\n{batch} images of {side}×{side}" for name, batch, side in networks]
    axis.set_xticks(range(len(networks)), names)
    axis.set_xlim(-0.5, len(networks) - 0.5)
    axis.set_yticks([])  # the numbers stand at the bars
    axis.spines["left"].set_visible(False)
    axis.margins(y=0.08)
    axis.grid(False)
