"""Which cases of a large sweep run by default."""

from __future__ import annotations

from collections import Counter

import pytest


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
