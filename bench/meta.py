"""Time and memory of a meta-gradient: all tasks at once or one by one, inner steps kept or computed
again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm

from akm_triton.meta import MAML
from akm_triton.meta.episodes import Episode
from bench import timing
from bench.fewshot import network
from bench.sweep import TINY, Row, Setting, Sweep, grid, rounded

WAY, QUERY, SIZE, WIDTH = 5, 3, 28, 32
TASKS = (1, 2, 4, 8, 16, 32)
STEPS = (1, 2, 4, 8)
SLACK = 0.01


class Peak(TorchDispatchMode):
    """The most memory that the results of operators held at once, within a factor 1 + SLACK."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.held = self.bytes = 0  # held includes freed memory until it is counted again

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = op(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor):
                storage = x.untyped_storage()
                before = self.alive.get(storage._cdata)
                self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                self.held += storage.nbytes() - (before[1] if before else 0)
        if self.held > (1 + SLACK) * self.bytes:
            self.alive = {key: pair for key, pair in self.alive.items() if not pair[0].expired()}
            self.held = sum(size for _, size in self.alive.values())
            self.bytes = max(self.bytes, self.held)
        return out


def episodes(tasks: int, device: torch.device) -> Episode:
    torch.manual_seed(0)
    labels = torch.arange(WAY, device=device)
    xs = torch.rand(tasks, WAY, 1, SIZE, SIZE, device=device)
    xq = torch.rand(tasks, WAY * QUERY, 1, SIZE, SIZE, device=device)
    return (xs, labels.repeat(tasks, 1)), (xq, labels.repeat_interleave(QUERY).repeat(tasks, 1))


def points() -> list[dict[str, Any]]:
    by_tasks = [
        {"tasks": tasks, "steps": 3, "adapt": adapt, "at_once": at_once, "checkpoint": False}
        for adapt in ("all", "modulation")
        for tasks in TASKS
        for at_once in (True, False)
    ]
    by_steps = [
        {"tasks": 4, "steps": steps, "adapt": "all", "at_once": True, "checkpoint": checkpoint}
        for steps in STEPS
        for checkpoint in (False, True)
    ]
    return [*by_tasks, *by_steps]


def measure(setting: Setting) -> Iterator[list[Row]]:
    """The time of one meta-gradient, and its peak memory, which is measured in a separate run."""
    cases = points()[:2] if setting.budget is TINY else points()
    for case in tqdm(cases, desc="meta", unit="point"):
        run = meta_gradient(setting.device, **case)
        run()
        peak = peak_bytes(run, setting.device)
        q = timing.interleaved({"": run}, setting.device, setting.budget.seconds / 2)[""]
        yield [{**case, "status": "ok", "peak_bytes": peak, **rounded(**vars(q))}]


def meta_gradient(
    device: torch.device, tasks: int, steps: int, adapt: str, at_once: bool, checkpoint: bool
) -> timing.Call:
    torch.manual_seed(0)
    model = network.build("akm", "group", WIDTH, 1, SIZE, WAY).to(device)
    maml = MAML(model, inner_steps=steps, adapt=adapt, vectorize=at_once, checkpoint=checkpoint)
    stacked = episodes(tasks, device)

    def run() -> None:
        maml(stacked, F.cross_entropy).loss.backward()

    return run


def peak_bytes(run: timing.Call, device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device)
    with Peak() as peak:
        run()
    return peak.bytes


def table(rows: list[Row]) -> str:
    lines = [
        [
            row["adapt"], str(row["tasks"]), str(row["steps"]),
            "at once" if row["at_once"] else "one by one",
            "again" if row["checkpoint"] else "kept",
            f"{1e3 * row['p50']:.1f}", f"{row['peak_bytes'] / 2**20:.0f}",
        ]
        for row in rows
    ]  # fmt: skip
    return grid(["adapt", "tasks", "steps", "tasks go", "steps are", "ms", "peak MB"], lines)


SWEEP = Sweep("meta", measure, table, __doc__)
main = SWEEP.main
