"""Memory formats of maps: one definition of what is channels_last."""

import torch
from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """Whether x is dense in channels_last and in no other order; also under vmap, where
    ``is_contiguous`` knows no memory format."""
    return not x.is_contiguous() and x.permute(0, 2, 3, 1).is_contiguous()


def has_constant_size(z: Tensor) -> bool:
    """Whether H and W are numbers, and not symbols of a graph that serves others too."""
    return all(isinstance(size, int) for size in z.shape[2:])


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def empty_like(z: Tensor) -> Tensor:
    """An output in the memory format of z: channels_last or contiguous, whatever z's strides."""
    memory_format = torch.channels_last if is_channels_last(z) else torch.contiguous_format
    return torch.empty_like(z, memory_format=memory_format)


def format_as(z: Tensor, y: Tensor) -> Tensor:
    """y in the dtype and memory format of z."""
    y = y.to(z.dtype)
    return channels_last(y) if is_channels_last(z) else y.contiguous()
