"""Time on the feature maps of networks: ours, the best rival and the copy, map by map."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench import comparison, providers, shapes
from bench.sweep import Row
from plots.style import look, measured_on


def draw(sweep: dict[str, Any]) -> Figure:
    points = shapes.points(sweep["rows"])
    panels: dict[tuple[str, str], list[list[Row]]] = {}
    for point in points:
        panels.setdefault((point[0]["direction"], point[0]["layout"]), []).append(point)
    columns = list(dict.fromkeys(layout for _, layout in panels))
    tall = max(len(panel) for panel in panels.values())
    figure, axes = plt.subplots(
        len(comparison.DIRECTIONS), len(columns), squeeze=False, sharex="row", sharey=True,
        figsize=(10.5, 2.2 + 0.42 * tall), layout="constrained",
    )  # fmt: skip
    for row, direction in zip(axes, comparison.DIRECTIONS, strict=True):
        for axis, layout in zip(row, columns, strict=True):
            _draw_panel(axis, panels[direction, layout])
            axis.set_title(f"{direction}, {layout}")
    for axis in axes[-1]:
        axis.set_xlabel("throughput (Gelement/s)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles=handles, labels=labels, loc="outside lower center", ncols=3)
    figure.suptitle(
        f"Feature maps of ResNet-50, ConvNeXt-T and EfficientNet-B0, K = {2 * shapes.RADIUS + 1}\n"
        f"{measured_on(sweep)}",
        fontsize=10,
    )
    return figure


def _draw_panel(axis: Axes, points: list[list[Row]]) -> None:
    names = {providers.OURS.name: [], "best rival": [], providers.COPY.name: []}  # type: dict[str, list[Any]]
    for point in points:
        copies = [row for row in point if row["provider"] == providers.COPY.name]
        for name, row in zip(
            names, (comparison.ours(point), comparison.best_rival(point), copies[0]), strict=True
        ):
            names[name].append(row["gelements"] if row else None)
    rows = range(len(points))
    looks = {
        providers.OURS.name: look(providers.OURS.name),
        "best rival": {"color": "#0072B2", "marker": "D", "markerfacecolor": "none"},
        providers.COPY.name: {"color": "0.4", "marker": "|"},
    }
    for name, speeds in names.items():
        style = {**looks[name], "linestyle": "none"}
        axis.plot(speeds, rows, label=name, **style)
    titles = [
        f"{point[0]['shape'][1]} × {point[0]['shape'][2]}², batch {point[0]['shape'][0]}"
        for point in points
    ]
    axis.set_yticks(list(rows), titles)
    axis.set_ylim(len(points) - 0.5, -0.5)  # the first on top
    axis.set_xscale("log")
    axis.grid(True)
