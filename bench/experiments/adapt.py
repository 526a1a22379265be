"""A trained network in a corrupted domain, of which it sees 50 images: which numbers to adapt?"""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import akm_triton as akm
from bench.experiments import classification, data, training
from bench.experiments.corrupt import GROUPS, KINDS, corrupt
from bench.experiments.outcomes import Array, Outcome
from bench.experiments.protocol import Arm, Comparison, Experiment, Place, Protocol, Run

SELECTION = ("impulse noise", "motion blur", "pixelate")
TEST = tuple(kind for kind in KINDS if kind not in SELECTION)
SEVERITY = 4
EACH = 5  # images a class to adapt to
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
WHAT = {
    "nothing": "no number",
    "r": "r of every layer",
    "r and s": "r and s of every layer",
    "affine": "scale and shift of every norm",
    "head": "the last layer",
    "all": "all numbers",
}


def _arms(net: str, modulation: str, *adapted: str) -> tuple[Arm, ...]:
    """Names begin with the network; those that end in "entropy" see no labels."""
    found = []
    for name in adapted:
        what, _, loss = name.partition(", ")
        about = f"{net} network, adapts {WHAT[what]}" + (", by entropy" if loss else "")
        options = {"modulation": modulation, "adapt": what, "entropy": bool(loss)}
        found.append(Arm(f"{net}: {name}", about, options))
    return tuple(found)


PROTOCOL = Protocol(
    name="adapt",
    hypothesis=(
        "r and s of a trained AKM network adapt it to a corrupted domain from five labelled images "
        "a class, and better than as many numbers of its norms do."
    ),
    refuted="an interval of the primary differences is not above 0",
    primary=(
        Comparison("AKM: r and s", "AKM: nothing", "nine kinds", "shallow"),
        Comparison("AKM: r and s", "AKM: affine", "nine kinds", "shallow"),
        Comparison("AKM: r and s", "plain: affine", "nine kinds", "shallow"),
        Comparison("AKM: r and s, entropy", "AKM: nothing", "nine kinds", "shallow"),
    ),
    baseline="AKM: nothing",
    metrics={
        "nine kinds": TEST,
        **{group: tuple(k for k in kinds if k in TEST) for group, kinds in GROUPS.items()},
    },
    conditions=("shallow",),
    arms=(
        *_arms("AKM", "learned", *WHAT, "r and s, entropy", "affine, entropy"),
        *_arms("plain", "none", "nothing", "affine", "head", "all", "affine, entropy"),
    ),
    data=(
        "Fashion-MNIST by default: clean training on 4,000 images drawn by the seed; 5 others a "
        "class to adapt to and 2,000 published test images, corrupted by one kind at severity 4, "
        "kind by kind. Norms use the statistics of the batch, in every arm"
    ),
    selection=(
        f"of each arm and seed, the rate of Adam, of {RATES}, by accuracy on 200 further training "
        f"images under {', '.join(SELECTION)}: no kind of the test"
    ),
    seeds=5,
    settings={**classification.SETTINGS, "select": 200, "adapt_steps": 20},
    quick={**classification.QUICK, "select": 50, "adapt_steps": 3},
)


def chosen(model: nn.Module, what: str) -> list[nn.Parameter]:
    """The parameters that are adapted."""
    if what == "affine":
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        return [p for norm in norms for p in norm.parameters()]
    if what == "head":
        head = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
        return list(head.parameters())
    modulation = set(akm.modulation_names(model))
    return [
        p
        for name, p in model.named_parameters()
        if what == "all"
        or (name in modulation and (what == "r and s" or (what == "r" and name.endswith(".r"))))
    ]


def by_batch(model: nn.Module) -> nn.Module:
    """A copy whose norms use the statistics of each batch."""
    model = copy.deepcopy(model)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    return model


def adapted(
    model: nn.Module, what: str, x: Tensor, y: Tensor | None, rate: float, steps: int
) -> nn.Module:
    """A copy after ``steps`` of Adam on all of x: with labels y by cross-entropy, without by the
    entropy of the predictions (D. Wang et al., *Tent*, ICLR 2021)."""
    model = copy.deepcopy(model)
    moving = chosen(model, what)
    if not moving:
        return model
    optimizer = torch.optim.Adam(moving, lr=rate)
    for _ in range(steps):
        logits = model(training.as_input(x))
        if y is None:
            logs = F.log_softmax(logits, 1)
            loss = -(logs.exp() * logs).sum(1).mean()
        else:
            loss = F.cross_entropy(logits, y)
        model.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def model(place: Place, run: Run) -> tuple[nn.Module, Tensor]:
    return classification.network(place, run), classification.example(place)


def run(place: Place, run: Run, earlier: Outcome | None) -> Outcome:
    settings, options = place.settings, run.arm.options
    net, _ = model(place, run)
    classification.fit(place, run, net, settings["train"])
    net = by_batch(net)
    first, few = settings["train"], EACH * data.classes(place)
    x, y = data.training(place, first + few + settings["select"], run.seed)
    support, held_out = slice(first, first + few), slice(first + few, None)

    def domain(kind: str, part: slice) -> Tensor:
        images = corrupt(x[part].numpy(), kind, SEVERITY, seed=1 + run.seed)
        return torch.from_numpy(images).to(place.device)

    def to(kind: str, rate: float) -> nn.Module:
        labels = None if options["entropy"] else y[support].to(place.device)
        steps = settings["adapt_steps"]
        return adapted(net, options["adapt"], domain(kind, support), labels, rate, steps)

    def held_out_accuracy(rate: float) -> float:
        right = [
            training.predictions(to(kind, rate), domain(kind, held_out)) == y[held_out].numpy()
            for kind in SELECTION
        ]
        return float(np.mean(right))

    moved = sum(p.numel() for p in chosen(net, options["adapt"]))
    rate = max(RATES, key=held_out_accuracy) if moved else 0.0
    scores: dict[str, Array] = {}
    for kind in TEST:
        scores |= classification.corrupted(place, to(kind, rate), [kind], [SEVERITY])
    return Outcome(scores, {"sigma": training.sigmas(net), "moved": moved, "rate": rate})


EXPERIMENT = Experiment(PROTOCOL, run, model, data.DATASETS)
