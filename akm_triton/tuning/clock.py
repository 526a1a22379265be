"""How long plans take: on a GPU by events or by replays of a CUDA graph; elsewhere a stand-in."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from akm_triton.launch.device import Device
from akm_triton.launch.plan import Plan
from akm_triton.tuning.cost import cost
from akm_triton.tuning.workload import Workload

FLUSH = 256 << 20
"""Bytes written between two runs, several times any L2 cache."""
SMALL = 64 << 20
"""Bytes of maps below which a launch costs as much as the kernel, and graphs are replayed."""


class Clock(Protocol):
    name: str

    def copies(self, bytes_each: int) -> int:
        """How many sets of maps a workload of so many bytes needs to take turns with."""

    def seconds(self, plans: Sequence[Plan], work: Workload, rounds: int) -> list[float]:
        """The median of each plan over rounds in which all have a turn. They have run before."""


class Model:
    """For a machine without a GPU: the seconds that ``cost`` predicts."""

    name = "model"

    def __init__(self, device: Device) -> None:
        self.device = device

    def copies(self, bytes_each: int) -> int:
        return 1

    def seconds(self, plans: Sequence[Plan], work: Workload, rounds: int) -> list[float]:
        return [cost(plan, work.problem, self.device).seconds for plan in plans]


class Gpu:
    name = "events and graphs"

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def copies(self, bytes_each: int) -> int:
        """As many as it takes for a replay to find nothing of the last one in the L2 cache."""
        return 1 if bytes_each >= SMALL else min(64, -(-FLUSH // max(bytes_each, 1)))

    def seconds(self, plans: Sequence[Plan], work: Workload, rounds: int) -> list[float]:
        with torch.cuda.device(self.device), torch.no_grad():
            if work.problem.bytes >= SMALL:
                flush = torch.empty(FLUSH, dtype=torch.int8, device=self.device)
                calls = [self._run(work, plan) for plan in plans]
                return self._medians(calls, rounds, flush.zero_, 1)
            graphs = [self._graph(work, plan) for plan in plans]
            calls = [graph.replay for graph in graphs]
            return self._medians(calls, rounds, lambda: None, work.copies)

    @staticmethod
    def _run(work: Workload, plan: Plan) -> Callable[[], object]:
        return lambda: work.run(plan)

    def _graph(self, work: Workload, plan: Plan) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            # kept to the end, so that each turn writes to memory of its own
            results = [work.run(plan, turn) for turn in range(work.copies)]
        del results
        graph.replay()
        return graph

    def _medians(
        self, calls: Sequence[Callable[[], object]], rounds: int,
        between: Callable[[], object], count: int,
    ) -> list[float]:  # fmt: skip
        order = list(range(len(calls)))
        shuffle = random.Random(0).shuffle
        events = [[] for _ in calls]  # type: list[list[tuple[torch.cuda.Event, torch.cuda.Event]]]
        for _ in range(rounds):
            shuffle(order)
            for i in order:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                between()
                start.record()
                calls[i]()
                end.record()
                events[i].append((start, end))
        torch.cuda.synchronize(self.device)
        return [
            statistics.median(start.elapsed_time(end) for start, end in pairs) / 1e3 / count
            for pairs in events
        ]


def clock_of(torch_device: torch.device, device: Device) -> Clock:
    return Gpu(torch_device) if torch_device.type == "cuda" else Model(device)
