"""Trains a small network, the same way in every experiment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import akm_triton as akm

Augment = Callable[[Tensor, torch.Generator], Tensor]
AT_ONCE = 500  # images, in a test


def train(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    steps: int,
    batch: int,
    rate: float,
    modulation_rate: float,
    seed: int,
    augment: Augment | None = None,
    curriculum: float = 0.0,
) -> None:
    """Adam, whose rate rises and falls in one cycle; no weight decay.

    Args:
        x: images (n, C, H, W), uint8, or float32 of any range; on the model's device.
        y: labels (n,), or of each pixel (n, H, W).
        modulation_rate: of r and s, in multiples of ``rate``.
        seed: of the batches and the augmentation.
        curriculum: σ in pixels, added to every AKM layer at first and gone after 4/5 of the steps.
    """
    groups = akm.parameter_groups(
        model, lr=rate, weight_decay=0.0, modulation_lr=rate * modulation_rate
    )
    groups = [group for group in groups if group["params"]]
    optimizer = torch.optim.Adam(groups)
    rates = [group["lr"] for group in groups]
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps)
    schedule = (
        akm.SigmaSchedule(model, curriculum, 0.0, max(1, 4 * steps // 5)) if curriculum else None
    )
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for rows in _batches(len(x), batch, steps, generator):
        images = as_input(x[rows])
        if augment:
            images = augment(images, generator)
        loss = F.cross_entropy(model(images), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cycle.step()
        if schedule:
            schedule.step()
    if schedule:
        schedule.remove()
    model.eval()


def _batches(count: int, batch: int, steps: int, generator: torch.Generator) -> list[Tensor]:
    """Epoch after epoch, each in a new order; a batch has no image twice."""
    batch = min(batch, count)
    found: list[Tensor] = []
    while len(found) < steps:
        order = torch.randperm(count, generator=generator)
        found += [rows for rows in order.split(batch) if len(rows) == batch]
    return found[:steps]


def as_input(x: Tensor) -> Tensor:
    return x.float() / 255 if x.dtype == torch.uint8 else x


def predictions(model: nn.Module, x: Tensor) -> np.ndarray[Any, Any]:
    """The most likely class, (n,), or of each pixel, (n, H, W)."""
    with torch.no_grad():
        parts = [model(as_input(part)).argmax(1).cpu() for part in x.split(AT_ONCE)]
    return torch.cat(parts).numpy()


def noise(most: float) -> Augment:
    """Gaussian noise for half of the images, of a deviation from 0 to ``most``."""

    def augment(x: Tensor, generator: torch.Generator) -> Tensor:
        shape = (len(x), 1, 1, 1)
        chosen = torch.rand(shape, generator=generator) < 0.5
        deviation = chosen * most * torch.rand(shape, generator=generator)
        noise = deviation * torch.randn(x.shape, generator=generator)
        return (x + noise.to(x.device)).clamp(0, 1)

    return augment


def sigmas(model: nn.Module) -> list[list[float]]:
    """σ in pixels of each channel of each AKM layer."""
    return [
        [round(x, 5) for x in layer.sigma.flatten().tolist()]
        for layer in model.modules()
        if isinstance(layer, akm.Modulation2d | akm.AKMConv2d | akm.BlurPool2d)
    ]
