"""Time and memory of meta-gradients: tasks at once against one by one, inner steps kept or computed
again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm

from akm_triton.meta import MAML
from akm_triton.meta.episodes import Episode
from bench import results, timing
from bench.fewshot import network

WAY, QUERY, SIZE, WIDTH = 5, 3, 28, 32
TASKS = (1, 2, 4, 8, 16, 32)
STEPS = (1, 2, 4, 8)
REPEATS = 3


class Peak(TorchDispatchMode):
    """The most memory that the results of operators held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.bytes = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = op(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor):
                storage = x.untyped_storage()
                self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.alive = {key: pair for key, pair in self.alive.items() if not pair[0].expired()}
        self.bytes = max(self.bytes, sum(size for _, size in self.alive.values()))
        return out


def episodes(tasks: int, device: torch.device) -> Episode:
    torch.manual_seed(0)
    labels = torch.arange(WAY, device=device)
    xs = torch.rand(tasks, WAY, 1, SIZE, SIZE, device=device)
    xq = torch.rand(tasks, WAY * QUERY, 1, SIZE, SIZE, device=device)
    return (xs, labels.repeat(tasks, 1)), (xq, labels.repeat_interleave(QUERY).repeat(tasks, 1))


def measure(device: torch.device, **options: Any) -> dict[str, Any]:
    """Of one meta-gradient: the least of REPEATS times, and the peak of a run of its own."""
    tasks, steps = options["tasks"], options["steps"]
    torch.manual_seed(0)
    model = network.build("akm", "group", WIDTH, 1, SIZE, WAY).to(device)
    maml = MAML(
        model, inner_steps=steps, adapt=options["adapt"], vectorize=options["at_once"],
        checkpoint=options["checkpoint"],
    )  # fmt: skip
    whole = episodes(tasks, device)

    def run() -> None:
        maml(whole, F.cross_entropy).loss.backward()

    run()
    seconds = min(timing.once(run, device) for _ in range(REPEATS))
    return {**options, "ms": round(1e3 * seconds, 2), "peak_mib": round(_peak(run, device), 2)}


def _peak(run: timing.Call, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) / 2**20
    with Peak() as peak:
        run()
    return peak.bytes / 2**20


def points() -> list[dict[str, Any]]:
    by_tasks = [
        {"tasks": tasks, "steps": 3, "adapt": adapt, "at_once": at_once, "checkpoint": False}
        for adapt in ("all", "modulation")
        for at_once in (True, False)
        for tasks in TASKS
    ]
    by_steps = [
        {"tasks": 4, "steps": steps, "adapt": "all", "at_once": True, "checkpoint": checkpoint}
        for checkpoint in (False, True)
        for steps in STEPS
    ]
    return [*by_tasks, *by_steps]


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench meta", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=results.ROOT, help="folder of results")
    options = parser.parse_args(argv)
    device = torch.device(options.device)
    rows = []
    for point in tqdm(points(), desc="meta", unit="point"):
        rows.append(measure(device, **point))
        tqdm.write("  ".join(f"{key} {value}" for key, value in rows[-1].items()))
    print(f"written: {results.save('meta', device, rows, options.output)}")
