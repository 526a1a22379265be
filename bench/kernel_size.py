"""Throughput over kernel size: ours and every rival's."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from tqdm import tqdm

from bench import comparison
from bench.sweep import Row, Setting, Sweep, title

RADII = (1, 3, 7, 15, 31)
# (N, C, H, W); on a GPU well beyond its cache
CPU = ((8, 64, 28, 28), (2, 32, 112, 112), (32, 64, 14, 14), (1, 16, 224, 224))
CUDA = ((1024, 256, 28, 28), (64, 64, 224, 224), (512, 128, 56, 56), (2048, 256, 14, 14))
TINY = ((2, 4, 9, 8),)


def measure(setting: Setting) -> Iterator[list[Row]]:
    compared = comparison.Comparison(setting.budget)
    maps = setting.choose(CPU, CUDA, TINY)
    points = list(product(setting.dtypes_or(("float32",), "float16"), maps, RADII))
    for dtype, shape, radius in tqdm(points, desc="kernel-size", unit="point"):
        point = comparison.Point(shape, radius, setting.device, dtype)
        for direction in comparison.DIRECTIONS:
            yield compared.rows(point, direction)


def table(rows: list[Row]) -> str:
    """Gelement/s by provider and kernel size, and our speed over the best rival's; below, who was
    not measured and why."""
    names = list(dict.fromkeys(row["provider"] for row in rows))
    blocks = []
    for (shape, dtype, direction), columns in panels(rows).items():
        lines = [f"{title(shape)} {dtype}, {direction}, Gelement/s at the median"]
        lines.append(_line("K", [str(kernel) for kernel in columns]))
        for name in names:
            speeds = [
                next((row.get("gelements") for row in column if row["provider"] == name), None)
                for column in columns.values()
            ]
            if any(speeds):
                lines.append(_line(name, ["–" if x is None else f"{x:.4f}" for x in speeds]))
        for name, lighter in (("ours / best rival", False), ("and of one σ", True)):
            ratios = [comparison.ratio(column, lighter) for column in columns.values()]
            lines.append(_line(name, ["–" if r is None else f"{r:.2f}×" for r in ratios]))
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, comparison.notes(rows)]).rstrip()


def _line(name: str, cells: list[str]) -> str:
    return f"{name:>22}" + "".join(f"{cell:>9}" for cell in cells)


Panels = dict[tuple[tuple[int, ...], str, str], dict[int, list[Row]]]


def panels(rows: list[Row]) -> Panels:
    """Rows by (shape, dtype, direction), and within it by kernel."""
    grouped: Panels = {}
    for row in rows:
        key = (tuple(row["shape"]), row["dtype"], row["direction"])
        grouped.setdefault(key, {}).setdefault(row["kernel"], []).append(row)
    return grouped


SWEEP = Sweep("kernel-size", measure, table, __doc__)
main = SWEEP.main
