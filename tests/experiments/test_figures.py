"""The figures of experiments show what their result files say, here of made outcomes."""

from importlib import import_module
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from bench.experiments import command, table
from bench.experiments.outcomes import Outcome

Rows = dict[tuple[str, str], Any]


def made(name: str, seeds: int = 3) -> tuple[dict[str, Any], Rows]:
    """A record as the command writes it, and its rows by condition and arm."""
    protocol, rng = command.load(name).protocol, np.random.default_rng(0)
    scores = {score for names in protocol.metrics.values() for score in names}
    done = {
        (condition, arm.name): [
            Outcome(
                {s: rng.random(20) for s in scores},
                {"sigma": rng.random((2, 4)).tolist(), "moved": 7 * number},
            )
            for _ in range(seeds)
        ]
        for condition in protocol.conditions
        for number, arm in enumerate(protocol.arms)
    }
    rows = table.rows(protocol, done, {})
    about = {"device": "some", "threads": 1, "torch": "2", "date": "2026-01-01"}
    record = {**about, "protocol": protocol.record(), "rows": rows}
    return record, {(row["condition"], row["arm"]): row for row in rows}


def draw(name: str, record: dict[str, Any]) -> Figure:
    figure: Figure = import_module(f"plots.{name}").draw(record)
    plt.close(figure)
    return figure


def bars(axis: Axes, which: int = -1) -> list[tuple[float, float, float]]:
    """Of every point with an interval: x, y, and half of the last bar's length."""
    found = []
    for container in axis.containers:
        assert isinstance(container, ErrorbarContainer)
        points, _, collections = container.lines
        segments = collections[which].get_segments()  # type: ignore[attr-defined]
        for x, y, segment in zip(*points.get_data(), segments, strict=True):
            found.append((x, y, float(np.ptp(segment, axis=0).max()) / 2))
    return found


def near(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(sorted(found), sorted(wanted), atol=1e-9)


def gain(row: Any, metric: str) -> tuple[float, float]:
    scores = row["metrics"][metric]
    return 100 * scores["difference"], 100 * scores["difference_half"]


def test_corruptions_show_every_arms_gain() -> None:
    record, rows = made("corruptions")
    figure = draw("corruptions", record)
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    for axis in figure.axes:
        metric = axis.get_title()
        shown = [(names[round(y)], x, half) for x, y, half in bars(axis)]
        wanted = [(arm, *gain(row, metric)) for (_, arm), row in rows.items() if arm != "plain"]
        assert len(shown) == len(wanted) == 2 * 9
        for (a, *numbers), (b, *expected) in zip(sorted(shown), sorted(wanted), strict=True):
            assert a == b
            np.testing.assert_allclose(numbers, expected)


def test_field_shows_akm_at_its_sigma_beside_the_curve() -> None:
    record, rows = made("field")
    axes = draw("field", record).axes
    for axis, condition in zip(axes[:2], record["protocol"]["conditions"], strict=True):
        wanted = []
        for arm in record["protocol"]["arms"]:
            row = rows[condition, arm["name"]]
            scores = row["metrics"]["accuracy"]
            y, half = 100 * scores["mean"], 100 * scores["difference_half"]
            if "sigma" in arm["options"]:
                wanted.append((arm["options"]["sigma"], y, half))
            elif arm["name"].startswith("AKM ×"):
                last = [sigma for learned in row["learned"] for sigma in learned["sigma"][1]]
                wanted.append((float(np.median(last)), y, half))
        assert len(wanted) == 9
        near(bars(axis), wanted)
    names = [text.get_text() for text in axes[2].get_yticklabels()]
    assert len(names) == 9
    for axis, condition in zip(axes[2:], record["protocol"]["conditions"], strict=True):
        wanted = [(gain(rows[condition, n], "accuracy"), i) for i, n in enumerate(names)]
        near(bars(axis), [(x, place, half) for (x, half), place in wanted])


def test_shift_shows_consistency_over_accuracy() -> None:
    record, rows = made("shift")
    for axis in draw("shift", record).axes:
        metric = "noise" if "noise" in axis.get_xlabel() else "clean"
        found = [row["metrics"] for (condition, _), row in rows.items()
                 if condition == axis.get_title()]  # fmt: skip
        wanted = [
            (
                100 * m[metric]["mean"],
                100 * m["consistency"]["mean"],
                100 * m["consistency"]["half"],
            )
            for m in found
        ]
        near(bars(axis), wanted)
        near(bars(axis, 0), [(x, y, 100 * m[metric]["half"])
                             for (x, y, _), m in zip(wanted, found, strict=True)])  # fmt: skip


def test_few_shows_gains_over_the_number_of_images() -> None:
    record, rows = made("few")
    for axis in draw("few", record).axes:
        wanted = [
            (int(condition.split()[0]), *gain(row, axis.get_title()))
            for (condition, arm), row in rows.items()
            if arm != "plain"
        ]
        # those of a number of images lie a little beside it
        found = [(min((10, 20, 50, 200), key=lambda n: abs(n - x)), y, h) for x, y, h in bars(axis)]
        near(found, wanted)


def test_adapt_shows_gains_over_the_numbers_that_move() -> None:
    record, rows = made("adapt")
    for axis in draw("adapt", record).axes:
        wanted = [
            (row["learned"][0]["moved"], *gain(row, axis.get_title()))
            for row in rows.values()
            if row["learned"][0]["moved"]
        ]
        near(bars(axis), wanted)


@pytest.mark.parametrize("name", command.EXPERIMENTS)
def test_a_single_seed_is_drawn_without_intervals(name: str) -> None:
    record, _ = made(name, seeds=1)
    assert "1 seeds" in draw(name, record).get_suptitle()
