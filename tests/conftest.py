"""For every test: its random seed, which cases run by default, and no graph from a cache."""

from __future__ import annotations

import os
from collections import defaultdict

import pytest
import torch
from hypothesis import settings

from tests.sampling import covering

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
    left_out = {item for item in items if item.get_closest_marker("whole")}
    sweeps: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sampled") and item not in left_out:
            sweeps[item.nodeid.partition("[")[0]].append(item)
    for cases in sweeps.values():
        left_out |= set(cases) - set(covering(cases))
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test draws the same numbers alone, among others, and on each worker."""
    torch.manual_seed(0)
