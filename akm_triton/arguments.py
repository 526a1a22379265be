"""What the functions are given, checked; and which backend serves it."""

from __future__ import annotations

import numbers
import os
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from akm_triton import backend as backends
from akm_triton.borders import BORDERS
from akm_triton.gaussian import check_dense, check_window, is_number
from akm_triton.launch.problem import MAX_RADIUS
from akm_triton.sharding import replicated
from akm_triton.tracing import is_batched, sizes

_HAS_TRITON = find_spec("triton") is not None


def check_options(
    gaussian: str, border: str, truncate: float | None, max_radius: int
) -> tuple[float | None, int]:
    """Raise for an option that means nothing, naming it; returns truncate as a float or None, and
    max_radius as an int."""
    if border not in BORDERS:
        raise ValueError(f"border must be one of {BORDERS}, got {border!r}")
    return check_window(gaussian, truncate, max_radius)


def check_pair(name: str, value: Any, least: int) -> tuple[int, int]:
    """Raise for what is no int, for rows and columns alike, or pair of ints; returns a pair."""
    a, b = check_each(name, value, least, 2)
    return a, b


_COUNTED = {1: "", 2: " or a pair of ints", 3: " or three ints"}


def check_each(name: str, value: Any, least: int, count: int) -> tuple[int, ...]:
    """``check_pair`` for so many axes, 1 to 3."""
    given = isinstance(value, (tuple, list)) and len(value) == count
    each = tuple(value) if given else (value,) * count
    for x in each:
        if type(x) is not int and (isinstance(x, bool) or not isinstance(x, numbers.Integral)):
            raise TypeError(f"{name} must be an int{_COUNTED[count]}, got {value!r}")
        if x < least:
            raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return tuple(map(int, each))


Axes = int | tuple[int, ...]

SHAPES = {
    1: "(N, C, L) or (C, L)",
    2: "(N, C, H, W) or (C, H, W)",
    3: "(N, C, D, H, W) or (C, D, H, W)",
}
"""Of what has so many axes that can be blurred."""


def check_axes(axes: Any) -> tuple[int, ...]:
    """Raise for what are no axes counted from the last, -1 to -3; returns them as given."""
    given = tuple(axes) if isinstance(axes, (tuple, list)) else (axes,)
    if not all(isinstance(x, numbers.Integral) and not isinstance(x, bool) for x in given):
        raise TypeError(f"axes must be an int or a tuple of ints, got {axes!r}")
    if not given or len({*given}) < len(given) or not all(-3 <= x <= -1 for x in given):
        raise ValueError(
            f"axes must be some of -1, -2 and -3, counted from the last, each once, got {axes!r}"
        )
    return tuple(map(int, given))


def check_map(z: Tensor, axes: tuple[int, ...] | None) -> tuple[torch.Size, int]:
    """Raise for what is no signal, map or volume; returns its shape, and how many of its axes are
    behind the channels."""
    if not isinstance(z, Tensor):
        raise TypeError(f"z must be a Tensor, got {type(z).__name__}")
    check_dense("z", z)
    if not z.is_floating_point() or z.element_size() < 2:
        raise TypeError(f"z must be float16, bfloat16, float32 or float64, got {z.dtype}")
    shape = sizes(z)
    rank = len(shape)
    least = 2 if axes is None else -min(axes)
    count = max(least, rank - 2) if axes is not None or rank == 5 else 2
    if count > 3 or rank not in (count + 1, count + 2):
        raise ValueError(f"z must be {SHAPES[least]}, got shape {tuple(shape)}")
    if 0 in shape[-count - 1 :]:
        what = "rows and columns" if count == 2 else "pixels"
        raise ValueError(f"z must have channels, {what}, got shape {tuple(shape)}")
    return shape, count


def _from_number(name: str, x: Any, z: Tensor) -> Tensor:
    if not is_number(x):
        raise TypeError(f"{name} must be a Tensor or a number, got {type(x).__name__}")
    dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
    # filled on the device: for a copy to it the host would wait
    return replicated(torch.full((1,), float(x), dtype=dtype, device=z.device), z)


