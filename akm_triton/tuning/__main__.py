"""What is launched for maps of a shape, and why: ``python -m akm_triton.tuning show N C H W``;
``python -m akm_triton.tuning clear`` removes what tuning wrote into the user's cache."""

from __future__ import annotations

import argparse
import json

import torch

from akm_triton import cache
from akm_triton.borders import BORDERS
from akm_triton.launch import choice, store
from akm_triton.launch.device import H200, Device, describe
from akm_triton.launch.plan import to_json
from akm_triton.launch.problem import MAX_RADIUS, OPS, Problem
from akm_triton.tuning.traffic import traffic

ORIGINS = {"cache": "the cache", "shipped": "the shipped plans", "rule": "the rule"}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m akm_triton.tuning", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="{show,clear}")
    show = commands.add_parser("show", help="what would be launched for maps of a shape, and why")
    show.add_argument("shape", type=int, nargs=4, metavar=("N", "C", "H", "W"))
    show.add_argument("--op", nargs="+", choices=OPS, default=("blur", "blur_backward"))
    show.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float32")
    show.add_argument("--channels-last", action="store_true")
    show.add_argument("--max-radius", type=int, default=15)
    show.add_argument("--border", choices=BORDERS, default="symmetric")
    show.add_argument("--per-sample", action="store_true", help="a σ for each sample")
    show.set_defaults(run=_show)
    commands.add_parser("clear", help="empty the user's cache").set_defaults(run=_clear)
    args = parser.parse_args(argv)
    args.run(parser, args)


def _device() -> Device:
    """The first GPU, or an H200 where there is none."""
    if torch.cuda.is_available():
        return describe(torch.device("cuda", 0))
    print("no GPU here; as on an NVIDIA H200:")
    return H200


def _show(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if min(args.shape) < 1 or not 1 <= args.max_radius <= MAX_RADIUS:
        parser.error(f"a shape of positive numbers, and a radius of 1 to {MAX_RADIUS}")
    n, c, h, w = args.shape
    device = _device()
    try:
        print(f"cache: {store.path_of(device)}")
    except OSError as error:
        print(f"no cache: {error}")
    for op in args.op:
        problem = Problem(
            op, n, c, h, w, args.max_radius, args.border, 4 if args.dtype == "float32" else 2,
            args.channels_last, args.per_sample,
        )  # fmt: skip
        chosen = choice.choose(problem, device)
        print(f"\n{problem.key}: from {ORIGINS[chosen.origin]}")
        entry = choice.cached(device).get(problem.key)
        if chosen.origin == "cache" and entry:
            mine, rules = entry.get("seconds"), entry.get("rule_seconds")
            if isinstance(mine, float) and isinstance(rules, float):
                print(f"  {1e6 * mine:.1f} µs measured, {1e6 * rules:.1f} µs by the rule")
        moved = traffic(chosen.plan, problem)
        print(
            f"  {moved.dram_bytes / 1e6:.1f} MB of maps move, "
            f"{moved.requested_bytes / 1e6:.1f} MB are asked for"
        )
        for grid, numbers in zip(chosen.grids, to_json(chosen.plan), strict=True):
            print(
                f"  {' '.join(grid.launch.outputs)}: {json.dumps(numbers)}, "
                f"{grid.strips} strips, {grid.splits} shares of the rows"
            )


def _clear(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    try:
        print(f"{store.clear()} files removed from {cache.folder()}")
    except OSError as error:
        parser.error(f"the cache cannot be emptied: {error}")


if __name__ == "__main__":
    main()
