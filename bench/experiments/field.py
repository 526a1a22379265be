"""Texture mosaics: a network must look as far as a texture needs, and nobody told it how far."""

from __future__ import annotations

import torch
from torch import nn

from bench.experiments import segmenters as nets
from bench.experiments import textures, training
from bench.experiments.outcomes import Array, Outcome
from bench.experiments.protocol import Arm, Comparison, Experiment, Place, Protocol, Run

CELLS = {"4 large cells": 4, "16 small cells": 16}
HAND = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0)
MULTIPLIERS = (1, 5, 20)
TEST_SEED = 1_000_003
AKM = tuple(f"AKM ×{m}" for m in MULTIPLIERS)
BY_HAND = tuple(f"σ = {sigma:g}" for sigma in HAND)
PROTOCOL = Protocol(
    name="field",
    hypothesis=(
        "Where a shallow network needs a wide field of unknown size, AKM finds it: it beats the "
        "same network without, and is no worse than the best σ set by hand."
    ),
    refuted=(
        "AKM − plain is not above 0; or AKM − σ by hand is below 0. An interval that holds 0 does "
        "not show that both are equal: its width says by how much they may differ"
    ),
    primary=tuple(
        Comparison("AKM, chosen rate", against, "accuracy", cells)
        for cells in CELLS
        for against in ("plain", "σ by hand, chosen", "depthwise 9×9", "U-Net")
    ),
    baseline="plain",
    metrics={"accuracy": ("accuracy",), "selection": ("selection",)},
    conditions=tuple(CELLS),
    arms=(
        Arm("plain", "3×3, norm, ReLU, twice, then 1×1; 12 channels", {"multiplier": 5}),
        *(
            Arm(name, "σ in px set before the second ReLU; gate learned",
                {"sigma": sigma, "multiplier": 5})
            for name, sigma in zip(BY_HAND, HAND, strict=True)
        ),
        *(
            Arm(name, "AKM before both ReLUs; its rate this multiple of the others'",
                {"multiplier": multiplier})
            for name, multiplier in zip(AKM, MULTIPLIERS, strict=True)
        ),
        Arm("σ by hand, chosen", "the best of those on the selection strip", best_of=BY_HAND),
        Arm("AKM, chosen rate", "the best of those on the selection strip", best_of=AKM),
        Arm("AKM, octaves", "as AKM ×5, σ from ¼ to 8 px at the start", {"multiplier": 5}),
        Arm("AKM twice", "two in a row, a 1×1 between, before the second ReLU", {"multiplier": 5}),
        Arm("AKM, differences", "a depthwise 3×3 after each blur, as AKM ×5", {"multiplier": 5}),
        Arm("AKM, conditioned", "σ and gate of each mosaic, as AKM ×5", {"multiplier": 5}),
        Arm("depthwise 9×9", "learned, before the second ReLU", {"multiplier": 5}),
        Arm("dilated", "one more 3×3, dilation 4", {"multiplier": 5}),
        Arm("U-Net", "three scales, 7 channels", {"multiplier": 5}),
    ),
    data=(
        "mosaics of 64×64 pixels of four textures of scikit-image, contrast made equal; rows 0–255 "
        "of each photograph for training (512 mosaics by the seed), 256–383 for selection (100), "
        "384–511 for the test (200, the same for all). Four photographs: what holds of them may "
        "not hold of other textures"
    ),
    selection="σ by hand and AKM's rate, by accuracy on the selection strip, of each seed",
    seeds=5,
    settings={"train": 512, "select": 100, "test": 200, "steps": 200, "batch": 16, "rate": 1e-2},
    quick={"train": 32, "select": 8, "test": 16, "steps": 10},
)  # fmt: skip
MIDDLES = {
    "AKM, octaves": nets.octaves,
    "AKM twice": nets.twice,
    "AKM, differences": nets.differences,
    "AKM, conditioned": nets.conditioned,
    "depthwise 9×9": nets.depthwise,
    "dilated": nets.dilated,
    **dict.fromkeys(AKM, nets.akm_layer),
}
IN_BOTH = (*AKM, "AKM, octaves", "AKM, differences", "AKM, conditioned")


def network(arm: Arm) -> nn.Module:
    classes = len(textures.TEXTURES)
    if arm.name == "U-Net":
        return nets.UNet(classes)
    if "sigma" in arm.options:
        return nets.segmenter(classes, nets.by_hand(arm.options["sigma"]))
    middle = MIDDLES.get(arm.name, lambda channels: nn.Identity())
    return nets.segmenter(classes, middle, after_first=arm.name in IN_BOTH)


def model(place: Place, run: Run) -> tuple[nn.Module, torch.Tensor]:
    x, _ = textures.mosaics("train", place.settings["batch"], CELLS[run.condition], run.seed)
    return network(run.arm).to(place.device), x.to(place.device)


def run(place: Place, run: Run, earlier: Outcome | None) -> Outcome:
    settings, cells = place.settings, CELLS[run.condition]
    net = network(run.arm).to(place.device)
    x, y = textures.mosaics("train", settings["train"], cells, run.seed)
    training.train(
        net, x.to(place.device), y.to(place.device), seed=run.seed,
        steps=settings["steps"], batch=settings["batch"], rate=settings["rate"],
        modulation_rate=run.arm.options["multiplier"],
    )  # fmt: skip

    def accuracy(part: str, count: int) -> Array:
        """Of each mosaic."""
        x, y = textures.mosaics(part, count, cells, TEST_SEED)
        right = training.predictions(net, x.to(place.device)) == y.numpy()
        return right.mean((1, 2))

    scores = {
        "accuracy": accuracy("test", settings["test"]),
        "selection": accuracy("selection", settings["select"]),
    }
    return Outcome(scores, {"sigma": training.sigmas(net)})


EXPERIMENT = Experiment(PROTOCOL, run, model)
