"""The finished few-shot runs side by side, compared on the same test episodes.

A group is runs that differ by nothing but the seed. The seeds of a group are averaged, episode by
episode; intervals are over episodes, and the range beside them is over seeds.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from bench import results
from bench.fewshot.train import interval
from bench.sweep import grid

Run = dict[str, Any]
LAYERS = {"akm": "AKM", "frozen": "AKM, σ and gate fixed", "plain": "plain convolution"}


def groups(runs: list[Run]) -> dict[str, list[Run]]:
    """Runs by their ``label``, each group in the order of seeds."""
    found: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: (label(run), run["settings"]["seed"])):
        found[label(run)].append(run)
    return dict(found)


def label(run: Run) -> str:
    s = run["settings"]
    return f"{LAYERS[s['layer']]}; {s['algorithm']}, {s['adapt']}"


def table(runs: list[Run]) -> str:
    """Test accuracy of each group, and its difference from the pixel floor and from plain
    convolutions that adapt everything."""
    found = groups(runs)
    plain = next((g for name, g in found.items() if name.startswith(LAYERS["plain"])), None)
    header = ["", "seeds", "accuracy", "of seeds", "above pixels", "above plain", "σ at the end"]
    lines = []
    for name, group in found.items():
        adapted, floor = _episodes(group, "adapted"), _episodes(group, "floor")
        ends = sorted(run["accuracy"]["mean"] for run in group)
        above = "–"
        if plain and plain is not group:
            above = _percent(adapted - _episodes(plain, "adapted"), "+")
        lines.append(
            [
                name, str(len(group)), _percent(adapted), f"{ends[0]:.1%} … {ends[-1]:.1%}",
                _percent(adapted - floor, "+"), above, _sigma(group),
            ]
        )  # fmt: skip
    s = runs[0]["settings"]
    task = f"{s['dataset']}, {s['way']}-way {s['shot']}-shot, {s['test_episodes']} test episodes"
    return f"{task}: mean ± 95 % confidence interval\n{grid(header, lines)}"


def _episodes(group: list[Run], key: str) -> torch.Tensor:
    """Of each test episode, the mean of the seeds."""
    return torch.tensor([run["episodes"][key] for run in group], dtype=torch.float64).mean(0)


def _percent(episodes: torch.Tensor, sign: str = "") -> str:
    end = interval(episodes)
    return f"{100 * end['mean']:{sign}.2f} ± {100 * end['ci95']:.2f} %"


def _sigma(group: list[Run]) -> str:
    """Medians of the layers, in pixels."""
    layers = [
        torch.tensor([run["layers"][i]["end"]["sigma"] for run in group]).median()
        for i in range(len(group[0]["layers"]))
    ]
    return ", ".join(f"{float(sigma):.2f}" for sigma in layers) or "–"


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench fewshot-table", description=__doc__)
    parser.add_argument("--task", default="glyphs-5way-1shot", help="how the result files begin")
    parser.add_argument("--results", type=Path, default=results.ROOT)
    options = parser.parse_args(argv)
    try:
        runs = results.every(f"fewshot/{options.task}-*", options.results)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    if not runs:
        raise SystemExit(f"no result of {options.task!r} in {options.results}")
    print(table(runs))
