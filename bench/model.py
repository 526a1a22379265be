"""What the analytic model predicts for every kernel, and on a GPU also the measured time.

Without a GPU the predictions are for an NVIDIA H200. Each row names its device.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Iterator
from itertools import product

import numpy as np
import torch
from tqdm import tqdm

from akm_triton.launch.device import H200, describe
from akm_triton.launch.problem import Problem
from akm_triton.launch.rule import rule
from akm_triton.tuning.cost import cost, roof_of
from akm_triton.tuning.workload import Workload
from bench import timing
from bench.sweep import Row, Setting, Sweep, grid, maps, note, rounded, title

OPS = ("blur", "blur_backward")
RADII = (1, 3, 7, 15, 31)
MAPS, TINY = ((1024, 256, 28, 28), (64, 64, 224, 224)), ((1, 2, 9, 8),)
DTYPES = (torch.float16, torch.float32)


def measure(setting: Setting) -> Iterator[list[Row]]:
    """``predicted`` seconds and the fraction of DRAM's peak that this is; ``p50`` if measured."""
    device = describe(setting.device) if setting.cuda else H200
    shapes = setting.choose(MAPS, MAPS, TINY)
    cases = list(product(setting.dtypes or DTYPES, shapes, (False, True), OPS, RADII))
    for dtype, (n, c, h, w), last, op, radius in tqdm(cases, desc="model", unit="kernel"):
        problem = Problem(op, n, c, h, w, radius, "symmetric", dtype.itemsize, last)
        plan = rule(problem, device)
        predicted = cost(plan, problem, device).seconds
        least = problem.bytes / roof_of(device).dram
        elements = n * c * h * w
        row: Row = {
            "device": device.name, "op": op, **maps((n, c, h, w), dtype, last),
            "kernel": 2 * radius + 1, "bytes": problem.bytes, "status": "predicted",
            **rounded(
                predicted=predicted, predicted_gelements=elements / predicted / 1e9,
                of_roof=least / predicted, roof_gelements=elements / least / 1e9,
            ),
        }  # fmt: skip
        if setting.cuda:
            try:
                work = Workload(problem, setting.device, dtype=dtype)
                call = functools.partial(work.run, plan)
                call()
                q = timing.interleaved({"": call}, setting.device, setting.budget.seconds / 5)[""]
                row |= {"status": "ok", **rounded(**vars(q), gelements=elements / q.p50 / 1e9)}
            except Exception as error:  # compilers and drivers raise all kinds
                row |= {"status": "failed", "note": note(error)}
        yield [row]


def table(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        measured = row.get("gelements")
        lines.append(
            [
                row["op"], title(row["shape"]), row["dtype"], row["layout"], str(row["kernel"]),
                f"{row['predicted_gelements']:.0f}", f"{row['of_roof']:.2f}",
                f"{measured:.0f}" if measured else "–",
                f"{row['predicted'] / row['p50']:.2f}" if measured else "–",
            ]
        )  # fmt: skip
    header = [
        "op", "map", "dtype", "layout", "K", "predicted Gelt/s", "of DRAM's peak",
        "measured Gelt/s", "measured / predicted",
    ]  # fmt: skip
    text = f"{rows[0]['device']}, a model\n{grid(header, lines)}"
    found = [row for row in rows if row["status"] == "ok"]
    if len(found) > 2:
        by_model, by_clock = (
            np.argsort(np.argsort([row[key] for row in found])).tolist()
            for key in ("predicted", "p50")
        )
        text += f"\nrank correlation {statistics.correlation(by_model, by_clock):.2f}"
    return text


SWEEP = Sweep("model", measure, table, __doc__)
main = SWEEP.main
