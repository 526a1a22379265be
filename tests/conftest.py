"""For every test: its random seed, which cases run by default, and no graph from a cache."""

from __future__ import annotations

import os
from collections import Counter, defaultdict

import pytest
import torch
from hypothesis import settings

# Compiled graphs come from the code as it is, from no cache and no pool.
os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"

# Examples of Hypothesis: the same in each default run, new ones with --all; none is timed.
settings.register_profile("sample", derandomize=True, deadline=None)
settings.register_profile("all", deadline=None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="every case of every sweep; takes long")


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("all" if config.getoption("--all") else "sample")
    config.addinivalue_line(
        "markers",
        "sampled(*pairs): without --all, only as many cases as show each value of each parameter, "
        "and each combination of values of the parameters that are named together",
    )
    config.addinivalue_line("markers", "whole: only with --all")


@pytest.hookimpl(tryfirst=True)  # before -k, so that a case is in the sample or not, whatever -k is
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--all"):
        return
    sweeps: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sampled"):
            sweeps[item.nodeid.partition("[")[0]].append(item)
    left_out = {item for cases in sweeps.values() for item in set(cases) - set(covering(cases))}
    left_out |= {item for item in items if item.get_closest_marker("whole")}
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


def covering(cases: list[pytest.Item]) -> list[pytest.Item]:
    """Few of the cases, in which every value of every parameter occurs. The same at each call: next
    comes the case of most new values, among those the one whose others have occurred least."""
    values = {case: _values(case) for case in cases}
    left = set[str]().union(*values.values())
    occurred: Counter[str] = Counter()

    def worth(case: pytest.Item) -> tuple[int, int]:
        return len(values[case] & left), -sum(occurred[value] for value in values[case])

    found = []
    while left:
        best = max(cases, key=worth)  # the first of equals
        found.append(best)
        left -= values[best]
        occurred.update(values[best])
    return found


def _values(case: pytest.Item) -> set[str]:
    given: dict[str, object] = case.callspec.params  # type: ignore[attr-defined]
    (mark,) = case.iter_markers("sampled")
    together = [(name,) for name in given] + list(mark.args)
    return {repr([(name, given[name]) for name in names]) for names in together}


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test draws the same numbers alone, among others, and on each worker."""
    torch.manual_seed(0)
