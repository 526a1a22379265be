"""Few images of each class: the paper's "limited training samples"."""

from __future__ import annotations

import torch
from torch import nn

from bench.experiments import classification, data, training
from bench.experiments.outcomes import Outcome
from bench.experiments.protocol import Arm, Comparison, Experiment, Place, Protocol, Run

EACH = {f"{count} a class": count for count in (10, 20, 50, 200)}
SEVERITY = 3
PROTOCOL = Protocol(
    name="few",
    hypothesis=(
        "With few images of each class a network with AKM is more accurate than the same network "
        "without, the more so the fewer they are, and than the same with a blur not learned."
    ),
    refuted="the difference of AKM − plain or AKM − input blur at 10 a class is not above 0",
    primary=(
        Comparison("AKM", "plain", "clean", "10 a class"),
        Comparison("AKM", "input blur", "clean", "10 a class"),
        Comparison("AKM", "plain", "clean", "200 a class"),
    ),
    baseline="plain",
    metrics={"clean": ("clean",), "all kinds": classification.CORRUPTED["all kinds"]},
    conditions=tuple(EACH),
    arms=(
        Arm("plain", "one 3×3 convolution in each of three stages, max-pooling"),
        Arm("AKM", "learned blur and gate after each norm", {"modulation": "learned"}),
        Arm("input blur", "images blurred by σ = 0.65 px", {"input_sigma": 0.65}),
        Arm("5×5", "5×5 convolutions in all stages but the last", {"kernel": 5}),
    ),
    data=(
        "Fashion-MNIST by default: the training images drawn by the seed; 2,000 of the published "
        "test images, the same for all, clean and with 12 kinds of corruption at severity 3"
    ),
    selection="nothing is chosen; σ = 0.65 px was set beforehand",
    seeds=5,
    settings={key: value for key, value in classification.SETTINGS.items() if key != "train"},
    quick={"test": 100, "steps": 60},
)


def model(place: Place, run: Run) -> tuple[nn.Module, torch.Tensor]:
    return classification.network(place, run), classification.example(place)


def run(place: Place, run: Run, earlier: Outcome | None) -> Outcome:
    net, _ = model(place, run)
    classification.fit(place, run, net, EACH[run.condition] * data.classes(place))
    scores = classification.clean(place, net)
    scores |= classification.corrupted(place, net, severities=(SEVERITY,))
    return Outcome(scores, {"sigma": training.sigmas(net)})


EXPERIMENT = Experiment(PROTOCOL, run, model, data.DATASETS)
