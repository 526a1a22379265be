"""Throughput over kernel size, ours beside every rival, on one device in one process."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import akm_triton as akm
from bench import peers, results, timing

RADII = (1, 3, 7, 15, 31)
DIRECTIONS = ("forward", "forward+backward")
# (N, C, H, W); on a GPU well beyond its cache
MAPS = {
    "cpu": [(8, 64, 28, 28), (2, 32, 112, 112), (32, 64, 14, 14), (1, 16, 224, 224)],
    "cuda": [(512, 256, 28, 28), (64, 64, 224, 224), (512, 128, 56, 56), (2048, 256, 14, 14)],
}
QUICK_MAPS = 2  # the first two
DTYPES = {"cpu": torch.float32, "cuda": torch.float16}
# largest error by the largest value: the rounding of taps and of one intermediate map
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class Effort:
    """How long to measure, and what is not worth the wait."""

    seconds: float  # a point: all peers at one map, radius and direction
    slowest: float  # seconds a call beyond which a peer is left out, there and at wider radii
    compiled_radius: int  # beyond it compiling takes longer than all the rest
    maps: int


QUICK = Effort(seconds=2.0, slowest=0.3, compiled_radius=7, maps=QUICK_MAPS)
FULL = Effort(seconds=10.0, slowest=3.0, compiled_radius=31, maps=4)


class LeftOut(Exception):
    """A peer is not measured, for the reason given."""

    def __init__(self, status: str, note: str) -> None:
        super().__init__(note)
        self.status, self.note = status, note


@dataclass(frozen=True)
class Point:
    """Where all peers meet."""

    shape: tuple[int, int, int, int]
    radius: int
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.device.type]

    def row(self, peer: peers.Peer, direction: str, **found: Any) -> dict[str, Any]:
        return {
            "shape": list(self.shape),
            "dtype": str(self.dtype).removeprefix("torch."),
            "kernel": 2 * self.radius + 1,
            "direction": direction,
            "peer": peer.name,
            **found,
        }


def kernel_size(device: torch.device, effort: Effort) -> list[dict[str, Any]]:
    """One row for each map, kernel size, direction and peer.

    ``status`` is "ok" with p20, p50, p80 (seconds a call) and gelements (1e9 elements a second, at
    p50), or "missing", "skipped", "failed" with a ``note`` that says why.
    """
    points = [
        Point(shape, radius, device)
        for shape in MAPS[device.type][: effort.maps]
        for radius in RADII
    ]
    too_slow: dict[tuple[Any, ...], LeftOut] = {}
    rows = []
    for point in tqdm(points, desc="kernel-size", unit="point"):
        for direction in DIRECTIONS:
            rows += list(_measure(point, direction, effort, too_slow))
    return rows


def _measure(
    point: Point, direction: str, effort: Effort, too_slow: dict[tuple[Any, ...], LeftOut]
) -> Iterator[dict[str, Any]]:
    calls: dict[str, timing.Call] = {}
    contenders = [p for p in (peers.OURS, *peers.RIVALS) if point.device.type in p.devices]
    for peer in contenders:
        key = (peer.name, point.shape, direction)
        try:
            if key in too_slow:
                raise too_slow[key]
            call = prepare(peer, point, direction, effort)
            taken = timing.once(call, point.device)
            if taken > effort.slowest and peer is not peers.OURS:
                kernel = 2 * point.radius + 1
                note = f"{taken:.1f} s a call at K={kernel}, over {effort.slowest:g} s"
                too_slow[key] = LeftOut("skipped", note)
                raise too_slow[key]
            calls[peer.name] = call
        except LeftOut as reason:
            yield point.row(peer, direction, status=reason.status, note=reason.note)
        except Exception as error:
            # of whatever kind: a rival that fails is reported, and the others go on
            note = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            yield point.row(peer, direction, status="failed", note=note)
    elements = torch.Size(point.shape).numel()
    measured = timing.interleaved(calls, point.device, effort.seconds)
    for peer in contenders:
        if peer.name in measured:
            q = measured[peer.name]
            yield point.row(
                peer, direction, status="ok",
                p20=float(f"{q.p20:.4g}"), p50=float(f"{q.p50:.4g}"), p80=float(f"{q.p80:.4g}"),
                gelements=float(f"{elements / q.p50 / 1e9:.4g}"),
            )  # fmt: skip


def prepare(peer: peers.Peer, point: Point, direction: str, effort: Effort) -> timing.Call:
    """The call to time, run once and compared with ours in float64.

    Raises:
        LeftOut: the peer is not here, or does not do this.
    """
    backward = direction != "forward"
    try:
        peer.version()
    except metadata.PackageNotFoundError:
        raise LeftOut("missing", f"{peer.package} is not installed") from None
    if backward and not peer.backward:
        raise LeftOut("skipped", "forward only")
    if peer.compiles and point.radius > effort.compiled_radius:
        raise LeftOut("skipped", f"compiling takes too long beyond K={2 * effort.compiled_radius + 1}")
    z, sigma, g = inputs(peer, point, backward)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a rival warns of is not for this table
        forward = peer.build(z, sigma, point.radius)
        y = forward()
    if peer.blurs:
        wrong = error(peer, y, z, sigma, point.radius)
        if not wrong < TOLERANCES[point.dtype]:
            raise LeftOut("failed", f"relative error {wrong:.1e} against float64")
    if not backward:
        return forward
    g = g.contiguous(memory_format=torch.channels_last) if _channels_last(y) else g
    call = lambda: torch.autograd.grad(forward(), (z, sigma), g)  # noqa: E731
    call()
    return call


def inputs(peer: peers.Peer, point: Point, backward: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Random (z, sigma, gradient of the output); σ from R/6 to R/3, so the window holds it."""
    generator = torch.Generator(point.device).manual_seed(0)
    z, g = (
        torch.randn(point.shape, generator=generator, device=point.device, dtype=point.dtype)
        for _ in range(2)
    )
    sigma = torch.linspace(point.radius / 6, point.radius / 3, point.shape[1], device=point.device)
    if peer.shared:
        sigma = sigma.mean().reshape(1)
    return z.requires_grad_(backward), sigma.requires_grad_(backward), g


