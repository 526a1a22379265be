"""How long plans take: on a GPU by events around replays of a CUDA graph; elsewhere a stand-in."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from typing import Protocol

import torch

from akm_triton.launch.plan import Plan
from akm_triton.tuning.traffic import traffic
from akm_triton.tuning.workload import Workload

FLUSH = 256 << 20
"""Bytes read between two runs, several times any L2 cache."""


class Clock(Protocol):
    name: str

    def copies(self, bytes_each: int) -> int:
        """How many sets of maps a workload of so many bytes needs to take turns with."""

    def seconds(self, plans: Sequence[Plan], work: Workload, rounds: int) -> list[float]:
        """The median of each plan over rounds in which all have a turn. They have run before."""


class Bytes:
    """For a machine without a GPU, where tuning can only be tried: the bytes that a plan asks for,
    at 1 TB/s."""

    name = "bytes"

    def copies(self, bytes_each: int) -> int:
        return 1

    def seconds(self, plans: Sequence[Plan], work: Workload, rounds: int) -> list[float]:
        return [traffic(plan, work.problem).requested_bytes / 1e12 for plan in plans]


class Gpu:
    """Replays of CUDA graphs between events. The host only starts a replay, and while it does, the
    GPU reads: so that no time of the host falls between the events, and no run finds its maps in
    the L2 cache, nor that full of what is yet to be written to memory."""

    name = "events and graphs"

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):
            self._flush = torch.zeros(FLUSH // 4, device=device)
            self._stream = torch.cuda.Stream()  # to capture on
            self._pool = torch.cuda.graph_pool_handle()
        self._last: torch.cuda.CUDAGraph | None = None

    def copies(self, bytes_each: int) -> int:
        """As many as make a replay long beside its start."""
        return max(1, min(64, FLUSH // max(bytes_each, 1)))

    def seconds(self, plans: Sequence[Plan], work: Workload, rounds: int) -> list[float]:
        with torch.cuda.device(self.device), torch.no_grad():
            graphs = [self._graph(work, plan) for plan in plans]
            order = list(range(len(graphs)))
            shuffle = random.Random(0).shuffle
            events: list[list[tuple[torch.cuda.Event, torch.cuda.Event]]] = [[] for _ in graphs]
            for _ in range(rounds):
                shuffle(order)
                for i in order:
                    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                    self._flush.sum()
                    start.record()
                    graphs[i].replay()
                    end.record()
                    events[i].append((start, end))
            torch.cuda.synchronize()
        return [
            statistics.median(start.elapsed_time(end) for start, end in pairs) / 1e3 / work.copies
            for pairs in events
        ]

    def _graph(self, work: Workload, plan: Plan) -> torch.cuda.CUDAGraph:
        """A turn with each copy. Not by ``torch.cuda.graph``, which hands the memory that PyTorch
        keeps for the user's next step back to the driver, and refuses what other threads of a
        training do meanwhile."""
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            # all in one pool: no graph needs its results any more when another runs
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                # kept to the end, so that each turn writes to memory of its own
                results = [work.run(plan, turn) for turn in range(work.copies)]
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(self._stream)
        del results
        graph.replay()
        self._last = graph  # a pool without any graph may not be used again
        return graph


def clock_of(torch_device: torch.device) -> Clock:
    return Gpu(torch_device) if torch_device.type == "cuda" else Bytes()
