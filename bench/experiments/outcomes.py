"""The outcome of one run, and its file. The file holds no time and no date: the same run writes the
same bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench import results

Array = np.ndarray[Any, Any]
MOST = 9  # trials that a digit can count


@dataclass(frozen=True)
class Outcome:
    """Scores of each test image, from 0 to 1, by name; and what was learned or chosen.

    Every run of an experiment has the same test images in the same order.
    """

    scores: dict[str, Array]
    learned: dict[str, Any] = field(default_factory=dict)

    def metric(self, names: tuple[str, ...]) -> Array:
        """Of each test image, the mean of these scores."""
        return np.mean([self.scores[name] for name in names], axis=0)


def share(right: Array) -> Array:
    """Of (trials, images) true or false, the share of each image's trials that were true."""
    return right.mean(0)


def write(path: Path, outcome: Outcome, about: dict[str, Any]) -> None:
    scores = {name: _packed(values) for name, values in outcome.scores.items()}
    results.write_json(path, {**about, "learned": outcome.learned, "scores": scores})


def read(path: Path, about: dict[str, Any]) -> Outcome | None:
    """The outcome in the file; None if there is no file.

    Raises:
        ValueError: the file is damaged, or of another protocol or other settings.
    """
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text("utf-8"))
        scores = {name: _unpacked(packed) for name, packed in record["scores"].items()}
        outcome = Outcome(scores, record["learned"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error!r}") from error
    for key in ("protocol", "settings", "device", "torch"):
        if record.get(key) != about[key]:
            raise ValueError(
                f"{path} is of another {key}: {record.get(key)}, not {about[key]}; give --out "
                "another folder, or delete that file"
            )
    return outcome


def _packed(values: Array) -> dict[str, Any]:
    """A digit a test image, where each score is so many of at most 9 trials; else numbers."""
    for trials in range(1, MOST + 1):
        counts = np.asarray(values, dtype=np.float64) * trials
        if np.abs(counts - counts.round()).max(initial=0) < 1e-6:
            return {"of": trials, "counts": "".join(str(int(n)) for n in counts.round())}
    return {"values": [round(float(value), 6) for value in values]}


def _unpacked(packed: dict[str, Any]) -> Array:
    if "counts" in packed:
        return np.array([int(digit) for digit in packed["counts"]]) / packed["of"]
    return np.array(packed["values"], dtype=np.float64)
