"""Time ours and every rival on the same maps, at the same radius, in turns within one process."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from akm_triton.backend.layout import is_channels_last
from bench import providers, timing
from bench.sweep import Budget, Row, maps, note, rounded, title
from reference import composition

DIRECTIONS = ("forward", "forward+backward")
MAPS_MOVED = {"forward": 2, "forward+backward": 5}  # the fewest possible, read or written
FORWARD_ONLY = "forward only"
# largest error divided by the largest value: taps and one intermediate map are rounded
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


class Excluded(Exception):
    """The provider is not measured; ``status`` and ``note`` say why."""

    def __init__(self, status: str, note: str) -> None:
        super().__init__(note)
        self.status, self.note = status, note


@dataclass(frozen=True)
class Point:
    """The maps and the radius that all providers are compared on."""

    shape: tuple[int, ...]
    radius: int
    device: torch.device
    dtype: torch.dtype = torch.float32
    channels_last: bool = False

    @property
    def kernel(self) -> int:
        return 2 * self.radius + 1

    def row(self, provider: providers.Provider, direction: str, **figures: Any) -> Row:
        return {
            **maps(self.shape, self.dtype, self.channels_last),
            "kernel": self.kernel,
            "direction": direction,
            "provider": provider.name,
            **figures,
        }


class Inputs(NamedTuple):
    """The tensors that every provider gets at a point."""

    z: Tensor  # (N, C, H, W)
    sigma: Tensor  # (C,)
    shared_sigma: Tensor  # (1,)
    g: Tensor  # gradient of the output, (N, C, H, W)

    def sigma_for(self, provider: providers.Provider) -> Tensor:
        return self.shared_sigma if provider.shared else self.sigma


class Comparison:
    """Compares ours with the rivals at one point after another.

    A rival that was too slow on a map is left out at larger radii.
    """

    def __init__(self, budget: Budget, rivals: Sequence[providers.Provider] | None = None) -> None:
        self.budget = budget
        self.rivals = providers.RIVALS if rivals is None else rivals
        self._too_slow: dict[tuple[Any, ...], Excluded] = {}

    def rows(self, point: Point, direction: str) -> list[Row]:
        """One row for each provider, and one for the copy.

        Rows with ``status`` "ok" have p20, p50 and p80 (seconds per call), gelements (1e9 elements
        per second at p50), bytes (the fewest that this work has to move) and of_copy (bytes per
        second, divided by the copy's). The other rows have the status "missing", "skipped" or
        "failed", and a ``note`` with the reason.
        """
        given = inputs(point, backward=direction != "forward")
        compared = [p for p in (providers.OURS, *self.rivals) if point.device.type in p.devices]
        calls: dict[str, timing.Call] = {}
        excluded: dict[str, Excluded] = {}
        for provider in compared:
            try:
                calls[provider.name] = self._call(provider, point, given, direction)
            except Excluded as exclusion:
                excluded[provider.name] = exclusion
            except Exception as error:
                # rivals raise all kinds of errors: report this one and go on with the others
                excluded[provider.name] = Excluded("failed", note(error))
        calls[providers.COPY.name] = providers.COPY.build(given.z, given.sigma, point.radius)
        measured = timing.interleaved(calls, point.device, self.budget.seconds)
        map_bytes = given.z.numel() * given.z.element_size()
        copy_rate = 2 * map_bytes / measured[providers.COPY.name].p50
        rows = []
        for provider in (*compared, providers.COPY):
            if provider.name in excluded:
                reason = excluded[provider.name]
                rows.append(point.row(provider, direction, status=reason.status, note=reason.note))
                continue
            q = measured[provider.name]
            moved = map_bytes * (2 if provider is providers.COPY else MAPS_MOVED[direction])
            figures = rounded(
                **vars(q),
                gelements=given.z.numel() / q.p50 / 1e9,
                of_copy=moved / q.p50 / copy_rate,
            )
            rows.append(point.row(provider, direction, status="ok", bytes=moved, **figures))
        return rows

    def _call(
        self, provider: providers.Provider, point: Point, given: Inputs, direction: str
    ) -> timing.Call:
        key = (provider.name, point.shape, point.dtype, point.channels_last, direction)
        if key in self._too_slow:
            raise self._too_slow[key]
        call = prepare(provider, point, given, self.budget)
        seconds = min(timing.once(call, point.device) for _ in range(2))
        if seconds > self.budget.slowest and provider is not providers.OURS:
            reason = f"{seconds:.1f} s a call at K={point.kernel}, over {self.budget.slowest:g} s"
            self._too_slow[key] = Excluded("skipped", reason)
            raise self._too_slow[key]
        return call


def prepare(
    provider: providers.Provider, point: Point, given: Inputs, budget: Budget
) -> timing.Call:
    """The call to time. It has been run once, and its output compared with float64.

    Raises:
        Excluded: the provider is not installed, cannot do this, or gives a wrong result.
    """
    z, sigma = given.z, given.sigma_for(provider)
    y, forward = built(provider, point, given, budget)
    relative = error(provider, y, z, sigma, point.radius)
    if not relative < TOLERANCES[point.dtype]:
        raise Excluded("failed", f"relative error {relative:.1e} against float64")
    if not z.requires_grad:
        return forward
    g = (
        given.g.contiguous(memory_format=torch.channels_last)
        if y.dim() == 4 and is_channels_last(y)
        else given.g
    )

    def both() -> object:
        return torch.autograd.grad(forward(), (z, sigma), g)

    both()
    return both


def built(
    provider: providers.Provider, point: Point, given: Inputs, budget: Budget
) -> tuple[Tensor, providers.Blur]:
    """The provider's output, and the call that computes it.

    Raises:
        Excluded: the provider is not installed or cannot do this.
    """
    try:
        provider.version()
    except metadata.PackageNotFoundError as error:
        raise Excluded("missing", f"{error.name} is not installed") from None
    if given.z.requires_grad and not provider.backward:
        raise Excluded("skipped", FORWARD_ONLY)
    if provider.compiles and point.radius > budget.compiled_radius:
        raise Excluded(
            "skipped", "compiling it for a larger kernel takes longer than everything else"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a rival's own warnings do not belong in this table
        forward = provider.build(given.z, given.sigma_for(provider), point.radius)
        return forward(), forward


def inputs(point: Point, backward: bool) -> Inputs:
    """Random maps, and σ from R/6 to R/3 so that the Gaussian fits into the window."""
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
    """Largest error of the first sample against float64, divided by the largest exact value."""
    expected = exact(z[:1].detach().double(), sigma.detach().double(), radius)
    actual = y[:1].detach().double()
    if provider.interior:
        inner = (..., slice(radius, -radius), slice(radius, -radius))
        expected, actual = expected[inner], actual[inner]
    if expected.numel() == 0:
        return 0.0  # the map is nothing but border
    return float((actual - expected).abs().max() / expected.abs().max())


def exact(z: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """The blur as ``reference`` computes it, which shares no code with any provider; of signals and
    volumes a sum of shifts along each axis, by its taps."""
    if z.dim() != 4:
        taps = composition.taps(sigma, radius, "sampled", None)  # (C, 2R+1)
        for axis in range(2, z.dim()):
            wide = F.pad(z, [0, 0] * (z.dim() - 1 - axis) + [radius, radius])
            z = torch.zeros_like(z)
            for n, tap in enumerate(taps.T):
                z += tap.reshape(-1, *[1] * (z.dim() - 2)) * wide.narrow(axis, n, z.shape[axis])
        return z
    open_gate = torch.full_like(sigma, 60.0)  # sigmoid(60) is 1 in float64
    return composition.modulate(
        z, sigma, open_gate, gaussian="sampled", border="zeros", truncate=None, max_radius=radius
    )


def best_rival(rows: Sequence[Row], lighter: bool = False) -> Row | None:
    """The fastest rival in the rows of one point.

    Only rivals that do the same work count; with ``lighter``, also those with one σ for all
    channels.
    """
    left_out = {providers.OURS.name, providers.COPY.name}
    if not lighter:
        left_out |= {provider.name for provider in providers.RIVALS if provider.shared}
    rivals = [row for row in rows if row["status"] == "ok" and row["provider"] not in left_out]
    return min(rivals, key=lambda row: float(row["p50"]), default=None)


def ours(rows: Sequence[Row]) -> Row | None:
    """Our row among the rows of one point; None if it was not measured."""
    measured = (
        row for row in rows if row["provider"] == providers.OURS.name and row["status"] == "ok"
    )
    return next(measured, None)


def ratio(rows: Sequence[Row], lighter: bool = False) -> float | None:
    """Our speed divided by the best rival's at one point; None if either is missing."""
    mine, rival = ours(rows), best_rival(rows, lighter)
    return float(rival["p50"] / mine["p50"]) if mine and rival else None


def notes(rows: Sequence[Row]) -> str:
    """The providers that were not measured and the reasons, one per line."""
    return "\n".join(dict.fromkeys(_note(row) for row in rows if row["status"] != "ok"))


def _note(row: Row) -> str:
    if row["status"] == "missing" or row["note"] == FORWARD_ONLY:
        return f"{row['provider']}: {row['note']}"
    case = f"{row['provider']}, {title(row['shape'])}, {row['direction']}"
    return f"{case}: {row['status']}, {row['note']}"
