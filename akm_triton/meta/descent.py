"""How an inner step moves the parameters: along a gradient of bounded norm, with momentum."""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from akm_triton.meta.calling import Parameters
from akm_triton.meta.options import read_number


class Descent(NamedTuple):
    """v ← μ v + g, φ ← φ − α v, with g the gradient, shortened to at most ``max_norm``."""

    momentum: float
    """μ, 0 for none."""
    max_norm: float | None

    def step(
        self, adapted: Parameters, velocity: Parameters, grads: Parameters, rates: Parameters
    ) -> tuple[Parameters, Parameters]:
        """The parameters and their velocities after a step; before the first, and without momentum,
        there are no velocities."""
        if self.max_norm is not None:
            grads = bounded(grads, self.max_norm)
        if velocity:
            grads = {name: self.momentum * velocity[name] + g for name, g in grads.items()}
        moved = {name: p - rates[name] * grads[name] for name, p in adapted.items()}
        return moved, grads if self.momentum else {}


def read_descent(momentum: object, max_norm: object) -> Descent:
    """Raises TypeError or ValueError, naming the option."""
    mu = read_number("inner_momentum", momentum)
    if not 0 <= mu < 1:
        raise ValueError(f"inner_momentum must be at least 0 and less than 1, got {momentum}")
    if max_norm is None:
        return Descent(mu, None)
    bound = read_number("inner_max_norm", max_norm)
    if not bound > 0:
        raise ValueError(f"inner_max_norm must be None or positive, got {max_norm}")
    return Descent(mu, bound)


def bounded(grads: Parameters, bound: float) -> Parameters:
    """g · min(1, bound / ‖g‖), with the norm of all numbers together.

    Squares are taken of the numbers divided by the largest, so that none overflows, not even in
    float16; and where all are zero, no derivative is NaN.
    """
    sizes = [g.detach().abs().amax() for g in grads.values() if g.numel()]
    if not sizes:
        return grads
    largest = reduce(torch.maximum, sizes)
    some = largest > 0
    unit = torch.where(some, largest, 1)
    squares: list[Tensor] = [(g / unit).square().sum() for g in grads.values()]
    length = torch.where(some, sum(squares[1:], squares[0]), 1).sqrt()
    most = (bound / unit).clamp(max=torch.finfo(length.dtype).max)  # in units of the largest
    scale = torch.where(some & (length > most), most / length, 1)
    return {name: (scale * g).to(g.dtype) for name, g in grads.items()}
