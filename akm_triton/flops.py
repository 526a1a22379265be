"""What ``torch.utils.flop_counter.FlopCounterMode`` counts for the ops.

An op of ours is so many passes of 2R+1 taps along one axis of a map, whatever algorithm computes
it, and a tap is a multiplication and an addition. As for every operator, only products are counted.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from akm_triton.tracing import TRIED

if TRIED:
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

_formulas: dict[Any, Any] = {}


Passes = int | Callable[..., int]
"""How many passes over its first map an op is; or, of its arguments, how many pixels they write."""


def declare(op: Any, maps: int, passes: Passes) -> None:
    """Count so many passes for the op, whose first ``maps`` arguments are maps (N, C, H, W) and
    whose next one is taps (…, R+1), or R."""
    _formulas[op._overloadpacket] = functools.partial(_count, maps, passes)


def prepare() -> None:
    """Tell the counters at work about the ops.

    Each has copied PyTorch's formulas when it was made, and to add ours there before would mean to
    import Triton.
    """
    if "torch.utils.flop_counter" not in sys.modules or not TRIED:
        return
    for mode in _get_current_dispatch_mode_stack():
        counter: Any = getattr(mode, "counter", None)
        if hasattr(counter, "flop_registry"):
            counter.flop_registry = _formulas | counter.flop_registry


def _count(maps: int, passes: Passes, *args: Any, out_val: Any = None) -> int:
    pixels: int = passes(*args) if callable(passes) else passes * args[0].numel()
    taps = args[maps]
    radius = taps if isinstance(taps, int) else taps.shape[-1] - 1
    return 2 * (2 * radius + 1) * pixels
