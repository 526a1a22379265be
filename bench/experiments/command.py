"""``python -m bench experiment NAME``: run what is not done yet, then print and save the table."""

from __future__ import annotations

import argparse
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from bench import results, timing
from bench.experiments import cost, runner, table
from bench.experiments.protocol import Experiment, Place, Run
from bench.sweep import default_folder

# name → what it asks
EXPERIMENTS = {
    "corruptions": "is a network with AKM better on corrupted images than simple alternatives?",
    "field": "does AKM find how far a texture network must look?",
    "shift": "does a blur of learned σ before a stride make predictions steadier?",
    "few": "does AKM help with 10 to 200 images a class?",
    "adapt": "which numbers of a network should adapt to a corrupted domain?",
}
ONE_STEP = 1.0  # seconds of timing each of forward, and forward and backward, per arm


def load(name: str) -> Experiment:
    experiment: Experiment = import_module(f"bench.experiments.{name}").EXPERIMENT
    return experiment


def summarise(
    experiment: Experiment, place: Place, seeds: int, out: Path, jobs: int, seconds: float
) -> tuple[dict[str, Any], Path]:
    """Do all runs; returns the summary and the file that holds it."""
    protocol, device = experiment.protocol, place.device
    done = runner.do_all(experiment, place, seeds, out, jobs)
    costs = {}
    for condition in protocol.conditions:
        arms = [arm for arm in protocol.arms if not arm.best_of]
        models = {arm.name: experiment.model(place, Run(condition, arm, 0)) for arm in arms}
        for name, found in cost.measure(models, device, seconds * len(models)).items():
            costs[condition, name] = found
    summary: dict[str, Any] = {
        "protocol": protocol.record(),
        "protocol_digest": protocol.digest(),
        "settings": place.settings,
        "dataset": place.dataset,
        "primary": table.primary(protocol, done),
    }
    rows = table.rows(protocol, done, costs)
    name = f"experiments/{runner.title(experiment, place)}"
    path = results.save(name, device, rows, out, **summary)
    return {**summary, "rows": rows}, path


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench experiment", description=__doc__)
    parser.add_argument("name", choices=EXPERIMENTS, help="; ".join(
        f"{name}: {question}" for name, question in EXPERIMENTS.items()))  # fmt: skip
    parser.add_argument("--seeds", type=int, help="the protocol's number; with --quick 2")
    parser.add_argument("--quick", action="store_true", help="small: to see that it works")
    parser.add_argument("--dataset", help="the protocol's, or another that the experiment takes")
    parser.add_argument("--data", type=Path, help="folder of the data, if not installed")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--jobs", type=int, help="processes; by default 2 on a CPU that has them")
    parser.add_argument(
        "--out", type=Path, help="a folder of results (bench/results; with --quick bench/local, "
        "which git ignores)",
    )  # fmt: skip
    options = parser.parse_args(argv)
    experiment, device = load(options.name), torch.device(options.device)
    protocol = experiment.protocol
    dataset = options.dataset or experiment.datasets[0]
    if dataset not in experiment.datasets:
        parser.error(f"--dataset must be one of {experiment.datasets}, got {dataset!r}")
    seeds = options.seeds or (2 if options.quick else protocol.seeds)
    jobs = options.jobs or (min(2, os.cpu_count() or 1) if device.type == "cpu" else 1)
    if min(seeds, jobs) < 1:
        parser.error("--seeds and --jobs must be at least 1")
    runner.prepare_process()
    if device.type == "cpu":
        timing.keep_memory()
    settings = protocol.settings | (protocol.quick if options.quick else {})
    place = Place(device, settings, dataset, options.data)
    print(f"{protocol.name}, on {results.device_name(device)}\n{protocol.text()}\n", flush=True)
    out = options.out or default_folder(options.quick)
    seconds = ONE_STEP / 10 if options.quick else ONE_STEP
    try:
        record, path = summarise(experiment, place, seeds, out, jobs, seconds)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from error
    print(f"\n{table.text(record)}\n\nmeasured on {results.device_name(device)}; written: {path}")
