"""Does the runs of an experiment that are not done yet, and reads those that are."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from akm_triton.files import slug
from bench import results
from bench.experiments import outcomes
from bench.experiments.outcomes import Outcome
from bench.experiments.protocol import Experiment, Place, Run


def title(experiment: Experiment, place: Place) -> str:
    """The experiment's name, and the data set's if it is not the default."""
    name = experiment.protocol.name
    return name if place.dataset == experiment.datasets[0] else f"{name}-{place.dataset}"


def runs(experiment: Experiment, seeds: int) -> list[Run]:
    """Those with files, in waves: an arm that needs another comes after all that need none. A seed
    is complete before the next begins, so that what is stopped early can be compared."""
    protocol = experiment.protocol
    arms = [arm for arm in protocol.arms if not arm.best_of]
    return [
        Run(condition, arm, seed)
        for seed in range(seeds)
        for condition in protocol.conditions
        for arm in sorted(arms, key=lambda arm: bool(arm.needs))
    ]


def path_of(experiment: Experiment, place: Place, run: Run, out: Path) -> Path:
    folder = out / slug(results.device_name(place.device)) / "experiments"
    return folder / title(experiment, place) / f"{slug(run.name)}.json"


def do(experiment: Experiment, place: Place, run: Run, out: Path) -> Outcome:
    """The outcome of a run, from its file if there is one; else it runs, and the file is written.

    Raises:
        ValueError: the file is damaged, or of another protocol.
    """
    path = path_of(experiment, place, run, out)
    about = {
        "experiment": title(experiment, place),
        "condition": run.condition,
        "arm": run.arm.name,
        "seed": run.seed,
        "device": results.device_name(place.device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "commit": results.commit(),
        "protocol": experiment.protocol.digest(),
        "settings": place.settings,
    }
    found = outcomes.read(path, about)
    if found is None:
        earlier = None
        if run.arm.needs:
            needed = next(arm for arm in experiment.protocol.arms if arm.name == run.arm.needs)
            earlier = do(experiment, place, Run(run.condition, needed, run.seed), out)
        torch.manual_seed(run.seed)
        outcomes.write(path, experiment.run(place, run, earlier), about)
        found = outcomes.read(path, about)  # what the next one to look would find
        assert found is not None
    return found


def prepare_process() -> None:
    """One thread: more gain nothing in small networks, and change the sums. A σ near 0 makes taps
    so small that processors take many times as long for them, unless they round them to 0."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def do_all(
    experiment: Experiment, place: Place, seeds: int, out: Path, jobs: int = 1
) -> dict[tuple[str, str], list[Outcome]]:
    """The outcomes of each condition and arm, in the order of seeds; derived arms too."""
    wanted = runs(experiment, seeds)
    done: dict[tuple[str, str], list[Outcome]] = {}
    bar = tqdm(total=len(wanted), desc=title(experiment, place), unit="run")
    for run, outcome in _outcomes(experiment, place, wanted, out, jobs):
        done.setdefault((run.condition, run.arm.name), []).append(outcome)
        bar.set_postfix_str(run.name, refresh=False)
        bar.update()
    bar.close()
    for condition in experiment.protocol.conditions:
        for arm in experiment.protocol.arms:
            if arm.best_of:
                candidates = {name: done[condition, name] for name in arm.best_of}
                done[condition, arm.name] = [
                    best({name: found[seed] for name, found in candidates.items()})
                    for seed in range(seeds)
                ]
    return done


def best(candidates: dict[str, Outcome]) -> Outcome:
    """The outcome with the highest mean of its ``selection`` score, the first of equals."""
    name = max(candidates, key=lambda name: float(np.mean(candidates[name].scores["selection"])))
    chosen = candidates[name]
    return Outcome(chosen.scores, {**chosen.learned, "chosen": name})


def _outcomes(
    experiment: Experiment, place: Place, wanted: list[Run], out: Path, jobs: int
) -> Iterator[tuple[Run, Outcome]]:
    if jobs == 1:
        for run in wanted:
            yield run, do(experiment, place, run, out)
        return
    waves = [[r for r in wanted if bool(r.arm.needs) is later] for later in (False, True)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, prepare_process) as pool:
        for wave in waves:
            futures = [pool.submit(do, experiment, place, run, out) for run in wave]
            try:
                for run, future in zip(wave, futures, strict=True):
                    yield run, future.result()
            finally:
                for future in futures:
                    future.cancel()
