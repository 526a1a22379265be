"""What all figures share: size, looks, axes, captions and files."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot: a figure needs no screen
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from akm_triton.files import replace_bytes
from bench import providers

Record = dict[str, Any] | list[dict[str, Any]]
"""The content of a result file, or of several."""

FOLDER = Path(__file__).parent
WIDTH = 8.3  # inches; a README column of 830 pixels then shows 9 points as 12 pixels
MS, MIB = 1e3, 2.0**-20  # of a second and of a byte

plt.rcParams.update(
    {
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.7,
        "axes.grid": True,
        "axes.axisbelow": True,
        "figure.titlesize": 10,
        "grid.linewidth": 0.4,
        "grid.color": "0.85",
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "lines.linewidth": 1.3,
        "lines.markersize": 4.5,
        "savefig.dpi": 160,
    }
)

# (colour, marker, line) by the name of the provider, so that a result file keeps its looks whatever
# the registry becomes. The colours are those of Okabe and Ito; libraries with one σ are grey.
LOOKS: dict[str, tuple[str, str, str]] = {
    "conv2d separable": ("#0072B2", "s", "-"),
    "conv2d channels_last": ("#56B4E9", "^", "--"),
    "conv2d dense K×K": ("#009E73", "v", "-."),
    "Toeplitz products": ("#D55E00", "D", "--"),
    "FFT": ("#E0B000", "<", "-"),
    "compiled shifts": ("#CC79A7", "P", ":"),
    "scipy, one σ": ("0.45", "x", "-."),
    "OpenCV, one σ": ("0.65", "p", "-"),
    "scikit-image, one σ": ("0.65", ">", "--"),
    "kornia, one σ": ("0.65", "h", ":"),
    "torchvision, one σ": ("0.45", "+", "--"),
    "cupyx, one σ": ("0.45", "1", "-."),
    "cuCIM, one σ": ("0.45", "2", ":"),
}
UNKNOWN = "*8HdX34"  # markers of providers that have no look of their own
OURS = {"color": "black", "marker": "o", "linestyle": "-", "linewidth": 2.2, "zorder": 3}
COPY = {"color": "0.4", "marker": "", "linestyle": (0, (1, 1)), "linewidth": 1.4}
SERIES = (
    ("black", "o", "-"),
    ("#0072B2", "s", "--"),
    ("#D55E00", "^", "-."),
    ("#009E73", "D", ":"),
    ("#CC79A7", "v", "-"),
    ("#E0B000", "P", "--"),
)


def look(provider: str) -> dict[str, Any]:
    """The line of a provider. One that is not in ``LOOKS`` is dark grey and dotted, with a marker
    that depends on its name alone: results of an older or newer registry stay drawable."""
    if provider == providers.OURS.name:
        return dict(OURS)
    if provider == providers.COPY.name:
        return dict(COPY)
    unknown = ("0.25", UNKNOWN[zlib.crc32(provider.encode()) % len(UNKNOWN)], ":")
    colour, marker, line = LOOKS.get(provider, unknown)
    return {"color": colour, "marker": marker, "linestyle": line, "linewidth": 1.1}


def series(number: int) -> dict[str, Any]:
    """The line of a series that is no provider: a map, a layout, a way to train."""
    colour, marker, line = SERIES[number % len(SERIES)]
    return {"color": colour, "marker": marker, "linestyle": line}


def panels(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, Any]:
    """A figure ``height`` inches tall and its axes, always (rows, columns)."""
    return plt.subplots(
        rows, columns, figsize=(WIDTH, height), squeeze=False, layout="constrained", **options
    )


def log_sizes(axis: Axes, sizes: Iterable[int]) -> None:
    """A logarithmic x axis with a tick at every size that was measured."""
    ticks = sorted(set(sizes))
    axis.set_xscale("log")
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.xaxis.set_minor_locator(NullLocator())


def log_ratios(axis: Axes, which: str) -> None:
    """A logarithmic axis ("x" or "y") of speed ratios, with a line at 1 and what its sides mean."""
    upright = which == "y"
    (axis.set_yscale if upright else axis.set_xscale)("log")
    ticks = axis.yaxis if upright else axis.xaxis
    ticks.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 0.7, 1, 1.4, 2, 3, 5, 10, 20, 50]))
    ticks.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ticks.set_minor_locator(NullLocator())
    (axis.axhline if upright else axis.axvline)(1, color="black", linewidth=1)
    low, high = axis.get_ylim() if upright else axis.get_xlim()
    low, high = min(low, 0.8), max(high, 1.25)
    (axis.set_ylim if upright else axis.set_xlim)(low, high)
    (axis.axhspan if upright else axis.axvspan)(low, 1, color="0.95", zorder=0)


def in_units(factor: float) -> FuncFormatter:
    """Labels ticks in another unit than the data's: ``in_units(MS)`` for seconds as ms."""
    return FuncFormatter(lambda x, _: f"{factor * x:,.4g}")


def draw_sorted(
    axis: Axes, layers: Sequence[Sequence[float]], place: tuple[int, int] = (0, 1), **style: Any
) -> None:  # fmt: skip
    """A dot for every channel, sorted within its layer.

    Args:
        place: which of how many sets of dots stand side by side in a layer.
    """
    index, count = place
    width = 0.8 / count
    for number, values in enumerate(layers):
        left = number + 0.6 + index * width
        axis.plot(
            np.linspace(left, left + 0.9 * width, len(values)), sorted(values),
            **{**style, "linestyle": "none", "markersize": 2.5},
        )  # fmt: skip
    axis.set_xticks(range(1, len(layers) + 1), [f"layer {n + 1}" for n in range(len(layers))])
    axis.grid(False, axis="x")


def legend_below(figure: Figure, columns: int) -> None:
    """One legend of all axes, each label once."""
    lines: dict[str, Any] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            lines.setdefault(label, handle)
    figure.legend(
        handles=list(lines.values()), labels=list(lines), loc="outside lower center", ncols=columns
    )


def measured_on(record: dict[str, Any]) -> str:
    """Device and versions, for a caption."""
    if "driver" in record:
        where = f"{record['device']}, driver {record['driver']}, triton {record['triton']}"
    else:
        where = f"{record['device']}, {record['threads']} thread{'s' * (record['threads'] > 1)}"
    return f"measured on {where}, torch {record['torch']}, {record['date'][:10]}"


def source_of(record: Record) -> str:
    """Device, sweep and date of a record, or of the newest in a list."""
    newest = max(record, key=lambda one: str(one["date"])) if isinstance(record, list) else record
    return f"{newest['device']}, {newest['sweep']}, {newest['date']}"


def save(figure: Figure, name: str, source: str, folder: Path = FOLDER) -> Path:
    """Write ``name``.png, whole or not at all; the same figure gives the same bytes.

    Args:
        source: what was drawn, as ``source_of`` says it; kept in the file as the text "Source".
    """
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    photographs = any(axis.images for axis in figure.axes)
    plt.close(figure)
    image = Image.open(drawn).convert("RGB")
    if not photographs:  # for lines and text 256 colours do, in a third of the bytes
        image = image.quantize(256, dither=Image.Dither.NONE)
    text = PngInfo()  # not matplotlib's, which holds its version
    text.add_text("Source", source)
    image.save(packed, "png", optimize=True, pnginfo=text)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    replace_bytes(path, packed.getvalue())
    return path
