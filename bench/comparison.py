"""Ours beside every rival at one point: one map, one radius, one direction, in one process."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench import providers, timing
from bench.sweep import Budget, Row, maps, note, rounded, title
from reference import composition

DIRECTIONS = ("forward", "forward+backward")
MAPS_MOVED = {"forward": 2, "forward+backward": 5}  # at least, each read or written once
FORWARD_ONLY = "forward only"
# largest error by the largest value: the rounding of taps and of one intermediate map
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


class Excluded(Exception):
    """A provider is not measured, for the reason given."""

    def __init__(self, status: str, note: str) -> None:
        super().__init__(note)
        self.status, self.note = status, note


@dataclass(frozen=True)
class Point:
    """Where all providers meet."""

    shape: tuple[int, int, int, int]
    radius: int
    device: torch.device
    dtype: torch.dtype = torch.float32
    channels_last: bool = False

    @property
    def kernel(self) -> int:
        return 2 * self.radius + 1

    def row(self, provider: providers.Provider, direction: str, **found: Any) -> Row:
        return {
            **maps(self.shape, self.dtype, self.channels_last),
            "kernel": self.kernel,
            "direction": direction,
            "provider": provider.name,
            **found,
        }


class Inputs(NamedTuple):
    """What all providers are given at a point."""

    z: Tensor  # (N, C, H, W)
    sigma: Tensor  # (C,)
    shared_sigma: Tensor  # (1,)
    g: Tensor  # gradient of the output, (N, C, H, W)

    def sigma_for(self, provider: providers.Provider) -> Tensor:
        return self.shared_sigma if provider.shared else self.sigma


class Comparison:
    """Peers at point after point; who was too slow once is not asked at wider radii again."""

    def __init__(self, budget: Budget, rivals: Sequence[providers.Provider] | None = None) -> None:
        self.budget = budget
        self.rivals = providers.RIVALS if rivals is None else rivals
        self._too_slow: dict[tuple[Any, ...], Excluded] = {}

    def rows(self, point: Point, direction: str) -> list[Row]:
        """A row for each provider and for the copy.

        ``status`` is "ok" with p20, p50, p80 (seconds a call), gelements (1e9 elements a second at
        p50), bytes (the fewest that the work moves) and of_copy (bytes a second by the copy's), or
        "missing", "skipped", "failed" with a ``note`` that says why.
        """
        given = inputs(point, backward=direction != "forward")
        here = [p for p in (providers.OURS, *self.rivals) if point.device.type in p.devices]
        calls: dict[str, timing.Call] = {}
        excluded: dict[str, Excluded] = {}
        for provider in here:
            try:
                calls[provider.name] = self._call(provider, point, given, direction)
            except Excluded as reason:
                excluded[provider.name] = reason
            except Exception as error:
                # of whatever kind: a rival that fails is reported, and the others go on
                excluded[provider.name] = Excluded("failed", note(error))
        calls[providers.COPY.name] = providers.COPY.build(given.z, given.sigma, point.radius)
        measured = timing.interleaved(calls, point.device, self.budget.seconds)
        each = given.z.numel() * given.z.element_size()
        copied = 2 * each / measured[providers.COPY.name].p50
        rows = []
        for provider in (*here, providers.COPY):
            if provider.name in excluded:
                why = excluded[provider.name]
                rows.append(point.row(provider, direction, status=why.status, note=why.note))
                continue
            q = measured[provider.name]
            least = each * (2 if provider is providers.COPY else MAPS_MOVED[direction])
            figures = rounded(
                **vars(q), gelements=given.z.numel() / q.p50 / 1e9, of_copy=least / q.p50 / copied
            )
            rows.append(point.row(provider, direction, status="ok", bytes=least, **figures))
        return rows

    def _call(
        self, provider: providers.Provider, point: Point, given: Inputs, direction: str
    ) -> timing.Call:
        key = (provider.name, point.shape, point.dtype, point.channels_last, direction)
        if key in self._too_slow:
            raise self._too_slow[key]
        call = prepare(provider, point, given, self.budget)
        taken = min(timing.once(call, point.device) for _ in range(2))
        if taken > self.budget.slowest and provider is not providers.OURS:
            note = f"{taken:.1f} s a call at K={point.kernel}, over {self.budget.slowest:g} s"
            self._too_slow[key] = Excluded("skipped", note)
            raise self._too_slow[key]
        return call


def prepare(
    provider: providers.Provider, point: Point, given: Inputs, budget: Budget
) -> timing.Call:
    """The call to time, run once and compared with ours in float64.

    Raises:
        Excluded: the provider is not here, does not do this, or does it wrongly.
    """
    z, sigma = given.z, given.sigma_for(provider)
    y, forward = built(provider, point, given, budget)
    wrong = error(provider, y, z, sigma, point.radius)
    if not wrong < TOLERANCES[point.dtype]:
        raise Excluded("failed", f"relative error {wrong:.1e} against float64")
    if not z.requires_grad:
        return forward
    g = given.g.contiguous(memory_format=torch.channels_last) if _channels_last(y) else given.g

    def both() -> object:
        return torch.autograd.grad(forward(), (z, sigma), g)

    both()
    return both


def built(
    provider: providers.Provider, point: Point, given: Inputs, budget: Budget
) -> tuple[Tensor, providers.Blur]:
    """The provider's output and the call that gives it.

    Raises:
        Excluded: the provider is not here or does not do this.
    """
    try:
        provider.version()
    except metadata.PackageNotFoundError as error:
        raise Excluded("missing", f"{error.name} is not installed") from None
    if given.z.requires_grad and not provider.backward:
        raise Excluded("skipped", FORWARD_ONLY)
    if provider.compiles and point.radius > budget.compiled_radius:
        raise Excluded("skipped", "compiling it for a wider kernel takes longer than all the rest")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a rival warns of is not for this table
        forward = provider.build(given.z, given.sigma_for(provider), point.radius)
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


def error(provider: providers.Provider, y: Tensor, z: Tensor, sigma: Tensor, radius: int) -> float:
    """Largest error of the first sample by its largest value, against float64."""
    expected = exact(z[:1].detach().double(), sigma.detach().double(), radius)
    found = y[:1].detach().double()
    if provider.interior:
        inner = (..., slice(radius, -radius), slice(radius, -radius))
        expected, found = expected[inner], found[inner]
    if expected.numel() == 0:
        return 0.0  # all border
    return float((found - expected).abs().max() / expected.abs().max())


def exact(z: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """The blur by none of the providers' code: the reference with its gate wide open."""
    open_gate = torch.full_like(sigma, 60.0)  # 1 − sigmoid(60) is less than float64 can tell
    return composition.modulate(
        z, sigma, open_gate, gaussian="sampled", border="zeros", truncate=None, max_radius=radius
    )


def _channels_last(y: Tensor) -> bool:
    return not y.is_contiguous() and y.is_contiguous(memory_format=torch.channels_last)


def best_rival(rows: Sequence[Row], lighter: bool = False) -> Row | None:
    """The fastest of those who did the same work, of the rows of one point; with ``lighter`` also
    of those with one σ for all channels."""
    outside = {providers.OURS.name, providers.COPY.name}
    outside |= (
        set() if lighter else {provider.name for provider in providers.RIVALS if provider.shared}
    )
    rivals = [row for row in rows if row["status"] == "ok" and row["provider"] not in outside]
    return min(rivals, key=lambda row: float(row["p50"]), default=None)


def ours(rows: Sequence[Row]) -> Row | None:
    found = [
        row for row in rows if row["provider"] == providers.OURS.name and row["status"] == "ok"
    ]
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
        return f"{row['provider']}: {row['note']}"
    where = f"{row['provider']}, {title(row['shape'])}, {row['direction']}"
    return f"{where}: {row['status']}, {row['note']}"
