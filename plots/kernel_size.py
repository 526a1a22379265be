"""Our speed by the best rival's over kernel size, a line for each map."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from bench import comparison, kernel_size
from bench.sweep import Row
from plots.style import legend_below, log_ratios, log_sizes, measured_on, panels, series


def draw(record: dict[str, Any]) -> Figure:
    grouped = kernel_size.panels(record["rows"])
    maps = list(dict.fromkeys((shape, dtype) for shape, dtype, _ in grouped))
    figure, axes = panels(1, len(comparison.DIRECTIONS), 3.9, sharey=True)
    for axis, direction in zip(axes[0], comparison.DIRECTIONS, strict=True):
        every: list[float] = []
        for number, (shape, dtype) in enumerate(maps):
            found = ratios(grouped.get((shape, dtype, direction), {}))
            every += [middle for _, middle, _ in found.values()]
            axis.errorbar(
                list(found), [middle for _, middle, _ in found.values()],
                [[middle - low for low, middle, _ in found.values()],
                 [high - middle for _, middle, high in found.values()]],
                label=f"{shape[2]}×{shape[3]}, {shape[1]} channels, batch {shape[0]}, {dtype}",
                elinewidth=0.7, **series(number),
            )  # fmt: skip
        faster = sum(ratio > 1 for ratio in every)
        axis.set_title(f"{direction}: akm_triton is faster at {faster} of {len(every)} points")
        axis.set_xlabel("kernel size K = 2R + 1 (pixels)")
        log_sizes(axis, (row["kernel"] for row in record["rows"]))
    for axis in axes[0]:
        log_ratios(axis, "y")
    axes[0, 0].set_ylabel("speed of akm_triton / best rival\n(above 1: akm_triton is faster)")
    legend_below(figure, 2)
    figure.suptitle(
        "Gaussian blur: akm_triton against the best rival that does the same work, point by point\n"
        f"{measured_on(record)}"
    )
    return figure


def ratios(columns: dict[int, list[Row]]) -> dict[int, tuple[float, float, float]]:
    """By kernel size: the ratio of the medians, between the ratios of p20 to p80 and p80 to p20."""
    found = {}
    for kernel, rows in columns.items():
        mine, rival = comparison.ours(rows), comparison.best_rival(rows)
        if mine and rival:
            pairs = (("p20", "p80"), ("p50", "p50"), ("p80", "p20"))
            low, middle, high = (rival[theirs] / mine[ours] for theirs, ours in pairs)
            found[kernel] = (low, middle, high)
    return found