def as_op_takes(name: str, x: Any, z: Tensor, of_map: torch.Size, count: int = 2) -> Tensor:
    """r or s as (1|C,) or (N, C); raises for what does not belong to z, of shape ``of_map`` with
    ``count`` axes behind the channels."""
    if not isinstance(x, Tensor):
        return _from_number(name, x, z)
    check_dense(name, x)
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {x.dtype}")
    if x.device != z.device:
        raise ValueError(f"{name} is on {x.device} but z is on {z.device}; move one of them")
    shape, c = sizes(x), of_map[-1 - count]
    rank = len(shape)
    if rank == 0:
        return x.reshape(1)
    # axis by axis: a comparison of shapes compares N with C too, which a graph would then depend on
    if rank == 1 and (shape[0] == c or shape[0] == 1):
        return x
    n = of_map[0] if len(of_map) == count + 2 else 1
    if rank != 2 or shape[0] not in (1, n) or shape[1] not in (1, c):
        raise ValueError(
            f"{name} must have shape (), (1,), ({c},) or ({n}, {c}) for z of shape "
            f"{tuple(of_map)}, got {tuple(shape)}"
        )
    if shape[0] == 1:
        return x[0]
    return x if shape[1] == c else x.expand(-1, c)


def choose_backend(backend: str | None, z: Tensor, max_radius: int) -> str:
    """The name of the backend asked for, or of the one that serves z."""
    asked = backend or os.environ.get("AKM_BACKEND") or None
    if asked is None:
        if z.is_cuda:
            return "triton" if _why_not_triton(z, max_radius) is None else "torch"
        # a graph is to hold PyTorch's operations, which a compiler can fuse
        compiled = z.is_cpu and not torch.compiler.is_compiling()
        return "cpu" if compiled and backends.load("cpu").serves(z.dtype) else "torch"
    if asked not in backends.BACKENDS:
        source = "backend" if backend else "AKM_BACKEND"
        raise ValueError(f"{source} must be one of {backends.BACKENDS}, got {asked!r}")
    refusal = None
    if asked == "triton":
        refusal = _why_not_triton(z, max_radius)
    elif asked == "cpu":
        refusal = _why_not_cpu(z)
    if refusal is not None:
        raise refusal
    return asked


def _why_not_cpu(z: Tensor) -> Exception | None:
    """What keeps the compiled kernels for CPUs from taking z; None where nothing does."""
    if not z.is_cpu:
        return ValueError(f"backend 'cpu' needs CPU tensors, got z on {z.device}")
    if torch.compiler.is_compiling():
        return None
    reason = backends.load("cpu").why_not(z.dtype)
    return None if reason is None else RuntimeError(f"backend 'cpu' does not serve here: {reason}")


def _why_not_triton(z: Tensor, max_radius: int) -> Exception | None:
    """What keeps the Triton kernels from taking z; None where nothing does."""
    if not _HAS_TRITON:
        return ImportError("backend 'triton' needs the package triton; pip install triton")
    if z.dtype == torch.float64:
        return TypeError("backend 'triton' takes float16, bfloat16 and float32, got float64")
    if max_radius > MAX_RADIUS:
        return ValueError(f"backend 'triton' takes max_radius up to {MAX_RADIUS}, got {max_radius}")
    if not (z.is_cuda or backends.load("triton").takes(z)):
        return ValueError(
            f"backend 'triton' needs CUDA tensors, got z on {z.device}; to interpret kernels "
            "on the CPU set TRITON_INTERPRET=1 before the first import of triton"
        )
    return None


def autocast_dtype(z: Tensor, *parameters: Tensor) -> torch.dtype | None:
    """The dtype that autocast gives a convolution of z, or None where it gives none."""
    device = z.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return None
    if device == "cpu" and is_batched(z, *parameters):
        return None  # vmap turns conv2d into aten.convolution, which only other devices cast
    return z.dtype if z.dtype == torch.float64 else torch.get_autocast_dtype(device)
