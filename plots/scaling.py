"""Cost against batch, channels and side of the map."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from bench import comparison, providers, scaling
from plots.style import MS, in_units, legend_below, log_sizes, look, measured_on, panels


def draw(record: dict[str, Any]) -> Figure:
    series = scaling.series(record["rows"])
    figure, axes = panels(
        len(comparison.DIRECTIONS), len(scaling.AXES), 5.6, sharey="row", sharex="col"
    )
    for line, direction in zip(axes, comparison.DIRECTIONS, strict=True):
        for axis, varied in zip(line, scaling.AXES, strict=True):
            lines = {
                provider: rows
                for (a, d, provider), rows in series.items()
                if (a, d) == (varied, direction) and provider != providers.COPY.name
            }
            for provider, rows in lines.items():
                found = [row for row in rows if row["status"] == "ok"]
                axis.plot(
                    [row["size"] for row in found], [row["p50"] for row in found],
                    label=provider, **look(provider),
                )  # fmt: skip
            steep = scaling.slope(lines.get(providers.OURS.name, []))
            slope = "" if steep is None else f", slope {steep:.2f}"
            axis.set_title(f"{direction}{slope}")
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(in_units(MS))
            log_sizes(axis, (row["size"] for rows in lines.values() for row in rows))
        line[0].set_ylabel("time of a call (ms)")
    for axis, varied in zip(axes[-1], scaling.AXES, strict=True):
        axis.set_xlabel(f"{varied} (pixels)" if varied == "side" else varied)
    legend_below(figure, 4)
    figure.suptitle(
        f"Time against batch, channels and side of the map, K = {2 * scaling.RADIUS + 1}; slope: "
        f"of akm_triton, log time by log elements\n{measured_on(record)}"
    )
    return figure
