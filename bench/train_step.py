"""A step of training ResNet-18 and ResNet-50: with plain 3×3 convolutions, with AKM in their place,
with AKM composed of PyTorch's operators, and each under torch.compile.

A step is forward, backward and SGD. ``saved_bytes`` is what autograd keeps from forward to backward
(under torch.compile it cannot be seen); ``peak_bytes`` is the GPU's, above what the model has.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

import akm_triton as akm
from bench import networks, timing
from bench.sweep import Row, Setting, Sweep, grid, note, rounded

VARIANTS: dict[str, tuple[networks.Conv, bool]] = {
    "plain": (nn.Conv2d, False),
    "AKM": (akm.AKMConv2d, False),
    "AKM composed": (networks.ComposedConv2d, False),
    "plain, compiled": (nn.Conv2d, True),
    "AKM, compiled": (akm.AKMConv2d, True),
}
# network, batch, side of the images
CASES_CPU = (("ResNet-18", 8, 64), ("ResNet-50", 4, 64))
CASES_CUDA = (("ResNet-50", 128, 224), ("ResNet-18", 256, 224))
TINY = (("ResNet-18", 2, 16),)


def measure(setting: Setting) -> Iterator[list[Row]]:
    """In channels_last, and on a GPU under autocast, as such networks are usually trained."""
    cases = list(
        product(
            setting.dtypes_or(("float32",), "bfloat16"), setting.choose(CASES_CPU, CASES_CUDA, TINY)
        )
    )
    # what is compiled comes last: it takes minutes, and the rest is then saved
    groups = list(product((False, True), cases))
    for compiled, (dtype, (network, batch, side)) in tqdm(groups, desc="train-step", unit="group"):
        yield list(_steps(setting, dtype, network, batch, side, compiled))


def _steps(
    setting: Setting, dtype: torch.dtype, network: str, batch: int, side: int, compiled: bool
) -> Iterator[Row]:
    """Steps of the compiled variants, or of the others, in turns."""
    steps: dict[str, timing.Call] = {}
    rows: dict[str, Row] = {}
    torch.compiler.reset()  # or the number of models runs into its limit
    for name, conv in ((name, conv) for name, (conv, how) in VARIANTS.items() if how == compiled):
        rows[name] = {
            "network": network, "batch": batch, "side": side, "variant": name,
            "dtype": str(dtype).removeprefix("torch."),
        }  # fmt: skip
        if compiled and setting.budget.compiled_radius == 0:
            rows[name] |= {"status": "skipped", "note": "compiling takes too long here"}
            continue
        try:
            step = _step(setting, dtype, network, batch, side, conv, compiled)
            rows[name] |= {} if compiled else {"saved_bytes": _saved(step)}
            step()
            rows[name]["peak_bytes"] = _peak(step, setting.device) if setting.cuda else None
            steps[name] = step
        except Exception as error:  # of whatever kind: reported, and the others go on
            rows[name] |= {"status": "failed", "note": note(error)}
    measured = timing.interleaved(steps, setting.device, 4 * setting.budget.seconds)
    for name, q in measured.items():
        rows[name] |= {"status": "ok", **rounded(**vars(q), images=batch / q.p50)}
    yield from rows.values()


def _step(
    setting: Setting, dtype: torch.dtype, network: str, batch: int, side: int,
    conv: networks.Conv, compiled: bool,
) -> Callable[[], Tensor]:  # fmt: skip
    torch.manual_seed(0)
    width = 4 if setting.budget.compiled_radius == 0 else 64
    model: Any = networks.resnet(network, conv, classes=1000, width=width)
    model = model.to(setting.device, memory_format=torch.channels_last)
    if compiled:
        model = torch.compile(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    x = torch.randn(batch, 3, side, side, device=setting.device)
    x = x.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch,), device=setting.device)

    def step() -> Tensor:
        with torch.autocast(setting.device.type, dtype, enabled=dtype != torch.float32):
            loss = nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _saved(step: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps, each storage once."""
    storages: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        step()
    return sum(storages.values())


def _peak(step: Callable[[], Tensor], device: torch.device) -> int:
    gc.collect()
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def table(rows: list[Row]) -> str:
    def megabytes(row: Row, key: str) -> str:
        return f"{row[key] / 2**20:.0f}" if row.get(key) else "–"

    plain = {row["network"]: row.get("p50") for row in rows if row["variant"] == "plain"}
    lines = [
        [
            f"{row['network']}, {row['batch']}×3×{row['side']}×{row['side']}", row["dtype"],
            row["variant"], f"{1e3 * row['p50']:.1f}", f"{row['images']:.1f}",
            f"{row['p50'] / plain[row['network']]:.2f}×", megabytes(row, "saved_bytes"),
            megabytes(row, "peak_bytes"),
        ]
        for row in rows
        if row["status"] == "ok"
    ]  # fmt: skip
    header = ["network", "dtype", "variant", "ms", "images/s", "by plain", "saved MB", "peak MB"]
    notes = [f"{r['network']}, {r['variant']}: {r['note']}" for r in rows if r["status"] != "ok"]
    return "\n".join([grid(header, lines), *notes])


SWEEP = Sweep("train-step", measure, table, __doc__)
main = SWEEP.main
