"""Time over batch, channels and side of the map, and the slope of each in a log-log plot."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from bench import comparison, providers
from bench.sweep import Row, Setting, Sweep, grid

AXES = ("batch", "channels", "side")
RADIUS = 7
# what is not varied, and the sizes of what is
BASE_CPU, SIZES_CPU = (2, 16, 28), {
    "batch": (1, 2, 4, 8, 16, 32), "channels": (4, 8, 16, 32, 64, 128),
    "side": (7, 14, 28, 56, 112, 224),
}  # fmt: skip
BASE_CUDA, SIZES_CUDA = (64, 64, 56), {
    "batch": (1, 4, 16, 64, 256, 1024), "channels": (4, 16, 64, 256, 1024),
    "side": (7, 14, 28, 56, 112, 224, 448),
}  # fmt: skip
TINY = {"batch": (1, 2), "channels": (1, 2), "side": (4, 8)}
RIVALS = tuple(
    provider for provider in providers.RIVALS if not provider.packages and not provider.compiles
)


def measure(setting: Setting) -> Iterator[list[Row]]:
    compared = comparison.Comparison(setting.budget, RIVALS)
    base = setting.choose(BASE_CPU, BASE_CUDA, (1, 1, 4))
    sizes = setting.choose(SIZES_CPU, SIZES_CUDA, TINY)
    cases = [
        (dtype, axis, size, direction)
        for dtype in setting.dtypes_or(("float32",), "float16")
        for axis in AXES
        for size in sizes[axis]
        for direction in comparison.DIRECTIONS
    ]
    for dtype, axis, size, direction in tqdm(cases, desc="scaling", unit="point"):
        n, c, side = (size if axis == name else x for name, x in zip(AXES, base, strict=True))
        point = comparison.Point((n, c, side, side), RADIUS, setting.device, dtype)
        yield [{"axis": axis, "size": size, **row} for row in compared.rows(point, direction)]


def slope(rows: list[Row]) -> float | None:
    """d log(seconds) / d log(elements), by least squares."""
    found = [row for row in rows if row["status"] == "ok"]
    if len(found) < 2:
        return None
    elements = [np.prod(row["shape"]) for row in found]
    fit = np.polyfit(np.log(elements), np.log([row["p50"] for row in found]), 1)
    return float(fit[0])


def series(rows: list[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """Rows by (axis, direction, provider)."""
    grouped: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row["axis"], row["direction"], row["provider"]), []).append(row)
    return grouped


def table(rows: list[Row]) -> str:
    lines = []
    for (axis, direction, provider), found in series(rows).items():
        steep = slope(found)
        times = [f"{1e6 * row['p50']:.0f}" if row["status"] == "ok" else "–" for row in found]
        sizes = " ".join(str(row["size"]) for row in found)
        lines.append(
            [
                provider,
                axis,
                sizes,
                direction,
                " ".join(times),
                "–" if steep is None else f"{steep:.2f}",
            ]
        )
    header = ["provider", "axis", "sizes", "direction", "µs", "slope"]
    return f"K = {2 * RADIUS + 1}\n{grid(header, lines)}\n\n{comparison.notes(rows)}".rstrip()


SWEEP = Sweep("scaling", measure, table, __doc__)
main = SWEEP.main
