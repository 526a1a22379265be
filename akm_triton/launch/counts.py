"""The numbers of a plan: rounded as kernels want them, and refused where they are none."""

from __future__ import annotations

import reprlib
from typing import Any


def power_of_two(n: int) -> int:
    """The least that is not below n."""
    return 1 << (n - 1).bit_length()


def check_power_of_two(name: str, value: Any, most: int) -> None:
    """``True`` and 1.0 are no numbers here, nor in ``check_count``."""
    if not (type(value) is int and 0 < value <= most and value & (value - 1) == 0):
        wanted = f"a power of two, at most {most}"
        raise ValueError(f"{name} must be {wanted}, got {reprlib.repr(value)}")


def check_count(name: str, value: Any, least: int, most: int) -> None:
    if not (type(value) is int and least <= value <= most):
        raise ValueError(f"{name} must be {least} to {most}, got {reprlib.repr(value)}")
