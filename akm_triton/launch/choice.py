"""The plan for a problem: the cache's, else the shipped table's, else the rule's."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from akm_triton.launch import store
from akm_triton.launch.plan import Plan, from_json
from akm_triton.launch.problem import Device, Problem
from akm_triton.launch.rule import rule


@dataclass(frozen=True)
class Choice:
    plan: Plan
    origin: str
    """"cache", "table" or "rule"."""


_tuned: dict[Device, store.Entries] = {}
observers: list[Callable[[Problem, Device, Any, bool], object]] = []
"""Called with each problem before it is launched, its device as torch names it, and whether a graph
is being traced. The tuner listens here; nothing below it knows of it."""
_generation = 0


def generation() -> int:
    """Changes when a choice may: what keeps choices of its own keeps them with this number."""
    return _generation


@functools.lru_cache(maxsize=4096)
def choose(problem: Problem, device: Device) -> Choice:
    """Look up the problem, never measure it."""
    for origin, entries in (("cache", cached(device)), ("table", _table(device))):
        entry = entries.get(problem.key)
        if entry is None:
            continue
        try:
            return Choice(from_json(entry.get("plan"), problem), origin)
        except ValueError as error:
            warnings.warn(
                f"the tuning {origin}'s entry {problem.key!r} is passed over: {error}",
                stacklevel=2,
            )
    return Choice(rule(problem, device), "rule")


def cached(device: Device) -> store.Entries:
    """What was tuned for this device, by this process or an earlier one."""
    if device not in _tuned:
        _tuned[device] = store.read(device)
    return _tuned[device]


@functools.cache
def _table(device: Device) -> store.Entries:
    return store.table(device)


def keep(device: Device, entries: dict[str, dict[str, Any]]) -> None:
    """Use these entries from now on, here and in later processes."""
    cached(device).update(entries)
    forget()
    store.add(device, entries)


def reload(device: Device) -> store.Entries:
    """Read the cache again, for what other processes have added."""
    mine = _tuned.pop(device, {})
    _tuned[device] = {**mine, **store.read(device)}
    forget()
    return _tuned[device]


def forget(everything: bool = False) -> None:
    """Look up anew at the next call; with ``everything`` read the cache anew too."""
    global _generation
    _generation += 1
    choose.cache_clear()
    if everything:
        _tuned.clear()
        _table.cache_clear()


@contextmanager
def recorded() -> Iterator[dict[Problem, Device]]:
    """The problems that are launched within."""
    record: dict[Problem, Device] = {}

    def observe(problem: Problem, device: Device, where: Any, tracing: bool) -> None:
        record[problem] = device

    observers.append(observe)
    try:
        yield record
    finally:
        observers.remove(observe)
