"""What all sweeps share: they measure point by point, save rows as they come, and print a table."""

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
    """How long to measure, and which providers to leave out because they take too long."""

    name: str
    seconds: float  # per point: all providers on one map, at one radius, in one direction
    slowest: float  # seconds per call; a slower provider is left out here and at larger radii
    compiled_radius: int  # at larger radii, torch.compile takes longer than everything else


TINY = Budget("tiny", seconds=0.02, slowest=1.0, compiled_radius=0)
QUICK = Budget("quick", seconds=1.0, slowest=0.05, compiled_radius=7)
FULL = Budget("full", seconds=5.0, slowest=2.0, compiled_radius=31)


@dataclass(frozen=True)
class Setting:
    """The device that a sweep runs on, its budget, and the dtypes."""

    device: torch.device
    budget: Budget
    dtypes: tuple[torch.dtype, ...] = ()
    """Those named on the command line; empty means the sweep's default."""

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def choose(self, cpu: Any, cuda: Any, tiny: Any) -> Any:
        """The value for this device and budget; a quick run takes the first half of a tuple."""
        if self.budget is TINY:
            return tiny
        value = cuda if self.cuda else cpu
        if self.budget.name == QUICK.name and isinstance(value, tuple):
            return value[: max(1, len(value) // 2)]
        return value

    def dtypes_or(self, cpu: tuple[str, ...], *cuda: str) -> tuple[torch.dtype, ...]:
        """The dtypes named on the command line, or else the sweep's default for this device."""
        return self.dtypes or tuple(DTYPES[name] for name in (cuda if self.cuda else cpu))


@dataclass(frozen=True)
class Sweep:
    """A benchmark that measures one point after another."""

    name: str
    measure: Callable[
        [Setting], Iterator[list[Row]]
    ]  # yields one point at a time, most useful first
    table: Callable[[list[Row]], str]  # the rows as text for people
    about: str  # for --help
    facts: Callable[[], dict[str, Any]] = dict  # what else the result file says

    def run(
        self, setting: Setting, out: Path = results.ROOT, seconds: float = math.inf
    ) -> tuple[list[Row], Path]:
        """Measure, save and return all rows, and the file that holds them.

        After ``seconds`` no new point is started.
        """
        if not setting.cuda:
            timing.keep_memory()
        rows: list[Row] = []
        start = saved = time.monotonic()
        more = {"packages": providers.versions(), "budget": setting.budget.name, "complete": False}
        more |= self.facts()
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
        finally:  # keep what was measured before a failure
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
        parser.add_argument("--quick", action="store_true", help="fewer points, less time on each")
        parser.add_argument(
            "--out", type=Path, help="a .json file, or a folder of results "
            "(bench/results; with --quick bench/local, which git ignores)",
        )  # fmt: skip
        parser.add_argument(
            "--threads", type=int, default=1, help="PyTorch threads; some rivals use only one (1)"
        )
        options = parser.parse_args(argv)
        torch.set_num_threads(options.threads)
        setting = Setting(
            torch.device(options.device),
            QUICK if options.quick else FULL,
            tuple(DTYPES[name] for name in options.dtype),
        )
        rows, path = self.run(setting, options.out or default_folder(options.quick))
        print(f"{self.table(rows)}\n\nwritten: {path}")


def default_folder(quick: bool) -> Path:
    """Quick results are for the person who measures; full ones are committed."""
    return results.LOCAL if quick else results.ROOT


def maps(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool) -> Row:
    """The keys by which a row names its maps."""
    return {
        "shape": list(shape),
        "layout": "channels_last" if channels_last else "nchw",
        "dtype": name_of(dtype),
    }


def note(error: Exception) -> str:
    """The error on one line, for a row whose status is "failed"."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def rounded(**figures: float) -> dict[str, float]:
    """To four significant digits, which is more than timing can resolve."""
    return {name: float(f"{x:.4g}") for name, x in figures.items()}


def grid(header: list[str], lines: list[list[str]]) -> str:
    """A table of text: the first column is aligned left, the others right."""
    lines = [header, *lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def title(shape: Any) -> str:
    return "×".join(map(str, shape))
