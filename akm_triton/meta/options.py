"""Options as plain Python values, or an error that names the option."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any


def read_integer(name: str, value: Any) -> int:
    """An integer of Python, NumPy or PyTorch; ``True`` and ``2.0`` are refused."""
    number = value.item() if hasattr(value, "item") else value
    if isinstance(number, bool) or not isinstance(number, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    return int(number)


def read_flag(name: str, value: Any) -> bool:
    """``True`` or ``False``, or what equals one of them, such as NumPy's."""
    if value not in (True, False):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def read_numbers(name: str, value: Any) -> list[float]:
    """A number, or a sequence, array or tensor of numbers in one dimension, as a list."""
    items = value.tolist() if hasattr(value, "tolist") else value
    items = items if isinstance(items, Sequence) and not isinstance(items, str | bytes) else [items]
    if any(getattr(x, "requires_grad", False) for x in (value, *items)):
        raise ValueError(f"{name} would not learn: it is read as constants; detach() the tensor")
    numbers = [x.tolist() if hasattr(x, "tolist") else x for x in items]
    if not all(isinstance(x, Real) and not isinstance(x, bool) for x in numbers):
        raise TypeError(f"{name} must be a number or a sequence of numbers, got {value!r}")
    if not all(math.isfinite(x) for x in numbers):
        raise ValueError(f"{name} must be finite, got {value}")
    return [float(x) for x in numbers]


def read_number(name: str, value: Any) -> float:
    """One finite number."""
    numbers = read_numbers(name, value)
    if len(numbers) != 1:
        raise TypeError(f"{name} must be a number, got {value!r}")
    return numbers[0]
