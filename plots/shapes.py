"""Our speed by the best rival's on the feature maps of networks, map by map."""

from __future__ import annotations

import statistics
from typing import Any

from matplotlib.figure import Figure

from bench import comparison, shapes
from bench.sweep import Row
from plots.style import legend_below, log_ratios, measured_on, panels, series

Line = tuple[str, tuple[int, int] | None]
"""A network and the (channels, side) of a map of it, or None: the line that names the network."""


def draw(record: dict[str, Any]) -> Figure:
    ratios = {
        (point[0]["direction"], _variant(point[0]), _size(point[0])): ratio
        for point in shapes.points(record["rows"])
        if (ratio := comparison.ratio(point))
    }
    lines = _lines(record["rows"])
    figure, axes = panels(1, 2, 1.7 + 0.19 * len(lines), sharex=True, sharey=True)
    for axis, direction in zip(axes[0], comparison.DIRECTIONS, strict=True):
        mean = statistics.geometric_mean(x for (d, _, _), x in ratios.items() if d == direction)
        for number, name in enumerate(dict.fromkeys(name for _, name, _ in ratios)):
            found = {c: x for (d, n, c), x in ratios.items() if (d, n) == (direction, name)}
            at = [place for place, (_, c) in enumerate(lines) if c in found]
            axis.plot(
                [found[c] for _, c in lines if c in found], at, label=name,
                **{**series(number), "linestyle": "none"},
            )  # fmt: skip
        axis.set_title(f"{direction}: geometric mean {mean:.2f}")
        axis.set_xlabel("speed of akm_triton / best rival\n(right of 1: akm_triton is faster)")
    for axis in axes[0]:
        log_ratios(axis, "x")
    names = [f"{c[0]} × {c[1]}²" if c else network for network, c in lines]
    axes[0, 0].set_yticks(range(len(lines)), names)
    for tick, (_, c) in zip(axes[0, 0].get_yticklabels(), lines, strict=True):
        tick.set_fontweight("normal" if c else "bold")
    axes[0, 0].set_ylim(len(lines) - 0.5, -0.5)  # the first on top
    legend_below(figure, 2)
    kernels = ", ".join(str(k) for k in dict.fromkeys(row["kernel"] for row in record["rows"]))
    figure.suptitle(
        f"Feature maps of networks (channels × side²), K = {kernels}: akm_triton against the best "
        f"rival\n{measured_on(record)}"
    )
    return figure


def _size(row: Row) -> tuple[int, int]:
    return row["shape"][1], row["shape"][2]


def _variant(row: Row) -> str:
    return f"{row['layout']}, batch {row['shape'][0]}, {row['dtype']}"


def _lines(rows: list[Row]) -> list[Line]:
    """The lines from the top: each network, and below it its maps from the largest on."""
    lines: list[Line] = []
    for network in dict.fromkeys(name for row in rows for name in row["networks"]):
        maps = {_size(row) for row in rows if network in row["networks"]}
        lines += [(network, None)]
        lines += [(network, c) for c in sorted(maps, key=lambda c: (-c[1], c[0]))]
    return lines
