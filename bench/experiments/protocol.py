"""What is fixed before an experiment runs: hypothesis, metrics, arms, data and settings."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.experiments.outcomes import Outcome

Settings = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """A way to build or train the network."""

    name: str
    about: str
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: str = ""
    """An arm that runs before, of the same condition and seed: its outcome is given to this one."""
    best_of: tuple[str, ...] = ()
    """No runs of its own: of each seed, that arm's run which has the best ``selection`` score."""


@dataclass(frozen=True)
class Comparison:
    """A difference that the hypothesis is about: ``arm`` minus ``against``."""

    arm: str
    against: str
    metric: str
    condition: str


@dataclass(frozen=True)
class Protocol:
    name: str
    hypothesis: str
    refuted: str  # what result would say no
    primary: tuple[Comparison, ...]
    baseline: str  # the arm that all others are compared with in the table
    metrics: Mapping[str, tuple[str, ...]]  # each the mean of these scores of an outcome
    conditions: tuple[str, ...]
    arms: tuple[Arm, ...]
    data: str  # for training and for the test
    selection: str  # what is chosen, on which data
    seeds: int
    settings: Settings
    quick: Settings  # what --quick changes; its results are no evidence

    def record(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def digest(self) -> str:
        """Changes with any word of the protocol."""
        return hashlib.sha256(json.dumps(self.record(), sort_keys=True).encode()).hexdigest()[:12]

    def text(self) -> str:
        def said(title: str, text: str) -> str:
            return textwrap.fill(f"{title}: {text}", 100, subsequent_indent="  ")

        primary = "; ".join(
            f"{c.metric} of {c.arm} − {c.against}, {c.condition}" for c in self.primary
        )
        return "\n".join(
            [
                said("hypothesis", self.hypothesis),
                said("refuted if", self.refuted),
                said("primary", primary),
                said("data", self.data),
                said("selection", self.selection),
                *(said(f"arm {arm.name}", arm.about) for arm in self.arms),
            ]
        )


@dataclass(frozen=True)
class Place:
    """Where an experiment runs, and on which data."""

    device: torch.device
    settings: Settings
    dataset: str = ""
    folder: Path | None = None


@dataclass(frozen=True)
class Run:
    """One arm, one condition, one seed."""

    condition: str
    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        return f"{self.condition}-{self.arm.name}-seed{self.seed}"


@dataclass(frozen=True)
class Experiment:
    protocol: Protocol
    run: Callable[[Place, Run, Outcome | None], Outcome]
    model: Callable[[Place, Run], tuple[nn.Module, torch.Tensor]]
    """The network of a run and an input of a training step, whose cost is measured."""
    datasets: tuple[str, ...] = ("",)  # the first is the default
