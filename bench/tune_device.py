"""Tune this GPU over the usual maps and write the table that is shipped for it.

An entry goes into the table only where it beats the rule by more than 3 %; all that was measured
goes into ``bench/results``, with the geometric mean of what the rule leaves.
"""

from __future__ import annotations

import argparse
import math
import sys
from datetime import datetime, timezone
from itertools import product
from pathlib import Path
from typing import Any

import torch

from bench import results

KEEP = 1.03
MAPS = (
    (256, 512, 7, 7), (256, 256, 14, 14), (128, 256, 28, 28), (64, 256, 56, 56),
    (32, 128, 112, 112), (32, 64, 224, 224), (16, 32, 512, 512),
)  # fmt: skip
"""The stages of the usual networks, and larger maps."""
RADII = (3, 7, 15, 31)


def tune_device(
    where: torch.device,
    maps: tuple[tuple[int, ...], ...],
    radii: tuple[int, ...],
    dtypes: tuple[torch.dtype, ...],
    formats: tuple[torch.memory_format, ...],
    ops: tuple[str, ...],
    seconds: float,
    tables: Path,
    root: Path,
) -> tuple[Path, Path]:
    """Returns the table's file and the results'; both are written after each problem."""
    from tqdm import tqdm

    from akm_triton.files import slug
    from akm_triton.launch import store
    from akm_triton.launch.device import describe
    from akm_triton.launch.plan import to_json
    from akm_triton.launch.problem import Problem
    from akm_triton.tuning.tuner import tune_problem

    device = describe(where)
    table = tables / f"{slug(device.name)}.json"
    kept: dict[str, dict[str, Any]] = store.shipped(device, tables)
    rows: list[dict[str, Any]] = []
    provenance = {
        "torch": torch.__version__,
        "commit": results.commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if where.type == "cuda":
        provenance["driver"] = results.driver()
    cases = list(product(radii, formats, dtypes, maps, ops))  # whoever stops early has all maps
    bar = tqdm(cases, unit="problem", dynamic_ncols=True)
    for radius, memory, dtype, (n, c, h, w), op in bar:
        problem = Problem(
            op, n, c, h, w, radius, "symmetric", dtype.itemsize, memory == torch.channels_last
        )
        bar.set_postfix_str(problem.key)
        try:
            tuned = tune_problem(problem, where, seconds=seconds)
        except RuntimeError as error:  # the rule's own plan fails: the others are still worth it
            bar.write(str(error))
            continue
        rows.append(
            {
                "key": problem.key,
                "rule_us": 1e6 * tuned.rule_seconds,
                "tuned_us": 1e6 * tuned.seconds,
                "tried": len(tuned.trials),
                "failed": sum(trial.seconds is None for trial in tuned.trials),
                "plan": to_json(tuned.plan),
            }
        )
        kept.pop(problem.key, None)
        if tuned.rule_seconds > KEEP * tuned.seconds:
            kept[problem.key] = tuned.entry()
        table.parent.mkdir(parents=True, exist_ok=True)
        store.write(table, store.environment(device), kept, provenance=provenance)
        measured = results.save(
            "tune-device", where, rows, root, clock=tuned.clock, gap=gap(rows), kept=len(kept)
        )
    bar.close()
    return table, measured


def gap(rows: list[dict[str, Any]]) -> float:
    """By how much the rule's times exceed the tuned ones, geometric mean."""
    logs = [math.log(row["rule_us"] / row["tuned_us"]) for row in rows]
    return math.exp(sum(logs) / len(logs)) - 1


def main(argv: list[str] | None = None) -> None:
    from akm_triton.launch import store
    from akm_triton.launch.problem import OPS

    parser = argparse.ArgumentParser(prog="python -m bench tune-device", description=__doc__)
    parser.add_argument("--maps", nargs="+", help="NxCxHxW; the default are those of networks")
    parser.add_argument("--radius", type=int, nargs="+", default=RADII)
    parser.add_argument("--dtype", nargs="+", choices=("float16", "float32"),
                        default=("float16", "float32"))  # fmt: skip
    parser.add_argument("--layout", nargs="+", choices=("nchw", "channels_last"),
                        default=("nchw", "channels_last"))  # fmt: skip
    parser.add_argument("--op", nargs="+", choices=OPS, default=("blur", "blur_backward"))
    parser.add_argument("--seconds", type=float, default=10.0, help="for one problem, about")
    parser.add_argument("--tables", type=Path, default=store.SHIPPED, help="where the table goes")
    parser.add_argument("--out", type=Path, default=results.ROOT, help="where the results go")
    args = parser.parse_args(argv)
    from akm_triton.backend import triton as triton_backend

    if not torch.cuda.is_available() and not triton_backend.INTERPRET:
        sys.exit("tune-device measures a GPU, and finds none")
    if triton_backend.INTERPRET and (args.tables == store.SHIPPED or args.out == results.ROOT):
        sys.exit("interpreted, it measures nothing: name other folders in --tables and --out")
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    formats = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
    maps = tuple(tuple(int(x) for x in text.split("x")) for text in args.maps or ()) or MAPS
    table, measured = tune_device(
        where, maps, tuple(args.radius), tuple(getattr(torch, x) for x in args.dtype),
        tuple(formats[x] for x in args.layout), tuple(args.op), args.seconds,
        args.tables, args.out,
    )  # fmt: skip
    print(f"{table}\n{measured}")


if __name__ == "__main__":
    main()
