"""Episodes out of a split, and the floor that any learner must beat."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from akm_triton.meta.episodes import Episode
from bench.fewshot.datasets import Split

JITTER = dict(turn=8.0, scale=0.08, shear=0.08, shift=0.75)  # degrees, parts, parts, pixels; ±


class Sampler:
    """Draws N-way K-shot episodes; the random numbers are the generator's alone.

    A query image is never of a row that the support set has. Where a class has fewer than
    ``shot + query`` images, rows are repeated within either set.
    """

    def __init__(
        self, split: Split, way: int, shot: int, query: int, generator: torch.Generator,
        jitter: bool = False, shift: bool = False,
    ) -> None:  # fmt: skip
        self.groups = [group for group in split.groups if len(group) >= way]
        if not self.groups:
            most = max(len(group) for group in split.groups)
            raise ValueError(f"way={way}, but no group has more than {most} classes")
        self.split, self.way, self.shot, self.query = split, way, shot, query
        self.generator, self.jitter, self.shift = generator, jitter, shift

    def draw(self, tasks: int) -> Episode:
        """Inputs (tasks, way·shot, C, H, W) of 0 … 1 and labels, and way·query likewise."""
        support, query = zip(*(self._rows() for _ in range(tasks)), strict=True)
        xs, xq = self._images(torch.stack(support)), self._images(torch.stack(query))
        if self.shift:
            xq = torch.stack([corrupt(x, self.generator) for x in xq])
        labels = torch.arange(self.way)
        ys, yq = labels.repeat_interleave(self.shot), labels.repeat_interleave(self.query)
        return (xs, ys.repeat(tasks, 1)), (xq, yq.repeat(tasks, 1))

    def _rows(self) -> tuple[Tensor, Tensor]:
        group = self.groups[self._integer(len(self.groups))]
        support, query = [], []
        for k in torch.randperm(len(group), generator=self.generator)[: self.way].tolist():
            rows = self.split.classes[group[k]]
            rows = rows[torch.randperm(len(rows), generator=self.generator)]
            cut = min(self.shot, len(rows) - 1)
            support.append(_cycled(rows[:cut], self.shot))
            query.append(_cycled(rows[cut:], self.query))
        return torch.cat(support), torch.cat(query)

    def _images(self, rows: Tensor) -> Tensor:
        x = self.split.images[rows].float() / 255
        if not self.jitter:
            return x
        flat = x.flatten(0, 1)
        return jittered(flat, self.generator).reshape(x.shape)

    def _integer(self, high: int) -> int:
        return int(torch.randint(high, (), generator=self.generator))


def _cycled(rows: Tensor, count: int) -> Tensor:
    return rows.repeat(-(-count // len(rows)))[:count]


def jittered(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image (n, C, H, W) turned, scaled, sheared and shifted a little."""
    turn, across, down, shear, dx, dy = 2 * torch.rand(6, len(x), generator=generator) - 1
    angle = turn * math.radians(JITTER["turn"])
    across, down = 1 + JITTER["scale"] * across, 1 + JITTER["scale"] * down
    shear, shift = JITTER["shear"] * shear, 2 * JITTER["shift"] / x.shape[-1]
    cos, sin = angle.cos(), angle.sin()
    rows = [cos * across, (shear * cos - sin) * down, shift * dx]
    rows += [sin * across, (shear * sin + cos) * down, shift * dy]
    grid = F.affine_grid(torch.stack(rows, 1).reshape(-1, 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def corrupt(x: Tensor, generator: torch.Generator) -> Tensor:
    """All images (n, C, H, W) of a query set in one way: noise, a box blur, faint, or covered."""
    kind = int(torch.randint(4, (), generator=generator))
    if kind == 0:
        return (x + 0.3 * torch.randn(x.shape, generator=generator)).clamp(0, 1)
    if kind == 1:
        return F.avg_pool2d(x, 5, stride=1, padding=2, count_include_pad=False)
    if kind == 2:
        return 0.35 + 0.3 * x
    size = x.shape[-1] // 2
    top, left = torch.randint(size, (2,), generator=generator).tolist()
    x = x.clone()
    x[..., top : top + size, left : left + size] = 0
    return x


def nearest_neighbour(episodes: Episode) -> Tensor:
    """Part of each query set whose nearest support image, by squared difference of pixels, is of
    its class; (tasks,)."""
    (xs, ys), (xq, yq) = episodes
    nearest = torch.cdist(xq.flatten(2), xs.flatten(2)).argmin(2)
    return (ys.gather(1, nearest) == yq).float().mean(1)
