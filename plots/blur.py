"""What σ does to a photograph, and which σ and gate a network learns."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_images
from torch import Tensor

import akm_triton as akm
from plots.style import WIDTH, draw_sorted, measured_on, series

SIGMAS = (0, 1, 2, 4, 8)
# top left corner, in pixels of the halved photograph: the pavilion's roof; the flower's heart
CROPS = ((44, 66), (46, 92))
SIZE = (108, 144)
LEARNED = {"sigma": "learned σ (pixels)", "gate": "learned gate, sigmoid(s)"}


def draw(record: dict[str, Any]) -> Figure:
    figure = plt.figure(figsize=(WIDTH, 5.6), layout="constrained")
    subfigures: Any = figure.subfigures(2, 1, height_ratios=(3.1, 2.5))
    above, below = subfigures
    _draw_photographs(above)
    for axis, key in zip(below.subplots(1, 2), LEARNED, strict=True):
        start = record["layers"][0]["start"][key][0]
        axis.axhline(start, color="black", linestyle="--", linewidth=1)
        axis.annotate(
            f"start {start:.2f}", (1, start), (0, 3), ha="right",
            xycoords=("axes fraction", "data"), textcoords="offset points",
        )  # fmt: skip
        draw_sorted(axis, [layer["end"][key] for layer in record["layers"]], **series(0))
        axis.set_xlabel("channels, sorted")
        axis.set_ylabel(LEARNED[key])
    below.suptitle(
        "Each channel of a network that learned handwritten digits "
        f"({record['accuracy']:.1%} of the test images right)\n{measured_on(record)}"
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
    figure.suptitle(f"akm_triton.gaussian_blur of photographs of {SIZE[1]}×{SIZE[0]} pixels")


def photographs() -> Tensor:
    """Two crops (2, 3, 108, 144) of scikit-learn's photographs, halved, from 0 to 1."""
    crops = []
    for image, (top, left) in zip(load_sample_images().images, CROPS, strict=True):
        z = torch.as_tensor(np.array(image)).permute(2, 0, 1) / 255
        halved = torch.nn.functional.avg_pool2d(z, 2)
        crops.append(halved[:, top : top + SIZE[0], left : left + SIZE[1]])
    return torch.stack(crops)
