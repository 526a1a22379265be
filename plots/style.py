"""What all figures share."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot: a figure needs no screen
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from akm_triton.files import replace_bytes
from bench import providers

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

# (colour, marker, line) of each rival, in the order of the registry: told apart in black and white
# too. The colours are those of Okabe and Ito.
LOOKS = (
    ("#0072B2", "s", "-"),
    ("#56B4E9", "^", "--"),
    ("#009E73", "v", "-."),
    ("#D55E00", "D", "--"),
    ("#F0C000", "<", "-"),
    ("#CC79A7", "P", ":"),
    ("#E69F00", "X", "-."),
    ("#999999", "p", "-"),
    ("#999999", ">", "--"),
    ("#999999", "h", ":"),
    ("#666666", "x", "--"),
    ("#666666", "1", "-."),
    ("#666666", "2", ":"),
)
OURS = {"color": "black", "marker": "o", "linestyle": "-", "linewidth": 2.2, "zorder": 3}
ROOF = {"color": "0.4", "marker": "", "linestyle": (0, (1, 1)), "linewidth": 1.4}


def look(name: str) -> dict[str, Any]:
    """Of a provider's line."""
    if name == providers.OURS.name:
        return OURS
    if name == providers.COPY.name:
        return ROOF
    colour, marker, line = LOOKS[[provider.name for provider in providers.RIVALS].index(name)]
    return {"color": colour, "marker": marker, "linestyle": line, "linewidth": 1.1}


def measured_on(sweep: dict[str, Any]) -> str:
    """Device and versions, for a caption."""
    if "driver" in sweep:
        where = f"{sweep['device']}, driver {sweep['driver']}, triton {sweep['triton']}"
    else:
        where = f"{sweep['device']}, {sweep['threads']} thread{'s' * (sweep['threads'] > 1)}"
    return f"measured on {where}, torch {sweep['torch']}, {sweep['date'][:10]}"


def save(figure: Figure, name: str, folder: Path = FOLDER) -> list[Path]:
    """Write ``name``.png and ``name``.svg, each whole or not at all."""
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    for path in paths:
        # neither a date nor a version, which would make a new file of the same figure
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        drawn = io.BytesIO()
        figure.savefig(drawn, format=path.suffix[1:], metadata=metadata)
        replace_bytes(path, drawn.getvalue())
    plt.close(figure)
    return paths
