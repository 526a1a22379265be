"""Measure the plans of a problem and keep the best that computes the right thing."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from akm_triton.backend import triton as triton_backend
from akm_triton.launch import choice
from akm_triton.launch.device import Device, describe
from akm_triton.launch.plan import Plan, to_json
from akm_triton.launch.problem import Problem
from akm_triton.launch.rule import rule
from akm_triton.tracing import outside_transforms
from akm_triton.tuning import compiler, space
from akm_triton.tuning.clock import Clock, clock_of
from akm_triton.tuning.workload import TOLERANCE, Workload

MAX_CANDIDATES = 24
"""Candidates tried for a problem, those of the least effort."""
FINALISTS = 4
MUST_BEAT = 0.99
"""A candidate wins only if it takes less than this share of the time of the rule's plan."""


@dataclass(frozen=True)
class Trial:
    plan: Plan
    seconds: float | None
    reason: str | None = None
    """Why it was not measured."""


@dataclass(frozen=True)
class Tuned:
    problem: Problem
    plan: Plan
    seconds: float
    rule_seconds: float
    clock: str
    trials: list[Trial] = field(default_factory=list, repr=False)
    pruned: list[space.Pruned] = field(default_factory=list, repr=False)

    def entry(self) -> dict[str, Any]:
        """What the cache holds of it."""
        return {
            "plan": to_json(self.plan),
            "seconds": self.seconds,
            "rule_seconds": self.rule_seconds,
            "clock": self.clock,
        }


def tune_problem(
    problem: Problem, torch_device: torch.device, *,
    seconds: float, clock: Clock | None = None, most: int = MAX_CANDIDATES,
) -> Tuned:  # fmt: skip
    """The fastest plan found in about so many seconds; the rule's is always tried, and first.

    Raises:
        RuntimeError: the rule's own plan fails, or computes something else.
    """
    with outside_transforms(), torch.no_grad(), torch.autocast(torch_device.type, enabled=False):
        return _tune_problem(problem, torch_device, seconds, clock, most)


def _tune_problem(
    problem: Problem, torch_device: torch.device, seconds: float, clock: Clock | None, most: int
) -> Tuned:
    stop = time.monotonic() + seconds
    device = describe(torch_device)
    clock = clock or clock_of(torch_device)
    work = Workload(problem, torch_device, clock.copies(problem.bytes))
    base = rule(problem, device)
    first = _tried(base, work, clock)
    if first.seconds is None:
        raise RuntimeError(f"the rule's plan for {problem.key} fails: {first.reason}")
    trials = {base: first}

    def try_all(plans: list[Plan]) -> None:
        fresh = [plan for plan in plans if plan not in trials]
        batch = max(1, os.cpu_count() or 1)
        for start in range(0, len(fresh), batch):
            if time.monotonic() > stop:
                return
            some = fresh[start : start + batch]
            for plan, reason in zip(some, _unfit(some, work, device), strict=True):
                if time.monotonic() > stop:
                    return
                trials[plan] = Trial(plan, None, reason) if reason else _tried(plan, work, clock)

    proposed, pruned = space.candidates(problem, device)
    try_all(proposed[:most])
    for plan in _best(trials)[:2]:
        try_all(list(space.variations(plan, problem)))
    final = list(dict.fromkeys([base, *_best(trials)[:FINALISTS]]))
    times = dict(zip(final, clock.seconds(final, work, rounds=31), strict=True))
    best = min(final, key=times.__getitem__)
    if times[best] > MUST_BEAT * times[base]:
        best = base
    return Tuned(problem, best, times[best], times[base], clock.name, list(trials.values()), pruned)


def _best(trials: Mapping[Plan, Trial]) -> list[Plan]:
    measured = {p: t.seconds for p, t in trials.items() if t.seconds is not None}
    return sorted(measured, key=measured.__getitem__)


def _tried(plan: Plan, work: Workload, clock: Clock) -> Trial:
    """Run it, compare, and time it; whatever goes wrong is its reason."""
    try:
        error = work.error(work.run(plan))
        bound = TOLERANCE[work.problem.itemsize]
        if not error <= bound:
            return Trial(plan, None, f"wrong: {error:.1e} of the largest value, over {bound:.0e}")
        return Trial(plan, clock.seconds([plan], work, rounds=7)[0])
    except Exception as error:  # compilers and drivers raise all kinds
        return Trial(plan, None, f"{type(error).__name__}: {str(error).splitlines()[:1]}")


def _unfit(plans: list[Plan], work: Workload, device: Device) -> list[str | None]:
    """Why these are not worth a run, by their machine code; compiled side by side."""
    if triton_backend.INTERPRET:
        return [None] * len(plans)
    launches = [work.launches(plan) for plan in plans]
    with ThreadPoolExecutor(len(plans)) as pool:
        return list(pool.map(lambda each: _flaw(each, device), launches))


def _flaw(launches: list[compiler.KernelCall], device: Device) -> str | None:
    for launch in launches:
        try:
            facts = compiler.inspect(compiler.compile_call(launch, device.capability))
        except Exception as error:
            return f"does not compile: {str(error).splitlines()[:1]}"
        if facts["spills"]:
            return f"{launch.name} spills: {facts['spills']} instructions"
        if facts["shared_bytes"] > device.shared_bytes:
            return f"{launch.name} needs {facts['shared_bytes']} bytes of shared memory"
    return None


def tune(
    problems: Iterable[Problem], torch_device: torch.device, *,
    seconds: float, clock: Clock | None = None, again: bool = False,
    report: Callable[[Tuned], object] = lambda _: None,
) -> list[Tuned]:  # fmt: skip
    """Tune what the cache does not hold, or all of it ``again``, and keep each result at once.

    Under torch.distributed the first process of a machine tunes and the others wait for its file.
    What fails keeps the rule's plan, with a warning.
    """
    device = describe(torch_device)
    wanted = {p.key: p for p in problems if again or choice.choose(p, device).origin != "cache"}
    if not leads():
        _wait(list(wanted), device, 60 + 2 * seconds)
        return []
    results = []
    for problem in wanted.values():
        try:
            tuned = tune_problem(problem, torch_device, seconds=seconds, clock=clock)
        except Exception as error:  # compilers and drivers raise all kinds
            reason = f"{type(error).__name__}: {error}"
            warnings.warn(f"{problem.key} keeps the rule's plan: {reason}", stacklevel=2)
            continue
        choice.commit(device, {problem.key: tuned.entry()})
        results.append(tuned)
        report(tuned)
    return results


def leads() -> bool:
    """Whether this is the first process of its machine."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return True
    rank = os.environ.get("LOCAL_RANK")
    return (int(rank) if rank else torch.distributed.get_rank()) == 0


def _wait(keys: list[str], device: Device, seconds: float) -> None:
    """Until another process has committed all of them, anew where there are some already; or none
    of them for so many seconds."""
    before = {key: choice.cached(device).get(key) for key in keys}
    missing, stop = keys, time.monotonic() + seconds
    while missing:
        found = choice.reload(device)
        still = [key for key in missing if found.get(key) == before[key]]
        if len(still) < len(missing):
            stop = time.monotonic() + seconds
        elif time.monotonic() > stop:
            warnings.warn(
                f"{len(missing)} problems were not tuned by the first process in {seconds:.0f} s, "
                "or not in the cache that this process reads; the rule serves here",
                stacklevel=2,
            )
            return
        missing = still
        time.sleep(0.1)
