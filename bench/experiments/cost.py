"""What an arm costs: parameters, multiplications, and time measured beside the other arms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench import timing

Cost = dict[str, float]


def measure(
    models: dict[str, tuple[nn.Module, Tensor]], device: torch.device, seconds: float
) -> dict[str, Cost]:
    """Of each model, on its input:

    - ``parameters``, learned or not;
    - ``flops`` of one image, forward: two for each multiplication of convolutions, products and
      blurs, whose taps are all counted;
    - ``step_ms`` and ``forward_ms`` of one image: the medians of forward and backward in training,
      and of forward alone, over turns in random order that take ``seconds`` each.
    """
    costs: dict[str, Cost] = {}
    steps: dict[str, Callable[[], object]] = {}
    forwards: dict[str, Callable[[], object]] = {}
    for name, (model, x) in models.items():
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(x)
        costs[name] = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "flops": counter.get_total_flops() // len(x),
        }
        steps[name] = _step(model, x)
        forwards[name] = _forward(model, x)
    for key, mode, calls in (("step_ms", True, steps), ("forward_ms", False, forwards)):
        for model, _ in models.values():
            model.train(mode)
        for name, times in timing.interleaved(calls, device, seconds).items():
            costs[name][key] = float(f"{1e3 * times.p50 / len(models[name][1]):.3g}")
    return costs


def _step(model: nn.Module, x: Tensor) -> Callable[[], object]:
    def call() -> Any:
        model.zero_grad()
        return model(x).square().mean().backward()

    return call


def _forward(model: nn.Module, x: Tensor) -> Callable[[], object]:
    def call() -> Tensor:
        with torch.no_grad():
            y: Tensor = model(x)
        return y

    return call
