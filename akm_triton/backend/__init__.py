"""The ops by backend. Triton is optional, so its backend is imported when it is first asked for."""

from types import ModuleType

BACKENDS = ("triton", "torch")


def get(name: str) -> ModuleType:
    """The module of a backend; ImportError where Triton is asked for and missing."""
    if name == "torch":
        from akm_triton.backend import torch as plain

        return plain
    from akm_triton.backend import triton as fused

    return fused
