"""A blur added to every AKM layer, and taken away again as training goes on."""

from __future__ import annotations

import math
import numbers
from typing import Any

import torch
from torch import nn

from akm_triton.blurred import Blurred
from akm_triton.surgery.summary import layers_of


class SigmaSchedule:
    r"""Widen every AKM layer by a σ of its own, τ, which goes from ``start`` to ``end``: a
    curriculum by smoothing, in which a network learns coarse structure before fine detail.

    .. math:: σ^2 = r^2 + τ^2, \qquad τ = \mathrm{start} + (\mathrm{end} - \mathrm{start})
        \min(\mathrm{taken} / \mathrm{steps}, 1)

    Variances add, so that with the discrete Gaussian this is the layer and then a blur of τ, exact
    but for what ``max_radius`` cuts off: take one of at least 3 τ. r stays the parameter, and
    ``layer.sigma`` is \|r\| as before.

    τ² is a buffer of each layer, in no state dict: those of the model stay as they are, and this
    schedule has one of its own. Nothing waits for the device, and a compiled model is not compiled
    again. A copy of the model keeps the τ it was copied with.

    Args:
        model: with at least one AKM layer, and no other schedule.
        start, end: τ in pixels of the maps that the layers blur, not negative.
        steps: the number of calls of ``step`` from ``start`` to ``end``, at least 1.

    Raises:
        TypeError, ValueError: an argument of a wrong type or value; the message names it, and the
            model is as it was.

    Example:
        >>> from akm_triton import AKMConv2d
        >>> model = nn.Sequential(AKMConv2d(3, 8, 3))
        >>> schedule = SigmaSchedule(model, start=2.0, end=0.0, steps=100)
        >>> for _ in range(50):
        ...     schedule.step()  # after optimizer.step()
        >>> schedule.tau
        1.0
        >>> schedule.remove()  # the layers as they learned to be
    """

    def __init__(self, model: nn.Module, start: float, end: float, steps: int) -> None:
        self.start, self.end = _pixels("start", start), _pixels("end", end)
        if isinstance(steps, bool) or not isinstance(steps, numbers.Integral):
            raise TypeError(f"steps must be an int, got {steps!r}")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.steps: int = int(steps)
        self.taken: int = 0
        layers = layers_of(model, required=True)
        for name, layer in layers:
            if "added_variance" in layer._buffers:
                raise ValueError(f"layer {name!r} has a schedule already; remove it first")
        self.layers: list[Blurred] = [layer for _, layer in layers]
        for layer in self.layers:
            r = layer.r
            dtype = torch.promote_types(r.dtype, torch.float32)
            # a plain tensor where r is sharded too: FSDP2 gathers r and leaves buffers alone
            added = torch.empty((), dtype=dtype, device=r.device)
            layer.register_buffer("added_variance", added, persistent=False)
        self._fill()

    @property
    def tau(self) -> float:
        """In pixels."""
        return self.start + (self.end - self.start) * min(self.taken / self.steps, 1.0)

    def step(self) -> None:
        """Go on by one step; at ``end``, stay there."""
        self.taken += 1
        self._fill()

    def remove(self) -> None:
        """Leave the layers with the σ that they learned, as if there had been no schedule."""
        for layer in self.layers:
            del layer.added_variance
        self.layers = []

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("start", "end", "steps", "taken")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start, self.end = state["start"], state["end"]
        self.steps, self.taken = state["steps"], state["taken"]
        self._fill()

    def _fill(self) -> None:
        for layer in self.layers:
            layer.get_buffer("added_variance").fill_(self.tau**2)


def _pixels(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number of pixels, 0 or more, got {value}")
    return float(value)
