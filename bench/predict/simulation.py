"""The programs of a launch, played through one multiprocessor: multiprocessor.c, by ctypes."""

from __future__ import annotations

import ctypes
import functools
import re
import subprocess
import tempfile
from collections.abc import Sequence
from ctypes import c_double, c_int
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

from bench.predict.loops import Path
from bench.predict.machine import Machine
from bench.predict.needs import KINDS, PIPES, need
from bench.predict.sass import Instruction
from bench.predict.work import Work

SOURCE = File(__file__).with_name("multiprocessor.c")
CAUSES = ("fixed", "memory", "shared", "product", "pipe")
EFFECTS = ("none", "barrier", "wait loads", "wait products", "close loads", "fence")


class _Instruction(ctypes.Structure):
    _fields_ = [
        *((name, c_int) for name in (
            "pipe", "kind", "effect", "pending", "closes", "stall", "sets", "reads", "waits")),
        *((name, c_double) for name in ("cycles", "latency", "l2", "dram", "stores")),
    ]  # fmt: skip


class _Launch(ctypes.Structure):
    _fields_ = [
        *((name, c_int) for name in ("warps", "resident", "programs")),
        *((name, c_double) for name in (
            "rounds", "dram", "l2", "latency", "barrier", "fence", "start")),
    ]  # fmt: skip


class _Result(ctypes.Structure):
    _fields_ = [
        ("clocks", c_double), ("round", c_double), ("issued", c_double),
        ("busy", c_double * len(PIPES)), ("dram", c_double), ("waited", c_double * len(CAUSES)),
        ("in_flight", c_double), ("loading", c_double),
    ]  # fmt: skip


@dataclass(frozen=True)
class Played:
    clocks: float
    """From the start of the first program to the end of the last."""
    round: float
    """Clocks of a program for a round of the loop."""
    waits: dict[str, float]
    """Share of its time that a warp waits, by what for."""
    in_flight: float
    """Bytes of loads that are on their way, on the average."""


def play(
    code: list[Instruction], path: Path, work: Work, machine: Machine,
    *, resident: int, programs: int, rounds: float,
) -> Played:  # fmt: skip
    """So many programs of so many rounds, of which ``resident`` run at a time."""
    launch = _Launch(
        work.num_warps, resident, programs, rounds,
        machine.per_clock(machine.dram), machine.per_clock(machine.l2),
        machine.latency, machine.barrier, machine.fence, machine.start,
    )  # fmt: skip
    pieces = [(c_int * max(1, len(x)))(*x) for x in (path.before, path.body, path.after)]
    lengths = (c_int * 3)(len(path.before), len(path.body), len(path.after))
    pointers = (ctypes.POINTER(c_int) * 3)(*(ctypes.cast(x, ctypes.POINTER(c_int)) for x in pieces))
    result = _Result()
    _library().simulate(
        _instructions(code, path, work, machine), pointers, lengths,
        ctypes.byref(launch), ctypes.byref(result),
    )  # fmt: skip
    warps = result.clocks * work.num_warps * resident
    return Played(
        result.clocks,
        result.round,
        {name: result.waited[n] / warps for n, name in enumerate(CAUSES)},
        result.in_flight / max(1.0, result.loading),
    )


def _instructions(
    code: list[Instruction], path: Path, work: Work, machine: Machine
) -> Sequence[_Instruction]:
    """The code for the core. The bytes of a round are shared among its loads and stores: threads
    that are masked move nothing, and the code does not tell which. Loads before the loop are of
    taps."""
    needs = [need(x, machine, work.scattered) for x in code]
    body = set(path.body)
    loads = work.num_warps * path.rounds * sum(needs[n].loads for n in path.body)
    stores = work.num_warps * path.rounds * sum(needs[n].stores for n in path.body)
    found: Any = (_Instruction * len(code))()
    for n, (x, each, y) in enumerate(zip(code, needs, found, strict=True)):
        y.pipe, y.kind = PIPES.index(each.pipe), KINDS.index(each.kind)
        y.cycles, y.latency = each.cycles, each.latency
        y.stall, y.waits = x.stall, x.waits
        y.sets, y.reads = (-1 if s is None else s for s in (x.sets, x.reads))
        y.effect, y.pending = _effect(x)
        y.closes = "gsb0" in x.args
        if each.kind == "load" and n not in body:
            y.kind, y.latency = 0, machine.table_latency
        elif each.loads and loads:
            y.dram, y.l2 = (each.loads * bytes_ / loads for bytes_ in (work.reads, work.requests))
        elif n in body and stores:
            y.stores = each.stores * work.writes / stores
    return found


def _effect(x: Instruction) -> tuple[int, int]:
    """What it does beside its result, and for a wait how many groups may stay pending."""
    name, pending = "none", 0
    if x.never:
        return 0, 0
    if x.base == "BAR" and {"SYNC", "RED"} & set(x.modifiers):
        name = "barrier"
    elif x.base == "DEPBAR" or (x.base == "WARPGROUP" and "DEPBAR" in x.modifiers):
        name = "wait loads" if x.base == "DEPBAR" else "wait products"
        left = re.search(r"(?:SB0|gsb0), 0x([0-9a-f]+)", x.args)
        pending = int(left[1], 16) if left else 0
    elif x.base == "LDGDEPBAR":
        name = "close loads"
    elif x.base in ("MEMBAR", "FENCE"):
        name = "fence"
    return EFFECTS.index(name), pending


@functools.cache
def _library() -> Any:
    """The core, compiled once for this process: half a second.

    Raises:
        RuntimeError: there is no C compiler, or it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        built = File(folder) / "multiprocessor.so"
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(built), str(SOURCE)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", "") or error
            raise RuntimeError(f"{' '.join(command)} fails: {reason}") from error
        return ctypes.CDLL(str(built))