def error(peer: peers.Peer, y: Tensor, z: Tensor, sigma: Tensor, radius: int) -> float:
    """Largest error of the first sample by its largest value, against float64."""
    expected = akm.gaussian_blur(
        z[:1].detach().double(), sigma.detach().double(), gaussian="sampled", border="zeros",
        max_radius=radius, backend="torch",
    )  # fmt: skip
    found = y[:1].detach().double()
    if peer.interior:
        inner = (..., slice(radius, -radius), slice(radius, -radius))
        expected, found = expected[inner], found[inner]
    if expected.numel() == 0:
        return 0.0  # all border
    return float((found - expected).abs().max() / expected.abs().max())


def _channels_last(y: Tensor) -> bool:
    return not y.is_contiguous() and y.is_contiguous(memory_format=torch.channels_last)


def table(rows: list[dict[str, Any]]) -> str:
    """Gelement/s by peer and kernel size, and ours by the best rival, for each map and direction."""
    blocks = []
    names = list(dict.fromkeys(row["peer"] for row in rows))
    names.sort(key=lambda name: name != peers.OURS.name)
    kernels = sorted({row["kernel"] for row in rows})
    notes: dict[str, None] = {}
    for (shape, dtype, direction), cells in panels(rows).items():
        size = "×".join(map(str, shape))
        lines = [f"{size} {dtype}, {direction}, Gelement/s at the median"]
        lines.append(f"{'K':>22}" + "".join(f"{k:>9}" for k in kernels))
        for name in names:
            found = [cells.get((name, k)) for k in kernels]
            shown = [_cell(row) for row in found]
            if any(row for row in found):
                lines.append(f"{name:>22}" + "".join(f"{text:>9}" for text in shown))
            for row in found:
                if row and row["status"] in ("missing", "failed"):
                    notes[f"{name}: {row['status']}, {row['note']}"] = None
                elif row and row["status"] == "skipped" and row["note"] != "forward only":
                    notes[f"{name}, {size}, {direction}: skipped, {row['note']}"] = None
        ratios = [ours_by_best(cells, k) for k in kernels]
        shown = ["–" if r is None else f"{r:.2f}×" for r in ratios]
        lines.append(f"{'ours / best rival':>22}" + "".join(f"{text:>9}" for text in shown))
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, "\n".join(notes)]).rstrip()


Cells = dict[tuple[str, int], dict[str, Any]]


def panels(rows: list[dict[str, Any]]) -> dict[tuple[tuple[int, ...], str, str], Cells]:
    """Rows by (shape, dtype, direction), and within it by (peer, kernel)."""
    grouped: dict[tuple[tuple[int, ...], str, str], Cells] = {}
    for row in rows:
        key = (tuple(row["shape"]), row["dtype"], row["direction"])
        grouped.setdefault(key, {})[row["peer"], row["kernel"]] = row
    return grouped


def ours_by_best(cells: Cells, kernel: int) -> float | None:
    """Our throughput by the best rival's; None where either is missing."""
    mine = cells.get((peers.OURS.name, kernel))
    roofs = {peer.name for peer in peers.RIVALS if not peer.blurs}
    rivals = [
        row["gelements"]
        for (name, k), row in cells.items()
        if k == kernel and row["status"] == "ok" and name not in roofs | {peers.OURS.name}
    ]
    if not mine or mine["status"] != "ok" or not rivals:
        return None
    return float(mine["gelements"] / max(rivals))


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{row['gelements']:.4f}" if row["status"] == "ok" else "–"


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench kernel-size", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two maps, two minutes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(argv)
    device = torch.device(options.device)
    rows = kernel_size(device, QUICK if options.quick else FULL)
    print(table(rows))
    versions = {}
    for peer in peers.RIVALS:
        try:
            versions[peer.name] = peer.version()
        except metadata.PackageNotFoundError:
            versions[peer.name] = None
    versions = {name: version for name, version in versions.items() if version}
    print(f"written: {results.save('kernel-size', device, rows, peers=versions)}")
