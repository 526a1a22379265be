"""What all figures share."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: a figure needs no screen
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

FOLDER = Path(__file__).parent

plt.rcParams.update(
    {
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.7,
        "grid.linewidth": 0.4,
        "grid.color": "0.85",
        "legend.frameon": False,
        "savefig.dpi": 125,
        "svg.hashsalt": "akm_triton",  # the same figure gives the same file
    }
)


def save(figure: Figure, name: str, folder: Path = FOLDER) -> list[Path]:
    """Write ``name``.png and ``name``.svg."""
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    for path in paths:
        # neither a date nor a version, which would make a new file of the same figure
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, metadata=metadata)
    plt.close(figure)
    return paths
