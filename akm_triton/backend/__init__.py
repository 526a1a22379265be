"""The ops, once for each backend: a module of the same name here, ``torch``, ``cpu`` or ``triton``.

All have ``blur``, ``blur_pair``, ``tap_grads`` and ``blur_backward`` on maps and taps; ``triton``
has ``gated_taps`` and its two derivatives too. ``blur_axis``, ``axis_grads`` and ``axis_backward``
are those of one axis; a backend without them leaves them to ``torch``. ``functional.py`` chooses
between them.
"""

import functools
from typing import Any

BACKENDS = ("triton", "cpu", "torch")


def load(name: str) -> Any:
    """The module of a backend. Triton is optional, so its backend is imported when it is first
    asked for.

    Raises:
        ImportError: Triton is asked for and is not installed.
    """
    if name == "torch":
        from akm_triton.backend import torch as torch_backend

        return torch_backend
    if name == "cpu":
        from akm_triton.backend import cpu

        return cpu
    from akm_triton.backend import triton as triton_backend

    return triton_backend


get = functools.cache(load)
"""``load``, cached. torch.compile objects to caches: code that it traces must call ``load``."""
