"""The plan for a problem: from the user's cache, else the plans shipped for the device, else the
rule."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from akm_triton import cache
from akm_triton.launch import store
from akm_triton.launch.device import Device
from akm_triton.launch.plan import Grid, Plan, from_json, grids
from akm_triton.launch.problem import Problem
from akm_triton.launch.rule import rule


class Choice(NamedTuple):
    plan: Plan
    grids: tuple[Grid, ...]
    """The plan's launches, ready to run."""
    origin: str
    """"cache", "shipped" or "rule"."""


_tuned: dict[Device, store.Entries] = {}
_stamps: dict[Device, store.Stamp] = {}
"""Of the caches when they were read."""

prepared: dict[Hashable, Any] = {}
"""What the backend has made of choices, for it to find again; forgotten when one may change."""

Observer = Callable[[Problem, Device, torch.device, bool], object]
observers: list[Observer] = []
"""Called before an op is launched, with its problem, its device as described here and as PyTorch
names it, and whether a graph is being traced. The tuner listens here; the backend does not import
it."""


@functools.lru_cache(maxsize=4096)
def choose(problem: Problem, device: Device) -> Choice:
    """Look the problem up; nothing is measured."""
    for origin, entries in (("cache", cached(device)), ("shipped", _shipped(device))):
        entry = entries.get(problem.key)
        if entry is None:
            continue
        try:
            plan = from_json(entry.get("plan"), problem)
            return Choice(plan, grids(plan, problem, device), origin)
        except ValueError as error:
            cache.warn_once(f"the {origin} plan of {problem.key!r} is passed over: {error}")
    plan = rule(problem, device)
    return Choice(plan, grids(plan, problem, device), "rule")


def _choose_again() -> None:
    choose.cache_clear()
    prepared.clear()


def cached(device: Device) -> store.Entries:
    """What was tuned for this device, by this process or an earlier one."""
    if device not in _tuned:
        reload(device)
    return _tuned[device]


_shipped = functools.cache(store.shipped)


def commit(device: Device, entries: dict[str, dict[str, Any]]) -> None:
    """Use these entries from now on, here and in later processes."""
    cached(device).update(entries)
    _choose_again()
    store.add(device, entries)


def reload(device: Device) -> store.Entries:
    """Read the cache again where another process has added to it."""
    stamp = store.stamp(device)  # before reading: what comes after it is read the next time
    if device not in _tuned or stamp != _stamps[device]:
        _stamps[device] = stamp
        _tuned[device] = {**_tuned.get(device, {}), **store.read(device)}
        _choose_again()
    return _tuned[device]


def forget() -> None:
    """Read every file again at the next call, and warn again."""
    _tuned.clear()
    _stamps.clear()
    _shipped.cache_clear()
    _choose_again()
    cache.warn_once.cache_clear()


@contextmanager
def record() -> Iterator[dict[Problem, torch.device]]:
    """The problems that are launched within, and where."""
    launched: dict[Problem, torch.device] = {}

    def observe(
        problem: Problem, device: Device, torch_device: torch.device, tracing: bool
    ) -> None:
        launched[problem] = torch_device

    observers.append(observe)
    try:
        yield launched
    finally:
        observers.remove(observe)
