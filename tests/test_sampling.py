"""The cases that run by default."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.sampling import covering


class Case:
    """As much of a pytest item as is looked at."""

    def __init__(self, mark: Any, *given: int) -> None:
        self.callspec = self
        self.params = dict(zip("abc", given, strict=True))
        self.mark = mark.mark

    def iter_markers(self, name: str) -> list[Any]:
        return [self.mark]


def sample(mark: Any) -> list[tuple[int, ...]]:
    cases: list[Any] = [Case(mark, *x) for x in itertools.product(range(2), range(5), range(3))]
    found = [tuple(case.params.values()) for case in covering(cases)]
    assert found == [tuple(case.params.values()) for case in covering(cases)]
    return found


def test_each_value_occurs() -> None:
    found = sample(pytest.mark.sampled)
    assert [set(values) for values in zip(*found, strict=True)] == [{*range(n)} for n in (2, 5, 3)]
    assert len(found) == 5  # no fewer can show five values


def test_parameters_named_together_are_combined() -> None:
    found = sample(pytest.mark.sampled(("b", "c")))
    assert {x[1:] for x in found} == set(itertools.product(range(5), range(3)))
    assert {x[0] for x in found} == {0, 1}
    assert len(found) == 15
