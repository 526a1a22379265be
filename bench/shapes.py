"""Throughput on the outputs of the 3×3 or depthwise convolutions of three networks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from tqdm import tqdm

from bench import comparison
from bench.sweep import QUICK, Row, Setting, Sweep, grid, title

# (channels, side) at 224×224 pixels in
NETWORKS = {
    "ResNet-50": ((64, 56), (128, 28), (256, 14), (512, 7)),
    "ConvNeXt-T": ((96, 56), (192, 28), (384, 14), (768, 7)),
    "EfficientNet-B0": (
        (32, 112), (96, 56), (144, 56), (144, 28), (240, 28), (240, 14), (480, 14), (672, 14),
        (672, 7), (1152, 7),
    ),
}  # fmt: skip
RADIUS = 7
BATCHES_CPU, BATCHES_CUDA = (2,), (256, 32)
TINY = {"tiny": ((3, 8),)}


def measure(setting: Setting) -> Iterator[list[Row]]:
    budget = setting.budget
    if budget.name == QUICK.name:
        budget = replace(budget, compiled_radius=0)  # a map each to compile for takes too long
    compared = comparison.Comparison(budget)
    networks = setting.choose(NETWORKS, NETWORKS, TINY)
    batches = setting.choose(BATCHES_CPU, BATCHES_CUDA, (1,))
    maps = dict.fromkeys((c, side) for sizes in networks.values() for c, side in sizes)
    cases = list(
        product(
            setting.dtypes_or(("float32",), "float16"), batches, maps, (False, True),
            comparison.DIRECTIONS,
        )
    )  # fmt: skip
    for dtype, batch, (c, side), last, direction in tqdm(cases, desc="shapes", unit="point"):
        shape = (batch, c, side, side)
        point = comparison.Point(shape, RADIUS, setting.device, dtype, last)
        names = [name for name, sizes in networks.items() if (c, side) in sizes]
        yield [{"networks": names, **row} for row in compared.rows(point, direction)]


def table(rows: list[Row]) -> str:
    """A line for each map, layout and direction: ours, the best rival's, share of the copy."""
    lines = []
    for point in points(rows):
        mine, rival, ratio = (
            comparison.ours(point),
            comparison.best_rival(point),
            comparison.ratio(point),
        )
        first = point[0]
        lines.append(
            [
                ", ".join(first["networks"]), title(first["shape"]), first["dtype"],
                first["layout"], first["direction"],
                f"{1e6 * mine['p50']:.1f}" if mine else "–",
                f"{1e6 * rival['p50']:.1f}" if rival else "–",
                rival["provider"] if rival else "–",
                f"{ratio:.2f}×" if ratio else "–",
                f"{mine['of_copy']:.2f}" if mine else "–",
            ]
        )  # fmt: skip
    header = [
        "network", "map", "dtype", "layout", "direction", "ours µs", "best rival µs", "rival",
        "speed, ours / rival", "of copy",
    ]  # fmt: skip
    return f"K = {2 * RADIUS + 1}\n{grid(header, lines)}\n\n{comparison.notes(rows)}".rstrip()


def points(rows: list[Row]) -> list[list[Row]]:
    """Rows that were measured together."""
    grouped: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        key = (*row["shape"], row["layout"], row["dtype"], row["kernel"], row["direction"])
        grouped.setdefault(key, []).append(row)
    return list(grouped.values())


SWEEP = Sweep("shapes", measure, table, __doc__)
main = SWEEP.main
