"""What σ does to a photograph, and which σ and gate a network learns."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.datasets import load_sample_images
from torch import Tensor

import akm_triton as akm

SIGMAS = (0, 1, 2, 4, 8)
# top left corner, in pixels of the halved photograph: the pavilion's roof; the flower's heart
CROPS = ((44, 66), (46, 92))
SIZE = (108, 144)
COLOURS = ("#0072B2", "#E69F00")
HATCHES = ("", "////")


def photographs() -> Tensor:
    """Two crops (2, 3, 108, 144) of scikit-learn's photographs, halved, from 0 to 1."""
    crops = []
    for image, (top, left) in zip(load_sample_images().images, CROPS, strict=True):
        z = torch.as_tensor(np.array(image)).permute(2, 0, 1) / 255
        halved = torch.nn.functional.avg_pool2d(z, 2)
        crops.append(halved[:, top : top + SIZE[0], left : left + SIZE[1]])
    return torch.stack(crops)


def draw(digits: dict[str, Any]) -> Figure:
    figure = plt.figure(figsize=(9, 5.7), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(3.1, 2.4))
    above, below = parts
    _draw_photographs(above)
    _draw_histograms(below.subplots(1, 2), digits)
    below.suptitle(
        f"What the digits network learned ({digits['accuracy']:.1%} of the held-out third right)",
        fontsize=10,
    )
    return figure


def _draw_photographs(figure: Any) -> None:
    z = photographs()
    axes = figure.subplots(2, len(SIGMAS))
    for column, sigma in enumerate(SIGMAS):
        y = akm.gaussian_blur(z, torch.tensor(float(sigma)), max_radius=31)
        axes[0, column].set_title(f"σ = {sigma} px")
        for axis, image in zip(axes[:, column], y, strict=True):
            axis.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="none")
            axis.set_axis_off()
    figure.suptitle(
        f"akm_triton.gaussian_blur of {SIZE[1]}×{SIZE[0]} pixels, symmetric border",
        fontsize=10,
    )


def _draw_histograms(axes: Any, digits: dict[str, Any]) -> None:
    labels = {"sigma": "learned σ (pixels)", "gate": "learned gate, sigmoid(s)"}
    for axis, what in zip(axes, labels, strict=True):
        _draw_histogram(axis, digits["layers"], what)
        axis.set_xlabel(labels[what])
        axis.set_ylabel("channels")
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].legend(loc="center right")


def _draw_histogram(axis: Axes, layers: list[dict[str, Any]], what: str) -> None:
    values = [layer["end"][what] for layer in layers]
    start = layers[0]["start"][what][0]
    every = [x for layer in values for x in layer]
    edges = np.linspace(min(every), max(every), 21)
    bottom = np.zeros(20)
    for number, layer in enumerate(values):
        counts, _ = np.histogram(layer, edges)
        axis.bar(
            edges[:-1], counts, np.diff(edges), bottom, align="edge",
            color=COLOURS[number], hatch=HATCHES[number], edgecolor="white", linewidth=0.5,
            label=f"layer {number + 1}, {len(layer)} channels",
        )  # fmt: skip
        bottom += counts
    axis.axvline(start, color="black", linestyle="--", linewidth=1)
    axis.annotate(
        f"start {start:.2f}", (start, 1), (4, 0), va="top",
        xycoords=("data", "axes fraction"), textcoords="offset points",
    )  # fmt: skip
