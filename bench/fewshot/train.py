"""Meta-train on episodes of a data set, then test on 600 episodes of its test split."""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import akm_triton as akm
from akm_triton.meta import average_gradients, broadcast, load_checkpoint, save_checkpoint
from akm_triton.meta.episodes import Episode
from akm_triton.meta.learner import Learner
from bench import results
from bench.fewshot import datasets, network
from bench.fewshot.glyphs import cache_folder
from bench.fewshot.sampler import Sampler, nearest_neighbour

TEST_SEED = 1_000_003  # one for all runs: they are compared episode by episode
CHUNK = 20  # episodes at once in a test
CHECKPOINT_EVERY = 20  # outer steps
POINTS = 50  # of the learning curve


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run: the same settings give the same numbers."""

    dataset: str = "glyphs"
    way: int = 5
    shot: int = 1
    query: int = 3  # images of each class
    algorithm: str = "maml"
    layer: str = "akm"
    adapt: str = "all"
    norm: str = "group"
    width: int = 32
    inner_steps: int = 3
    inner_lr: float = 0.1
    modulation_lr: float = 0.1  # of r and s, in the inner loop
    lr: float = 2e-3  # of Adam, in the outer loop; falls to 0 as a cosine
    modulation_boost: float = 5.0  # factor of the outer learning rate of r and s
    tasks: int = 4  # of an outer step
    iterations: int = 1500  # outer steps
    val_episodes: int = 40  # of each point of the learning curve
    test_episodes: int = 600
    seed: int = 0

    @property
    def name(self) -> str:
        task = f"{self.dataset}-{self.way}way-{self.shot}shot"
        return f"{task}-{self.algorithm}-{self.layer}-{self.adapt}-{self.norm}-seed{self.seed}"


def run(
    settings: RunSettings, data: datasets.Dataset, device: torch.device, checkpoint: Path,
    progress: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Train, or go on from ``checkpoint``, and test; returns what the result file holds."""
    torch.manual_seed(settings.seed)
    channels, size = data.train.images.shape[1], data.train.images.shape[-1]
    model = network.build(
        settings.layer, settings.norm, settings.width, channels, size, settings.way
    ).to(device)
    start = network.modulations(model)
    learner = network.learner(
        model, settings.algorithm, settings.adapt, settings.inner_lr, settings.modulation_lr,
        settings.inner_steps,
    )  # fmt: skip
    groups = akm.parameter_groups(
        learner, lr=settings.lr, weight_decay=0.0,
        modulation_lr=settings.lr * settings.modulation_boost,
    )  # fmt: skip
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.iterations)
    sampler = _sampler(data.train, settings, data, settings.seed)
    parts = {
        "learner": learner,
        "optimizer": optimizer,
        "schedule": schedule,
        "sampler": sampler.generator,
    }
    curve: list[dict[str, float]] = []
    losses: list[float] = []  # since the last point of the curve
    done, seconds = 0, 0.0
    if checkpoint.exists():
        saved = load_checkpoint(checkpoint, parts)
        if saved["settings"] != dataclasses.asdict(settings):
            raise ValueError(f"{checkpoint} is of other settings; delete it or name another file")
        done, seconds, curve, losses = (saved[k] for k in ("done", "seconds", "curve", "losses"))
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if ranks > settings.tasks:
        raise ValueError(f"{ranks} processes have only {settings.tasks} tasks to share")
    broadcast(learner)
    every = max(1, settings.iterations // POINTS)
    bar = tqdm(
        range(done, settings.iterations), desc=settings.name, unit="step", initial=done,
        total=settings.iterations, disable=not (progress and rank == 0),
    )  # fmt: skip
    before = time.perf_counter() - seconds
    for iteration in bar:
        # each process draws all tasks and takes its own: their random numbers stay the same
        mine = _part(sampler.draw(settings.tasks), rank, ranks, device)
        result = learner(mine, F.cross_entropy)
        optimizer.zero_grad()
        result.loss.backward()
        average_gradients(learner.parameters(), len(result.losses))
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        loss = result.losses.sum() / settings.tasks
        if ranks > 1:
            dist.all_reduce(loss)
        losses.append(float(loss))
        seconds = time.perf_counter() - before
        if (iteration + 1) % every == 0:
            accuracy = float(evaluate(learner, data.val, data, settings, device, False).mean())
            mean = sum(losses) / len(losses)
            curve.append(
                {"iteration": iteration + 1, "loss": round(mean, 5), "val": round(accuracy, 5)}
            )
            losses = []
        last = curve[-1]["val"] if curve else float("nan")
        bar.set_postfix(loss=f"{loss:.3f}", val=f"{last:.1%}", refresh=False)
        if rank == 0 and (iteration + 1) % CHECKPOINT_EVERY == 0:
            save_checkpoint(
                checkpoint, parts, settings=dataclasses.asdict(settings), done=iteration + 1,
                seconds=seconds, curve=curve, losses=losses,
            )  # fmt: skip
    accuracies = evaluate(learner, data.test, data, settings, device, True)
    floor = torch.cat([nearest_neighbour(e) for e in _test_episodes(data.test, data, settings)])
    return {
        "rows": curve,
        "settings": dataclasses.asdict(settings),
        "accuracy": interval(accuracies),
        "floor": interval(floor),
        "difference": interval(accuracies - floor),
        "episodes": {"adapted": _listed(accuracies), "floor": _listed(floor)},
        "layers": [
            {"start": a, "end": b} for a, b in zip(start, network.modulations(model), strict=True)
        ],
        "seconds": round(seconds, 1),
        "peak_mib": _peak_memory(device),
        "processes": ranks,
    }


def evaluate(
    learner: Learner, split: datasets.Split, data: datasets.Dataset, settings: RunSettings,
    device: torch.device, test: bool,
) -> Tensor:  # fmt: skip
    """Accuracy of each episode after adapting to it; the episodes are the same at every call."""
    short = dataclasses.replace(settings, test_episodes=settings.val_episodes)
    found = []
    with torch.no_grad():
        for episodes in _test_episodes(split, data, settings if test else short):
            found.append(learner(_part(episodes, 0, 1, device), F.cross_entropy).accuracy.cpu())
    return torch.cat(found)


def interval(values: Tensor) -> dict[str, float]:
    """Mean of the episodes and half the width of its 95 % confidence interval."""
    half = 1.96 * float(values.double().std()) / len(values) ** 0.5
    return {"mean": round(float(values.double().mean()), 5), "ci95": round(half, 5)}


def _test_episodes(
    split: datasets.Split, data: datasets.Dataset, settings: RunSettings
) -> list[Episode]:
    sampler = _sampler(split, settings, data, TEST_SEED)
    sizes = [CHUNK] * (settings.test_episodes // CHUNK)
    rest = settings.test_episodes % CHUNK
    return [sampler.draw(size) for size in (*sizes, *([rest] if rest else []))]


def _sampler(
    split: datasets.Split, settings: RunSettings, data: datasets.Dataset, seed: int
) -> Sampler:
    return Sampler(
        split, settings.way, settings.shot, settings.query,
        torch.Generator().manual_seed(seed), data.jitter, data.shift,
    )  # fmt: skip


def _part(episodes: Episode, rank: int, ranks: int, device: torch.device) -> Episode:
    (xs, ys), (xq, yq) = episodes
    xs, ys, xq, yq = (x[rank::ranks].to(device) for x in (xs, ys, xq, yq))
    return (xs, ys), (xq, yq)


def _listed(values: Tensor) -> list[float]:
    return [round(x, 4) for x in values.tolist()]


def _peak_memory(device: torch.device) -> float:
    """MiB: of the GPU's allocator, or of this process."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench fewshot", description=__doc__)
    choices: dict[str, Any] = {
        "dataset": tuple(datasets.DATASETS),
        "algorithm": tuple(network.ALGORITHMS),
        "layer": network.LAYERS,
        "adapt": network.ADAPT,
        "norm": network.NORMS,
    }
    for field in dataclasses.fields(RunSettings):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default,
            choices=choices.get(field.name), help=f"default {field.default}",
        )  # fmt: skip
    parser.add_argument("--data", type=Path, help="folder of the data, if not installed")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=results.ROOT, help="a .json file or a folder")
    parser.add_argument("--checkpoint", type=Path, help="file from which a killed run continues")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Under ``torchrun`` the processes share the tasks of each outer step."""
    options = _arguments(argv)
    names = [field.name for field in dataclasses.fields(RunSettings)]
    settings = RunSettings(**{name: getattr(options, name) for name in names})
    device = torch.device(options.device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        data = datasets.make(settings.dataset, options.data)
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from None
    checkpoint = options.checkpoint or cache_folder() / f"{settings.name}.pt"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    outcome = run(settings, data, device, checkpoint, progress=True)
    if not dist.is_initialized() or dist.get_rank() == 0:
        print(report(outcome))
        sweep = f"fewshot/{settings.name}"
        path = results.save(sweep, device, outcome.pop("rows"), options.out, **outcome)
        checkpoint.unlink(missing_ok=True)
        print(f"written: {path}")
    if dist.is_initialized():
        dist.destroy_process_group()


def report(outcome: dict[str, Any]) -> str:
    def line(what: str, key: str) -> str:
        return f"{what:<28}{outcome[key]['mean']:7.2%} ± {outcome[key]['ci95']:.2%}"

    count = len(outcome["episodes"]["adapted"])
    return "\n".join(
        [
            f"{count} test episodes, mean ± 95 % confidence interval",
            line("adapted", "accuracy"),
            line("nearest neighbour of pixels", "floor"),
            line("difference, in pairs", "difference"),
            f"{outcome['seconds']:.0f} s of training, peak {outcome['peak_mib']:.0f} MiB",
        ]
    )
