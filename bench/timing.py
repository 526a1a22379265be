"""Interleaved timing: every call runs in every round, so that a busy machine slows all alike."""

from __future__ import annotations

import ctypes
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

Call = Callable[[], object]
# seconds per sample at least: then the clock, a synchronisation and a cold cache hardly count
SAMPLE = 1e-2
FEWEST_ROUNDS = 5
MOST_ROUNDS = 200


@dataclass(frozen=True)
class Quantiles:
    """Seconds per call."""

    p20: float
    p50: float
    p80: float


def once(
    call: Call, device: torch.device, count: int = 1, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds per call: the time of ``count`` calls in a row by the clock, divided by ``count``.

    On a GPU, its queue is empty at the start and at the end.
    """
    _synchronize(device)
    start = clock()
    for _ in range(count):
        call()
    _synchronize(device)
    return (clock() - start) / count


def interleaved(
    calls: Mapping[str, Call],
    device: torch.device,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Quantiles]:
    """Quantiles for each call, over rounds that take about ``seconds`` in total.

    Run every call once before, so that compilation and first allocations are not timed. The first
    call of a turn is not timed either, because the caches still hold another call's data.
    """
    if not calls:
        return {}
    counts = {
        name: max(1, round(SAMPLE / once(call, device, clock=clock)))
        for name, call in calls.items()
    }
    samples: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    shuffle = random.Random(0).shuffle
    stop = time.perf_counter() + seconds
    for completed in range(MOST_ROUNDS):
        if completed >= FEWEST_ROUNDS and time.perf_counter() > stop:
            break
        shuffle(order)
        for name in order:
            calls[name]()
            samples[name].append(once(calls[name], device, counts[name], clock))
    return {
        name: Quantiles(*(float(q) for q in np.quantile(seconds_per_call, (0.2, 0.5, 0.8))))
        for name, seconds_per_call in samples.items()
    }


def keep_memory() -> None:
    """Make the C library keep freed memory.

    By default it returns large blocks to the system from time to time. The next call then pays for
    page faults, which can take longer than a small blur.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # glibc's
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def graph(calls: Sequence[Call], device: torch.device) -> Call:
    """A call that replays all ``calls`` as one CUDA graph; without a GPU it runs them in turn.

    Each of them is run once before the capture.
    """
    for call in calls:
        call()
    if device.type != "cuda":
        return lambda: [call() for call in calls]
    _synchronize(device)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        # kept until the capture ends, so that each result has its own memory
        results = [call() for call in calls]
    del results
    return captured.replay


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
