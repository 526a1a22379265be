"""Throughput over kernel size, ours beside every rival, on one device in one process."""

from __future__ import annotations

import argparse
import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

import akm_triton as akm
from bench import peers, results, timing

RADII = (1, 3, 7, 15, 31)
DIRECTIONS = ("forward", "forward+backward")
FORWARD_ONLY = "forward only"
# (N, C, H, W); on a GPU well beyond its cache
MAPS = {
    "cpu": [(8, 64, 28, 28), (2, 32, 112, 112), (32, 64, 14, 14), (1, 16, 224, 224)],
    "cuda": [(1024, 256, 28, 28), (64, 64, 224, 224), (512, 128, 56, 56), (2048, 256, 14, 14)],
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


QUICK = Effort(seconds=2.0, slowest=0.5, compiled_radius=7, maps=QUICK_MAPS)
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

    @property
    def kernel(self) -> int:
        return 2 * self.radius + 1

    def row(self, peer: peers.Peer, direction: str, **found: Any) -> dict[str, Any]:
        return {
            "shape": list(self.shape),
            "dtype": str(self.dtype).removeprefix("torch."),
            "kernel": self.kernel,
            "direction": direction,
            "peer": peer.name,
            **found,
        }


class Inputs(NamedTuple):
    """What all peers are given at a point."""

    z: Tensor  # (N, C, H, W)
    sigma: Tensor  # (C,)
    shared_sigma: Tensor  # (1,)
    g: Tensor  # gradient of the output, (N, C, H, W)


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
    left_out: dict[str, LeftOut] = {}
    given = inputs(point, backward=direction != "forward")
    contenders = [p for p in (peers.OURS, *peers.RIVALS) if point.device.type in p.devices]
    for peer in contenders:
        key = (peer.name, point.shape, direction)
        try:
            if key in too_slow:
                raise too_slow[key]
            call = prepare(peer, point, given, effort)
            taken = min(timing.once(call, point.device) for _ in range(2))
            if taken > effort.slowest and peer is not peers.OURS:
                note = f"{taken:.1f} s a call at K={point.kernel}, over {effort.slowest:g} s"
                too_slow[key] = LeftOut("skipped", note)
                raise too_slow[key]
            calls[peer.name] = call
        except LeftOut as reason:
            left_out[peer.name] = reason
        except Exception as error:
            # of whatever kind: a rival that fails is reported, and the others go on
            note = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            left_out[peer.name] = LeftOut("failed", note)
    measured = timing.interleaved(calls, point.device, effort.seconds)
    for peer in contenders:
        if peer.name in left_out:
            why = left_out[peer.name]
            yield point.row(peer, direction, status=why.status, note=why.note)
        else:
            q = measured[peer.name]
            speed = torch.Size(point.shape).numel() / q.p50 / 1e9
            figures = {"p20": q.p20, "p50": q.p50, "p80": q.p80, "gelements": speed}
            rounded = {name: float(f"{x:.4g}") for name, x in figures.items()}
            yield point.row(peer, direction, status="ok", **rounded)


def prepare(peer: peers.Peer, point: Point, given: Inputs, effort: Effort) -> timing.Call:
    """The call to time, run once and compared with ours in float64.

    Raises:
        LeftOut: the peer is not here, does not do this, or does it wrongly.
    """
    z, sigma = given.z, given.shared_sigma if peer.shared else given.sigma
    backward = z.requires_grad
    try:
        peer.version()
    except metadata.PackageNotFoundError:
        raise LeftOut("missing", f"{peer.package} is not installed") from None
    if backward and not peer.backward:
        raise LeftOut("skipped", FORWARD_ONLY)
    if peer.compiles and point.radius > effort.compiled_radius:
        raise LeftOut("skipped", "compiling it for a wider kernel takes longer than all the rest")
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
    g = given.g.contiguous(memory_format=torch.channels_last) if _channels_last(y) else given.g

    def both() -> object:
        return torch.autograd.grad(forward(), (z, sigma), g)

    both()
    return both


def inputs(point: Point, backward: bool) -> Inputs:
    """Random maps; σ from R/6 to R/3, so that the window holds the Gaussian."""
    generator = torch.Generator(point.device).manual_seed(0)
    z, g = (
        torch.randn(point.shape, generator=generator, device=point.device, dtype=point.dtype)
        for _ in range(2)
    )
    sigma = torch.linspace(point.radius / 6, point.radius / 3, point.shape[1], device=point.device)
    shared = sigma.mean().reshape(1)
    for x in (z, sigma, shared):
        x.requires_grad_(backward)
    return Inputs(z, sigma, shared, g)


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
    """Gelement/s by peer and kernel size, and ours by the best rival; below, who is not there."""
    names = list(dict.fromkeys(row["peer"] for row in rows))
    kernels = sorted({row["kernel"] for row in rows})
    blocks = []
    for (shape, dtype, direction), cells in panels(rows).items():
        lines = [f"{title(shape)} {dtype}, {direction}, Gelement/s at the median"]
        lines.append(_line("K", [str(k) for k in kernels]))
        for name in names:
            speeds = [cells.get((name, k), {}).get("gelements") for k in kernels]
            if any(speeds):
                lines.append(_line(name, ["–" if x is None else f"{x:.4f}" for x in speeds]))
        ratios = [ours_by_best(cells, k) for k in kernels]
        lines.append(
            _line("ours / best rival", ["–" if r is None else f"{r:.2f}×" for r in ratios])
        )
        blocks.append("\n".join(lines))
    notes = {_note(row): None for row in rows if row["status"] != "ok"}
    return "\n\n".join([*blocks, "\n".join(notes)]).rstrip()


def title(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _line(name: str, cells: list[str]) -> str:
    return f"{name:>22}" + "".join(f"{cell:>9}" for cell in cells)


def _note(row: dict[str, Any]) -> str:
    if row["status"] == "missing" or row["note"] == FORWARD_ONLY:
        return f"{row['peer']}: {row['note']}"
    where = f"{row['peer']}, {title(row['shape'])}, {row['direction']}"
    return f"{where}: {row['status']}, {row['note']}"


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


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench kernel-size", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two maps, two minutes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--threads", type=int, default=1, help="of PyTorch; some rivals know only one (1)"
    )
    parser.add_argument("--output", type=Path, default=results.ROOT, help="folder of results")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    rows = kernel_size(device, QUICK if options.quick else FULL)
    print(table(rows))
    path = results.save("kernel-size", device, rows, options.output, packages=_packages())
    print(f"\nwritten: {path}")


def _packages() -> dict[str, str]:
    """Version of each rival's package that is here."""
    found = {}
    for peer in peers.RIVALS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            if peer.package and (version := peer.version()):
                found[peer.package] = version
    return found
