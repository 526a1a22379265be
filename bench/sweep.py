"""What every sweep is: rows measured point by point, saved as they come, and a table of them."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import providers, results, timing

Row = dict[str, Any]
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
SAVE_EVERY = 5.0  # seconds


@dataclass(frozen=True)
class Budget:
    """How long to measure, and what is not worth the wait."""

    name: str
    seconds: float  # a point: all providers on one map, at one radius, in one direction
    slowest: float  # seconds a call beyond which a provider is left out, there and at wider radii
    compiled_radius: int  # beyond it compiling takes longer than all the rest


TINY = Budget("tiny", seconds=0.02, slowest=1.0, compiled_radius=0)
QUICK = Budget("quick", seconds=1.0, slowest=0.05, compiled_radius=7)
FULL = Budget("full", seconds=5.0, slowest=2.0, compiled_radius=31)


@dataclass(frozen=True)
class Setting:
    """Where and how thoroughly a sweep is measured."""

    device: torch.device
    budget: Budget
    dtypes: tuple[torch.dtype, ...] = ()
    """Those asked for; none for the sweep's own."""

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def choose(self, cpu: Any, cuda: Any, tiny: Any) -> Any:
        """What the sweep takes here: of three, or of the first half where it is to be quick."""
        if self.budget is TINY:
            return tiny
        found = cuda if self.cuda else cpu
        quick = self.budget.name == QUICK.name and isinstance(found, tuple)
        return found[: max(1, len(found) // 2)] if quick else found

    def dtypes_or(self, cpu: tuple[str, ...], *cuda: str) -> tuple[torch.dtype, ...]:
        """Those asked for, else the sweep's own."""
        return self.dtypes or tuple(DTYPES[name] for name in (cuda if self.cuda else cpu))


@dataclass(frozen=True)
class Sweep:
    """``measure`` yields the rows of a point at a time, what is worth most first; ``table`` is what
    people read of them; ``about`` is for ``--help``."""

    name: str
    measure: Callable[[Setting], Iterator[list[Row]]]
    table: Callable[[list[Row]], str]
    about: str

    def run(
        self, setting: Setting, out: Path = results.ROOT, seconds: float = math.inf
    ) -> tuple[list[Row], Path]:
        """All rows, and the file they are in; past ``seconds`` no further point is begun."""
        if not setting.cuda:
            timing.keep_memory()
        rows: list[Row] = []
        start = saved = time.monotonic()
        more = {"packages": providers.versions(), "budget": setting.budget.name, "complete": False}
        try:
            for point in self.measure(setting):
                rows += point
                now = time.monotonic()
                if now - start > seconds:
                    break
                if now - saved > SAVE_EVERY:
                    results.save(self.name, setting.device, rows, out, **more)
                    saved = now
            else:
                more["complete"] = True
        finally:  # what was measured before a failure is kept
            if rows:
                path = results.save(self.name, setting.device, rows, out, **more)
        if not rows:
            sys.exit(f"{self.name}: there is nothing to measure on {setting.device}")
        return rows, path

    def main(self, argv: list[str]) -> None:
        parser = argparse.ArgumentParser(
            prog=f"python -m bench {self.name}", description=self.about
        )
        parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=(), help="one or more")
        parser.add_argument("--quick", action="store_true", help="fewer points, less time at each")
        parser.add_argument(
            "--out", type=Path, default=results.ROOT, help="a .json file, or a folder of results"
        )
        parser.add_argument(
            "--threads", type=int, default=1, help="of PyTorch; some rivals know only one (1)"
        )
        options = parser.parse_args(argv)
        torch.set_num_threads(options.threads)
        setting = Setting(
            torch.device(options.device),
            QUICK if options.quick else FULL,
            tuple(DTYPES[name] for name in options.dtype),
        )
        rows, path = self.run(setting, options.out)
        print(f"{self.table(rows)}\n\nwritten: {path}")


def maps(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool) -> Row:
    """What a row says of the maps it is about."""
    return {
        "shape": list(shape),
        "layout": "channels_last" if channels_last else "nchw",
        "dtype": name_of(dtype),
    }


def note(error: Exception) -> str:
    """A line of it, for a row that says "failed"."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def rounded(**figures: float) -> dict[str, float]:
    """To four digits, which is more than a measurement knows."""
    return {name: float(f"{x:.4g}") for name, x in figures.items()}


def grid(header: list[str], lines: list[list[str]]) -> str:
    """A table with its first column to the left and the others to the right."""
    every = [header, *lines]
    widths = [max(len(line[i]) for line in every) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in every
    )


def title(shape: Any) -> str:
    return "×".join(map(str, shape))
