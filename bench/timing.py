"""Interleaved timing: each call has its turn in every round, so that all meet the same machine."""

from __future__ import annotations

import ctypes
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

Call = Callable[[], object]
SAMPLE = (
    1e-2  # seconds at least, so that the clock, a synchronisation and a cold cache weigh little
)
FEWEST_ROUNDS = 5
MOST_ROUNDS = 200


@dataclass(frozen=True)
class Quantiles:
    """Seconds a call."""

    p20: float
    p50: float
    p80: float


def once(call: Call, device: torch.device, count: int = 1) -> float:
    """Seconds a call, over ``count`` calls in a row: wall time, the queue of a GPU drained at
    both ends."""
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(count):
        call()
    _synchronize(device)
    return (time.perf_counter() - start) / count


def interleaved(
    calls: Mapping[str, Call], device: torch.device, seconds: float
) -> dict[str, Quantiles]:
    """Quantiles of each call over rounds that take about ``seconds`` altogether.

    The calls have been run before: nothing is compiled or allocated for the first time here. The
    first call of a turn is not timed: it finds in the caches what another left there.
    """
    if not calls:
        return {}
    counts = {name: max(1, round(SAMPLE / once(call, device))) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    shuffle = random.Random(0).shuffle
    stop = time.perf_counter() + seconds
    for done in range(MOST_ROUNDS):
        if done >= FEWEST_ROUNDS and time.perf_counter() > stop:
            break
        shuffle(order)
        for name in order:
            calls[name]()
            samples[name].append(once(calls[name], device, counts[name]))
    return {
        name: Quantiles(*(float(q) for q in np.quantile(taken, (0.2, 0.5, 0.8))))
        for name, taken in samples.items()
    }


def keep_memory() -> None:
    """Have the C library keep what is freed. By default it hands large blocks back to the system
    now and then, and the page faults of the next call, which outweigh a small blur, fall on whoever
    has the turn."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # glibc's
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def graph(calls: Sequence[Call], device: torch.device) -> Call:
    """One call that replays all of them, captured as a CUDA graph; without a GPU, one after the
    other. They are run once before."""
    for call in calls:
        call()
    if device.type != "cuda":
        return lambda: [call() for call in calls]
    _synchronize(device)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        # kept to the end, so that each result has memory of its own
        results = [call() for call in calls]
    del results
    return captured.replay


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
