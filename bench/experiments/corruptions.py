"""Corrupted images: AKM against the simplest things that could do as well."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bench.experiments import classification, data, training
from bench.experiments.classification import CONVS, DEEP, SHALLOW
from bench.experiments.outcomes import Outcome
from bench.experiments.protocol import Arm, Comparison, Experiment, Place, Protocol, Run

PROTOCOL = Protocol(
    name="corruptions",
    hypothesis=(
        "Trained on clean images, a network with AKM is more accurate on corrupted ones than the "
        "same network without, and than the same with a blur that is not learned."
    ),
    refuted="an interval of the primary differences is not above 0",
    primary=(
        Comparison("AKM", "plain", "all kinds", SHALLOW),
        Comparison("AKM", "input blur", "all kinds", SHALLOW),
        Comparison("AKM", "5×5", "all kinds", SHALLOW),
        Comparison("AKM", "plain", "all kinds", DEEP),
    ),
    baseline="plain",
    metrics={"clean": ("clean",), **classification.CORRUPTED},
    conditions=tuple(CONVS),
    arms=(
        Arm("plain", "3×3 convolutions, BatchNorm, ReLU, max-pooling"),
        Arm("AKM", "learned blur and gate after each norm", {"modulation": "learned"}),
        Arm(
            "AKM, σ fixed", "σ set to what AKM learned with this seed, gate learned",
            {"modulation": "fixed"}, needs="AKM",
        ),
        Arm("BlurPool", "a fixed blur before a pool's stride (Zhang 2019)", {"down": "max blur"}),
        Arm("input blur", "images blurred by σ = 0.65 px", {"input_sigma": 0.65}),
        Arm("5×5", "5×5 convolutions in all stages but the last", {"kernel": 5}),
        Arm(
            "curriculum", "maps blurred by σ = 1 px at first, not at the end (Sinha et al. 2020)",
            {"modulation": "scheduled", "curriculum": 1.0},
        ),
        Arm("dropout", "a tenth of the channels dropped after each stage", {"dropout": 0.1}),
        Arm("noise", "half of the training images with Gaussian noise up to 0.2", {"noise": 0.2}),
        Arm(
            "AKM + noise", "both of AKM and noise", {"modulation": "learned", "noise": 0.2},
        ),
    ),
    data=(
        "Fashion-MNIST by default: 4,000 training images drawn by the seed; 2,000 of the published "
        "test images, the same for all, clean and with 12 kinds of corruption at 5 severities"
    ),
    selection="nothing is chosen; σ = 0.65 px and noise up to 0.2 were set beforehand",
    seeds=5,
    settings=classification.SETTINGS,
    quick=classification.QUICK,
)  # fmt: skip


def model(place: Place, run: Run, earlier: Outcome | None = None) -> tuple[nn.Module, torch.Tensor]:
    more: dict[str, Any] = {"convs": CONVS[run.condition]}
    if run.arm.options.get("modulation") == "fixed":
        # for the cost alone, any σ
        more["sigma"] = earlier.learned["sigma"] if earlier else [0.5] * 6
    return classification.network(place, run, **more), classification.example(place)


def run(place: Place, run: Run, earlier: Outcome | None) -> Outcome:
    net, _ = model(place, run, earlier)
    classification.fit(place, run, net, place.settings["train"])
    scores = classification.clean(place, net) | classification.corrupted(place, net)
    return Outcome(scores, {"sigma": training.sigmas(net)})


EXPERIMENT = Experiment(PROTOCOL, run, model, data.DATASETS)
