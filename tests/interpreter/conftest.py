"""The kernels on the CPU: triton must be told before anything imports it."""

import os
import sys

if os.environ.get("TRITON_INTERPRET") != "1":
    if "triton" in sys.modules:
        raise RuntimeError(
            "set TRITON_INTERPRET=1, or run tests/run.sh: triton is imported already"
        )
    os.environ["TRITON_INTERPRET"] = "1"

import triton
from triton.runtime import interpreter


def _with_masks_of_bits() -> None:
    """Where a mask joins a scalar's condition to a block's, Triton's interpreter makes it of int32,
    and from 3.9 on refuses such a mask."""
    builder = interpreter.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store

    def bits(mask: interpreter.TensorHandle) -> interpreter.TensorHandle:
        return interpreter.TensorHandle(mask.data.astype(bool), triton.language.int1)

    builder.create_masked_load = lambda self, at, mask, *rest: load(self, at, bits(mask), *rest)
    builder.create_masked_store = lambda self, at, value, mask, *rest: store(
        self, at, value, bits(mask), *rest
    )


_with_masks_of_bits()
