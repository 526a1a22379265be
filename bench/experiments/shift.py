"""A stride, and images moved by a few pixels: accuracy against steadiness."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.experiments import classification, data, training
from bench.experiments.classification import CONVS, SHALLOW
from bench.experiments.corrupt import GROUPS
from bench.experiments.outcomes import Array, Outcome, share
from bench.experiments.protocol import Arm, Comparison, Experiment, Place, Protocol, Run

SHIFTS = ((1, 0), (-1, 0), (0, 1), (0, -1), (2, 2), (-2, -2), (3, -3), (-3, 3))
FARTHEST = 3
PROTOCOL = Protocol(
    name="shift",
    hypothesis=(
        "A blur of learned σ before a stride makes predictions steadier when the image moves by "
        "1 to 3 pixels, costs no accuracy, and is better than a blur after the stride."
    ),
    refuted=(
        "the consistency of AKM before − stride or − AKM after is not above 0, or its accuracy is "
        "below 0. Max-pooling and BlurPool are there to say whether it is worth having"
    ),
    primary=(
        Comparison("AKM before", "stride", "consistency", SHALLOW),
        Comparison("AKM before", "stride", "clean", SHALLOW),
        Comparison("AKM before", "AKM after", "consistency", SHALLOW),
        Comparison("AKM before", "max-pool", "consistency", SHALLOW),
        Comparison("AKM before", "max-pool", "clean", SHALLOW),
        Comparison("AKM before", "BlurPool", "noise", SHALLOW),
    ),
    baseline="stride",
    metrics={"clean": ("clean",), "consistency": ("consistency",), "noise": GROUPS["noise"]},
    conditions=tuple(CONVS),
    arms=(
        Arm("stride", "convolutions of stride 2 in the place of pools", {"down": "stride"}),
        Arm("AKM after", "AKMConv2d, blur after its stride", {"down": "akm after"}),
        Arm("AKM before", "AKMConv2d, decimate='before'", {"down": "akm before"}),
        Arm("learned blur", "BlurPool2d after the ReLU, no gate", {"down": "learned blur"}),
        Arm("BlurPool", "taps ¼ ½ ¼ after the ReLU (Zhang 2019)", {"down": "blur"}),
        Arm("max-pool", "2×2", {"down": "max"}),
        Arm("max-pool, blur", "2×2 of stride 1, then ¼ ½ ¼ (Zhang 2019)", {"down": "max blur"}),
    ),
    data=(
        "Fashion-MNIST by default: 4,000 training images drawn by the seed; 2,000 of the published "
        "test images, the same for all; each as it is, in 8 places up to 3 pixels away (edges "
        "repeated), and with 3 kinds of noise at 5 severities"
    ),
    selection="nothing is chosen",
    seeds=5,
    settings=classification.SETTINGS,
    quick=classification.QUICK,
)  # fmt: skip


def moved(x: Tensor, down: int, right: int) -> Tensor:
    """The images (n, C, H, W) moved by at most ``FARTHEST`` pixels; edges are repeated."""
    height, width = x.shape[2:]
    wide = F.pad(x.float(), (FARTHEST,) * 4, mode="replicate").to(x.dtype)
    top, left = FARTHEST - down, FARTHEST - right
    return wide[..., top : top + height, left : left + width]


def consistency(model: nn.Module, x: Tensor) -> Array:
    """Of each image, the share of ``SHIFTS`` that leave the prediction as it was."""
    still = training.predictions(model, x)
    return share(np.stack([training.predictions(model, moved(x, *s)) == still for s in SHIFTS]))


def model(place: Place, run: Run) -> tuple[nn.Module, torch.Tensor]:
    net = classification.network(place, run, convs=CONVS[run.condition])
    return net, classification.example(place)


def run(place: Place, run: Run, earlier: Outcome | None) -> Outcome:
    net, _ = model(place, run)
    classification.fit(place, run, net, place.settings["train"])
    x, _ = data.test(place, place.settings["test"])
    scores = classification.clean(place, net)
    scores |= classification.corrupted(place, net, GROUPS["noise"])
    scores["consistency"] = consistency(net, x.to(place.device))
    return Outcome(scores, {"sigma": training.sigmas(net)})


EXPERIMENT = Experiment(PROTOCOL, run, model, data.DATASETS)
