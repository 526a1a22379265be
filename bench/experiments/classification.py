"""What experiments on labelled images share: the network of an arm, its training, its scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from bench.experiments import data, training
from bench.experiments.corrupt import GROUPS, KINDS, SEVERITIES
from bench.experiments.networks import classifier
from bench.experiments.outcomes import Array, share
from bench.experiments.protocol import Place, Run

CORRUPTED = {group: kinds for group, kinds in GROUPS.items()} | {"all kinds": tuple(KINDS)}
"""Metrics: the scores of ``corrupted`` that each is the mean of."""


SETTINGS = {
    "train": 4000, "test": 2000, "steps": 500, "batch": 64, "rate": 4e-3, "modulation_rate": 5.0
}  # fmt: skip
QUICK = {"train": 500, "test": 100, "steps": 60}
SHALLOW, DEEP = "shallow", "deep"
OF_TRAINING = ("noise", "curriculum", "adapt", "entropy")
"""Options of arms that the network is not built by."""
CONVS = {SHALLOW: 1, DEEP: 2}
"""Convolutions in each of three stages."""


def network(place: Place, run: Run, **more: Any) -> nn.Module:
    """The arm's network, with ``more`` options; an arm's own options of training are left out."""
    channels = data.test(place, 1)[0].shape[1]
    options = dict(run.arm.options) | more
    for name in OF_TRAINING:
        options.pop(name, None)
    return classifier(channels, data.classes(place), **options).to(place.device)


def fit(place: Place, run: Run, model: nn.Module, count: int) -> None:
    """Train on ``count`` images that the seed draws."""
    settings, options = place.settings, run.arm.options
    x, y = (part.to(place.device) for part in data.training(place, count, run.seed))
    training.train(
        model, x, y, seed=run.seed,
        **{key: settings[key] for key in ("steps", "batch", "rate", "modulation_rate")},
        augment=training.noise(options["noise"]) if "noise" in options else None,
        curriculum=options.get("curriculum", 0.0),
    )  # fmt: skip


def clean(place: Place, model: nn.Module) -> dict[str, Array]:
    x, y = data.test(place, place.settings["test"])
    right = training.predictions(model, x.to(place.device)) == y.numpy()
    return {"clean": right.astype(np.float64)}


def corrupted(
    place: Place,
    model: nn.Module,
    kinds: Sequence[str] = tuple(KINDS),
    severities: Sequence[int] = SEVERITIES,
) -> dict[str, Array]:
    """Of each kind, the share of severities at which each image comes out right."""
    count = place.settings["test"]
    y = data.test(place, count)[1].numpy()
    scores = {}
    for kind in kinds:
        found = [
            training.predictions(model, data.corrupted(place, count, kind, s).to(place.device))
            for s in severities
        ]
        scores[kind] = share(np.stack(found) == y)
    return scores


def example(place: Place) -> Tensor:
    """A batch to measure costs with."""
    x, _ = data.test(place, place.settings["batch"])
    return training.as_input(x).to(place.device)
