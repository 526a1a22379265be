"""Ours beside every rival at one point: one map, one radius, one direction, in one process."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench import peers, timing
from bench.sweep import Effort, Row, maps, note, rounded, title
from reference import composition

DIRECTIONS = ("forward", "forward+backward")
MAPS_MOVED = {"forward": 2, "forward+backward": 5}  # at least, each read or written once
FORWARD_ONLY = "forward only"
# largest error by the largest value: the rounding of taps and of one intermediate map
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


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
    dtype: torch.dtype = torch.float32
    channels_last: bool = False

    @property
    def kernel(self) -> int:
        return 2 * self.radius + 1

    def row(self, peer: peers.Peer, direction: str, **found: Any) -> Row:
        return {
            **maps(self.shape, self.dtype, self.channels_last),
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

    def sigma_for(self, peer: peers.Peer) -> Tensor:
        return self.shared_sigma if peer.shared else self.sigma


class Contest:
    """Peers at point after point; who was too slow once is not asked at wider radii again."""

    def __init__(self, effort: Effort, rivals: Sequence[peers.Peer] | None = None) -> None:
        self.effort = effort
        self.rivals = peers.RIVALS if rivals is None else rivals
        self._too_slow: dict[tuple[Any, ...], LeftOut] = {}

    def rows(self, point: Point, direction: str) -> list[Row]:
        """A row for each peer and for the copy.

        ``status`` is "ok" with p20, p50, p80 (seconds a call), gelements (1e9 elements a second at
        p50), bytes (the fewest that the work moves) and of_copy (bytes a second by the copy's), or
        "missing", "skipped", "failed" with a ``note`` that says why.
        """
        given = inputs(point, backward=direction != "forward")
        here = [p for p in (peers.OURS, *self.rivals) if point.device.type in p.devices]
        calls: dict[str, timing.Call] = {}
        left_out: dict[str, LeftOut] = {}
        for peer in here:
            try:
                calls[peer.name] = self._call(peer, point, given, direction)
            except LeftOut as reason:
                left_out[peer.name] = reason
            except Exception as error:
                # of whatever kind: a rival that fails is reported, and the others go on
                left_out[peer.name] = LeftOut("failed", note(error))
        calls[peers.COPY.name] = peers.COPY.build(given.z, given.sigma, point.radius)
        measured = timing.interleaved(calls, point.device, self.effort.seconds)
        each = given.z.numel() * given.z.element_size()
        copied = 2 * each / measured[peers.COPY.name].p50
        rows = []
        for peer in (*here, peers.COPY):
            if peer.name in left_out:
                why = left_out[peer.name]
                rows.append(point.row(peer, direction, status=why.status, note=why.note))
                continue
            q = measured[peer.name]
            least = each * (2 if peer is peers.COPY else MAPS_MOVED[direction])
            figures = rounded(
                **vars(q), gelements=given.z.numel() / q.p50 / 1e9, of_copy=least / q.p50 / copied
            )
            rows.append(point.row(peer, direction, status="ok", bytes=least, **figures))
        return rows

    def _call(self, peer: peers.Peer, point: Point, given: Inputs, direction: str) -> timing.Call:
        key = (peer.name, point.shape, point.dtype, point.channels_last, direction)
        if key in self._too_slow:
            raise self._too_slow[key]
        call = prepare(peer, point, given, self.effort)
        taken = min(timing.once(call, point.device) for _ in range(2))
        if taken > self.effort.slowest and peer is not peers.OURS:
            note = f"{taken:.1f} s a call at K={point.kernel}, over {self.effort.slowest:g} s"
            self._too_slow[key] = LeftOut("skipped", note)
            raise self._too_slow[key]
        return call


def prepare(peer: peers.Peer, point: Point, given: Inputs, effort: Effort) -> timing.Call:
    """The call to time, run once and compared with ours in float64.

    Raises:
        LeftOut: the peer is not here, does not do this, or does it wrongly.
    """
    z, sigma = given.z, given.sigma_for(peer)
    y, forward = built(peer, point, given, effort)
    wrong = error(peer, y, z, sigma, point.radius)
    if not wrong < TOLERANCES[point.dtype]:
        raise LeftOut("failed", f"relative error {wrong:.1e} against float64")
    if not z.requires_grad:
        return forward
    g = given.g.contiguous(memory_format=torch.channels_last) if _channels_last(y) else given.g

    def both() -> object:
        return torch.autograd.grad(forward(), (z, sigma), g)

    both()
    return both


def built(
    peer: peers.Peer, point: Point, given: Inputs, effort: Effort
) -> tuple[Tensor, peers.Blur]:
    """The peer's output and the call that gives it.

    Raises:
        LeftOut: the peer is not here or does not do this.
    """
    try:
        peer.version()
    except metadata.PackageNotFoundError as error:
        raise LeftOut("missing", f"{error.name} is not installed") from None
    if given.z.requires_grad and not peer.backward:
        raise LeftOut("skipped", FORWARD_ONLY)
    if peer.compiles and point.radius > effort.compiled_radius:
        raise LeftOut("skipped", "compiling it for a wider kernel takes longer than all the rest")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a rival warns of is not for this table
        forward = peer.build(given.z, given.sigma_for(peer), point.radius)
        return forward(), forward


def inputs(point: Point, backward: bool) -> Inputs:
    """Random maps; σ from R/6 to R/3, so that the window holds the Gaussian."""
    generator = torch.Generator(point.device).manual_seed(0)
    memory = torch.channels_last if point.channels_last else torch.contiguous_format
    z, g = (
        torch.randn(point.shape, generator=generator, device=point.device, dtype=point.dtype)
        .contiguous(memory_format=memory)
        for _ in range(2)
    )  # fmt: skip
    sigma = torch.linspace(point.radius / 6, point.radius / 3, point.shape[1], device=point.device)
    shared = sigma.mean().reshape(1)
    for x in (z, sigma, shared):
        x.requires_grad_(backward)
    return Inputs(z, sigma, shared, g)


def error(peer: peers.Peer, y: Tensor, z: Tensor, sigma: Tensor, radius: int) -> float:
    """Largest error of the first sample by its largest value, against float64."""
    expected = exact(z[:1].detach().double(), sigma.detach().double(), radius)
    found = y[:1].detach().double()
    if peer.interior:
        inner = (..., slice(radius, -radius), slice(radius, -radius))
        expected, found = expected[inner], found[inner]
    if expected.numel() == 0:
        return 0.0  # all border
    return float((found - expected).abs().max() / expected.abs().max())


def exact(z: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """The blur by none of the peers' code: the reference with its gate wide open."""
    open_gate = torch.full_like(sigma, 60.0)  # 1 − sigmoid(60) is less than float64 can tell
    return composition.modulate(
        z, sigma, open_gate, gaussian="sampled", border="zeros", truncate=None, max_radius=radius
    )


def _channels_last(y: Tensor) -> bool:
    return not y.is_contiguous() and y.is_contiguous(memory_format=torch.channels_last)


def best_rival(rows: Sequence[Row], lighter: bool = False) -> Row | None:
    """The fastest of those who did the same work, of the rows of one point; with ``lighter`` also
    of those with one σ for all channels."""
    outside = {peers.OURS.name, peers.COPY.name}
    outside |= set() if lighter else {peer.name for peer in peers.RIVALS if peer.shared}
    rivals = [row for row in rows if row["status"] == "ok" and row["peer"] not in outside]
    return min(rivals, key=lambda row: float(row["p50"]), default=None)


def ours(rows: Sequence[Row]) -> Row | None:
    found = [row for row in rows if row["peer"] == peers.OURS.name and row["status"] == "ok"]
    return found[0] if found else None


def ratio(rows: Sequence[Row], lighter: bool = False) -> float | None:
    """Our speed by the best rival's, of the rows of one point; None where either is missing."""
    mine, rival = ours(rows), best_rival(rows, lighter)
    return float(rival["p50"] / mine["p50"]) if mine and rival else None


def notes(rows: Sequence[Row]) -> str:
    """Who is not there, and why: a line each."""
    return "\n".join(dict.fromkeys(_note(row) for row in rows if row["status"] != "ok"))


def _note(row: Row) -> str:
    if row["status"] == "missing" or row["note"] == FORWARD_ONLY:
        return f"{row['peer']}: {row['note']}"
    where = f"{row['peer']}, {title(row['shape'])}, {row['direction']}"
    return f"{where}: {row['status']}, {row['note']}"
