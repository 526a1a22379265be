"""Errors of the blur and its gradients against float64, for each dtype, ours and each rival's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor
from tqdm import tqdm

from bench import comparison, providers
from bench.sweep import Row, Setting, Sweep, grid, rounded

SHAPE, TINY = (4, 16, 40, 36), (1, 2, 9, 8)
RADII = (1, 3, 7, 15, 31)
WHAT = ("y", "dz", "dsigma")
SLOWEST = 3.0  # seconds beyond which a provider is left out at wider radii


def measure(setting: Setting) -> Iterator[list[Row]]:
    """``max`` is the largest error and ``rms`` its root mean square, divided by those of the exact
    result. bfloat16 on a CPU only if named: there oneDNN's gradient of 15 taps in channels_last,
    which a rival uses, never returns (torch 2.13)."""
    shape = setting.choose(SHAPE, SHAPE, TINY)
    dtypes = setting.dtypes_or(("float32", "float16"), "float32", "float16", "bfloat16")
    cases = list(product(dtypes, setting.choose(RADII, RADII, (3,))))
    too_slow: dict[tuple[str, torch.dtype], str] = {}
    for dtype, radius in tqdm(cases, desc="accuracy", unit="point"):
        point = comparison.Point(shape, radius, setting.device, dtype)
        for provider in (providers.OURS, *providers.RIVALS):
            if setting.device.type not in provider.devices:
                continue
            if note := too_slow.get((provider.name, dtype)):
                yield [point.row(provider, "accuracy", what="y", status="skipped", note=note)]
                continue
            start = time.monotonic()
            yield list(_errors(provider, point, setting))
            if (taken := time.monotonic() - start) > SLOWEST and not provider.compiles:
                too_slow[provider.name, dtype] = f"took {taken:.0f} s at K={point.kernel}"


def _errors(
    provider: providers.Provider, point: comparison.Point, setting: Setting
) -> Iterator[Row]:
    given = comparison.inputs(point, backward=provider.backward)
    try:
        found = _results(provider, point, given, setting)
    except comparison.Excluded as why:
        yield point.row(provider, "accuracy", what="y", status=why.status, note=why.note)
        return
    except Exception as error:  # of whatever kind: reported, and the others go on
        note = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        yield point.row(provider, "accuracy", what="y", status="failed", note=note)
        return
    z, sigma = (x.detach().double() for x in (given.z, given.sigma_for(provider)))
    exact = _exact(z, sigma, given.g.double(), point.radius)
    for what, x, wanted in zip(WHAT, found, exact, strict=False):
        distance = x.double() - wanted
        if provider.interior:
            inner = (..., slice(point.radius, -point.radius), slice(point.radius, -point.radius))
            distance, wanted = distance[inner], wanted[inner]
        if wanted.numel() == 0:
            continue
        largest = float(distance.abs().max() / wanted.abs().max())
        typical = float(distance.square().mean().sqrt() / wanted.square().mean().sqrt())
        row = {"what": what, **rounded(max=largest, rms=typical)}
        yield point.row(provider, "accuracy", status="ok", **row)


def _results(
    provider: providers.Provider,
    point: comparison.Point,
    given: comparison.Inputs,
    setting: Setting,
) -> list[Tensor]:
    y, _ = comparison.built(provider, point, given, setting.budget)
    if not provider.backward:
        return [y]
    return [y.detach(), *torch.autograd.grad(y, (given.z, given.sigma_for(provider)), given.g)]


def _exact(z: Tensor, sigma: Tensor, g: Tensor, radius: int) -> list[Tensor]:
    y = comparison.exact(z.requires_grad_(), sigma.requires_grad_(), radius)
    return [y.detach(), *torch.autograd.grad(y, (z, sigma), g)]


def table(rows: list[Row]) -> str:
    """The largest error of each provider, over all points of a dtype."""
    worst: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        if row["status"] == "ok":
            errors = worst.setdefault((row["dtype"], row["provider"]), {})
            errors[row["what"]] = max(errors.get(row["what"], 0.0), row["max"])
    lines = [
        [provider, dtype, *(f"{errors[what]:.1e}" if what in errors else "–" for what in WHAT)]
        for (dtype, provider), errors in worst.items()
    ]
    return f"{grid(['provider', 'dtype', *WHAT], lines)}\n\n{comparison.notes(rows)}".rstrip()


SWEEP = Sweep("accuracy", measure, table, __doc__)
main = SWEEP.main
