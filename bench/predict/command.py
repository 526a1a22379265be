"""The command line of ``python -m bench predict``."""

from __future__ import annotations

import argparse
import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.predict.cases import FEW, OPS, WHOLE
from bench.predict.machine import MACHINES
from bench.predict.sweep import SWEEP, facts, machine_of, measure
from bench.sweep import DTYPES, FULL, Setting, default_folder


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench predict", description=SWEEP.about)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="a few cases")
    parser.add_argument(
        "--out", type=Path, help="a .json file, or a folder of results (bench/results for all "
        "cases on an H100; bench/local, which git ignores, for anything else)",
    )  # fmt: skip
    parser.add_argument("--machine", choices=MACHINES, help="this GPU, or else H100")
    parser.add_argument("--set", nargs="+", default=[], metavar="latency=900", help="assumptions")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES)
    parser.add_argument("--layout", nargs="+", choices=("nchw", "channels_last"))
    parser.add_argument("--size", nargs="+", type=int, help="sides of the maps")
    parser.add_argument("--radius", nargs="+", type=int)
    parser.add_argument("--op", nargs="+", choices=OPS)
    parser.add_argument("--batch", type=int)
    args = parser.parse_args(argv)
    given: dict[str, Any] = {
        "dtypes": args.dtype and tuple(DTYPES[name] for name in args.dtype),
        "channels_last": args.layout and tuple(name == "channels_last" for name in args.layout),
        "sizes": args.size and tuple(args.size), "radii": args.radius and tuple(args.radius),
        "ops": args.op and tuple(args.op), "batch": args.batch,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value}
    device = torch.device(args.device)
    machine = MACHINES[args.machine] if args.machine else machine_of(device)
    try:
        pairs = (text.split("=") for text in args.set)
        machine = replace(machine, **{name: float(value) for name, value in pairs})  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        known = ", ".join(x["name"] for x in machine.assumptions())
        parser.error(f"--set takes name=number, of {known}: {error}")
    sweep = replace(
        SWEEP,
        measure=functools.partial(
            measure, wanted=replace(FEW if args.quick else WHOLE, **given), machine=machine
        ),
        facts=functools.partial(facts, machine),
    )
    whole = not (given or args.quick or args.machine or args.set)
    rows, path = sweep.run(Setting(device, FULL), args.out or default_folder(quick=not whole))
    print(f"{sweep.table(rows)}\n\nwritten: {path}")
