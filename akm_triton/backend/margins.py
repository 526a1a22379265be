"""What T(a)ᵀ has more than a blur of maps with zeros around them, where the border is "reflect" or
"replicate".

A blur with zeros around the map spreads it over R more rows on either side; the border says to
which row inside each of these is added. They depend on R rows of the map alone, so a kernel can do
all the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def adds_once(size: int, radius: int) -> bool:
    """Whether every row beyond the map is added to a row inside it, and to no other."""
    return radius < size


def add_margins(y: Tensor, g: Tensor, a: Tensor, dim: int, border: str) -> None:
    """Add them to y, which has the rest of T(a)ᵀ g; a is (1|C, R+1) or (N, C, R+1)."""
    if dim == 3:
        y, g = y.mT, g.mT
    radius = a.shape[-1] - 1
    if radius == 0:
        return
    rows = torch.arange(radius, device=a.device)
    # row m + 1 above the map has a[i + m + 1] of row i in it
    distance = rows + rows[:, None] + 1
    spread = F.pad(a, (0, radius))[..., distance]
    for above in (True, False):
        near = g[..., :radius, :] if above else g[..., -radius:, :].flip(-2)
        beyond = spread @ near.to(a.dtype)
        if border == "replicate":
            end = y[..., :1, :] if above else y[..., -1:, :]
            end += beyond.sum(-2, keepdim=True)
        elif above:
            y[..., 1 : radius + 1, :] += beyond
        else:
            y[..., -radius - 1 : -1, :] += beyond.flip(-2)
