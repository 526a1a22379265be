"""What several tests share: the names that they go through, and how they draw a map."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BORDERS = ("symmetric", "zeros", "replicate", "reflect", "circular")
"""Written out: a border that goes missing in the package is missed here."""

FAMILIES = ("discrete", "sampled")


def random(
    *shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, layout: str = "nchw"
) -> Tensor:
    """Standard normal, the same for a seed on every machine; drawn in float64, then rounded."""
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else x
