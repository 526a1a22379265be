"""Memory formats and sizes of maps: one definition of what is channels_last, and of what a stride
keeps. And the strides of taps."""

from collections.abc import Sequence

import torch
from torch import Tensor

Stride = tuple[int, int]
"""Of rows and of columns: (2, 3) keeps every second row and every third column."""


def is_channels_last(x: Tensor) -> bool:
    """Whether x is dense in channels_last and in no other order; also under vmap, where
    ``is_contiguous`` knows no memory format."""
    return not x.is_contiguous() and x.permute(0, 2, 3, 1).is_contiguous()


def has_constant_size(z: Tensor) -> bool:
    """Whether H and W are numbers, and not symbols of a graph that serves others too."""
    return all(isinstance(size, int) for size in z.shape[2:])


def along(axis: int, step: int) -> Stride:
    """The stride that keeps every step-th row, of axis 2, or column, of axis 3."""
    return (step, 1) if axis == 2 else (1, step)


def kept_shape(z: Tensor, stride: Stride) -> tuple[int, ...]:
    """Of the rows and columns of z that a stride keeps: the first, and every stride-th after it."""
    n, c, h, w = z.shape
    down, across = stride
    return n, c, (h + down - 1) // down, (w + across - 1) // across


def tap_strides(shape: Sequence[int]) -> tuple[int, int]:
    """(stride over samples, stride over channels) of a dense table of taps, (1|C, R+1) or
    (N, C, R+1): 0 where one serves all."""
    *samples, channels, row = shape
    by_sample = channels * row if samples and samples[0] > 1 else 0
    return by_sample, row if channels > 1 else 0


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def empty_like(z: Tensor, stride: Stride = (1, 1)) -> Tensor:
    """An output in the memory format of z: channels_last or contiguous, whatever z's strides; of
    the rows and columns that ``stride`` keeps."""
    memory_format = torch.channels_last if is_channels_last(z) else torch.contiguous_format
    if stride == (1, 1):
        return torch.empty_like(z, memory_format=memory_format)
    shape = kept_shape(z, stride)
    return torch.empty(shape, dtype=z.dtype, device=z.device, memory_format=memory_format)


def format_as(z: Tensor, y: Tensor) -> Tensor:
    """y in the dtype and memory format of z."""
    y = y.to(z.dtype)
    return channels_last(y) if is_channels_last(z) else y.contiguous()
