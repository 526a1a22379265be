"""cvt: from one type to another."""

from __future__ import annotations

import numpy as np

from tests.emulator.arithmetic import computed
from tests.emulator.machine import DTYPES, Machine, Step, handles
from tests.emulator.memory import Array
from tests.emulator.parser import Instruction, Unknown

ROUNDED = {"rni": np.rint, "rpi": np.ceil, "rmi": np.floor, "rzi": np.trunc}


def float16_bits(x: Array) -> Array:
    return x.astype(np.float16).view(np.uint16)


def bfloat16_bits(x: Array) -> Array:
    """Rounded to nearest, ties to even."""
    bits = x.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)) >> np.uint32(16)
    return np.where(np.isnan(x), 0x7FFF, rounded).astype(np.uint16)


def from_bits(bits: Array, kind: str) -> Array:
    """float32 of numbers of 16 bits, or of the upper 19 bits of tf32."""
    if kind == "f16":
        return bits.view(np.float16).astype(np.float32)
    if kind == "bf16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if kind == "tf32":
        return (bits & np.uint32(0xFFFFE000)).view(np.float32)
    raise Unknown(f"products of {kind}")


BITS = {"f16": float16_bits, "bf16": bfloat16_bits}


@handles("cvt")
def _convert(machine: Machine, x: Instruction) -> Step:
    how, to, of = [m for m in ["", *x.modifiers] if m != "ftz"][-3:]
    if how not in ("", "rn", "rna", *ROUNDED) or len(x.modifiers) > 3 + ("ftz" in x.modifiers):
        raise Unknown("rounding")
    if to.endswith("x2"):
        bits = BITS[to[:-2]]

        def both(high: Array, low: Array) -> Array:
            return bits(low) | bits(high).astype(np.uint32) << np.uint32(16)

        return computed(machine, x, both, [of, of])
    if (how, to) == ("rna", "tf32"):  # to nearest, ties away from zero
        return computed(
            machine, x, lambda a: a + np.uint32(0x1000) & np.uint32(0xFFFFE000), ["b32"]
        )
    if (to, of) == ("bf16", "f32"):
        return computed(machine, x, bfloat16_bits, [of])
    if (to, of) == ("f32", "bf16"):
        return computed(machine, x, lambda a: from_bits(a, of), ["b16"])
    dtype = np.dtype(DTYPES[to])

    def function(a: Array) -> Array:
        a = ROUNDED.get(how, np.asarray)(a)
        if a.dtype.kind == "f" and dtype.kind in "iu":  # saturates, and NaN is 0
            limits = np.iinfo(dtype)
            a = np.clip(np.nan_to_num(a.astype(np.float64)), limits.min, limits.max)
        return a.astype(dtype)

    return computed(machine, x, function, [of])
