"""The outcomes of an experiment as rows of a result file, and as a table for people."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bench.experiments.cost import Cost
from bench.experiments.outcomes import Outcome
from bench.experiments.protocol import Protocol
from bench.experiments.statistics import interval
from bench.sweep import Row, grid

Done = dict[tuple[str, str], list[Outcome]]


def rows(protocol: Protocol, done: Done, costs: dict[tuple[str, str], Cost]) -> list[Row]:
    """One for each condition and arm. Scores are from 0 to 1; ``difference`` is from the baseline,
    ``half`` half the width of a 95 % interval, null with a single seed."""
    return [
        {
            "condition": condition,
            "arm": arm.name,
            "seeds": len(done[condition, arm.name]),
            "metrics": {
                metric: _scores(done, condition, arm.name, protocol.baseline, names)
                for metric, names in protocol.metrics.items()
            },
            "learned": [outcome.learned for outcome in done[condition, arm.name]],
            **costs.get((condition, arm.name), {}),
        }
        for condition in protocol.conditions
        for arm in protocol.arms
    ]


def _scores(done: Done, condition: str, arm: str, baseline: str, names: tuple[str, ...]) -> Row:
    own, other = (_matrix(done[condition, name], names) for name in (arm, baseline))
    score, gain = interval(own), interval(own - other)
    return {
        "mean": _rounded(score.mean),
        "half": _rounded(score.half),
        "by_seed": [_rounded(float(x)) for x in own.mean(1)],
        "difference": _rounded(gain.mean),
        "difference_half": _rounded(gain.half),
        "difference_half_seeds": _rounded(gain.seeds),
    }


def primary(protocol: Protocol, done: Done) -> list[Row]:
    """What the primary comparisons came to."""
    found = []
    for comparison in protocol.primary:
        names = protocol.metrics[comparison.metric]
        own, other = (
            _matrix(done[comparison.condition, name], names)
            for name in (comparison.arm, comparison.against)
        )
        gain = interval(own - other)
        found.append(
            {
                **vars(comparison),
                "difference": _rounded(gain.mean),
                "half": _rounded(gain.half),
                "half_seeds": _rounded(gain.seeds),
                "verdict": gain.verdict,
            }
        )
    return found


def _matrix(found: list[Outcome], names: tuple[str, ...]) -> np.ndarray[Any, Any]:
    return np.stack([outcome.metric(names) for outcome in found])


def _rounded(x: float) -> float | None:
    return None if math.isnan(x) else round(x, 6)


def text(record: dict[str, Any]) -> str:
    """A table for each condition, then the primary comparisons."""
    protocol = record["protocol"]
    metrics = list(protocol["metrics"])
    header = ["arm", *metrics, "parameters", "kFLOP", "ms step", "ms forward", "σ (px)"]
    parts = []
    for condition in protocol["conditions"]:
        own = [row for row in record["rows"] if row["condition"] == condition]
        lines = [_line(row, metrics, protocol["baseline"]) for row in own]
        parts.append(f"{condition}, {own[0]['seeds']} seeds\n{grid(header, lines)}")
    parts.append(
        f"%, and in brackets the difference from {protocol['baseline']} ± half of its 95 % "
        "interval over seeds and test images,\nin pairs, not adjusted for the number of "
        "comparisons. Cost of one image, forward but for the step."
    )
    parts.append("\n".join(_verdict(found) for found in record["primary"]))
    return "\n\n".join(parts)


def _line(row: Row, metrics: list[str], baseline: str) -> list[str]:
    scores = [_cell(row["metrics"][metric], row["arm"] == baseline) for metric in metrics]
    costs = ["–"] * 4
    if "parameters" in row:
        costs = [f"{row['parameters']:,}", f"{row['flops'] / 1e3:,.0f}"]
        costs += [f"{row[key]:.3g}" for key in ("step_ms", "forward_ms")]
    return [row["arm"], *scores, *costs, _sigma(row)]


def _cell(score: Row, alone: bool) -> str:
    mean = f"{100 * score['mean']:.1f}"
    if alone:
        return mean
    half = score["difference_half"]
    about = "?" if half is None else f"{100 * half:.1f}"
    return f"{mean} ({100 * score['difference']:+.1f} ± {about})"


def _sigma(row: Row) -> str:
    """Medians of the layers, over channels and seeds."""
    found = [learned["sigma"] for learned in row["learned"] if learned.get("sigma")]
    layers = zip(*found, strict=True)  # of each layer, the channels of every seed
    return " ".join(f"{np.median(np.concatenate(layer)):.2f}" for layer in layers) or "–"


def _verdict(found: Row) -> str:
    half = math.nan if found["half"] is None else found["half"]
    return (
        f"PRIMARY {found['metric']}, {found['arm']} − {found['against']}, {found['condition']}: "
        f"{100 * found['difference']:+.2f} ± {100 * half:.2f} points: {found['verdict']}"
    )
