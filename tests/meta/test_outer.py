"""The outer loop on two processes, and across a crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from akm_triton import meta
from akm_triton.meta import MAML
from tests.meta.tasks import (
    episodes,
    network,
    unstacked,
)
from tests.processes import in_two_processes

ROOT = Path(__file__).parents[2]


def ranked(parallel: str) -> tuple[MAML, list[Any]]:
    maml = MAML(network(), inner_steps=2, learn_lr="tensor")
    maml.idle = nn.Parameter(torch.zeros(2, dtype=torch.float64)) if parallel == "ours" else None
    return maml, unstacked(episodes(4 if parallel == "DDP" else 5))


def _outer(rank: int, parallel: str, path: str) -> None:
    maml, tasks = ranked(parallel)
    with torch.no_grad():
        maml.model[0].weight.mul_(1 + rank)  # the first process's are copied to the second
    mine = tasks[rank::2]
    if parallel == "DDP":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped = nn.parallel.DistributedDataParallel(maml)
        wrapped(mine, F.cross_entropy).loss.backward()
    else:
        meta.broadcast(maml)
        maml(mine, F.cross_entropy).loss.backward()
        meta.average_gradients(maml.parameters(), len(mine))
    if rank == 0:
        torch.save([p.grad for p in maml.parameters()], path)


@pytest.mark.parametrize("parallel", ["ours", "DDP"])
def test_two_processes_are_one_with_all_tasks(parallel: str, tmp_path: Path) -> None:
    path = tmp_path / "gradients.pt"
    in_two_processes(_outer, parallel, str(path))
    maml, tasks = ranked(parallel)
    maml(tasks, F.cross_entropy).loss.backward()
    found, wanted = torch.load(path), [p.grad for p in maml.parameters()]
    assert [x is None for x in found] == [x is None for x in wanted]
    for x, want in zip(found, wanted, strict=True):
        if want is not None:
            torch.testing.assert_close(x, want, rtol=1e-9, atol=1e-12)


HALVES = {torch.float16: 3000.0, torch.bfloat16: 256.0, torch.float64: 1 / 3}


def _average(rank: int, path: str) -> None:
    grads = []
    for dtype, value in HALVES.items():
        p = nn.Parameter(torch.zeros(2, dtype=dtype))
        p.grad = torch.tensor([value, 0], dtype=dtype)
        meta.average_gradients([p], tasks=32 + rank)  # 257 is no bfloat16
        grads.append(p.grad)
    p = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    p.grad = torch.tensor([float(rank)], dtype=torch.bfloat16)
    meta.average_gradients([p], tasks=257 - 256 * rank)
    if rank == 0:
        torch.save([*grads, p.grad], path)


def test_half_precision_is_averaged_in_float32(tmp_path: Path) -> None:
    path = tmp_path / "gradients.pt"
    in_two_processes(_average, str(path))
    wanted = [torch.tensor([value, 0], dtype=dtype) for dtype, value in HALVES.items()]
    wanted.append(torch.tensor([1 / 258]).bfloat16())
    torch.testing.assert_close(torch.load(path), wanted, rtol=1e-14, atol=0)


TRAINING = """
import os, signal, sys, torch
from pathlib import Path
from akm_triton.meta import MAML, load_checkpoint, save_checkpoint
from tests.meta.tasks import network, nn

torch.set_num_threads(1)
path, killed_at = Path(sys.argv[1]), int(sys.argv[2])
sampler = torch.Generator().manual_seed(5)
maml = MAML(network(nn.Dropout(0.2)).float(), inner_steps=1, learn_lr="tensor")
optimizer = torch.optim.Adam(maml.parameters(), lr=1e-2)
parts = {"maml": maml, "optimizer": optimizer, "sampler": sampler}
done = load_checkpoint(path, parts)["iteration"] if path.exists() else 0
for iteration in range(done, 40):
    x = torch.randn(2, 9, 1, 6, 6, generator=sampler)
    y = torch.randint(3, (2, 9), generator=sampler)
    tasks = (x[:, :3], y[:, :3]), (x[:, 3:], y[:, 3:])
    loss = maml(tasks, nn.functional.cross_entropy).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if iteration == killed_at:
        os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
    save_checkpoint(path, parts, iteration=iteration + 1)
    print(iteration, flush=True)
"""


def train(path: Path, killed_at: int = -1) -> subprocess.CompletedProcess[str]:
    """40 iterations; the process dies while it writes the checkpoint of ``killed_at``."""
    command = [sys.executable, "-W", "ignore", "-c", TRAINING, str(path), str(killed_at)]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)


def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    assert train(tmp_path / "whole.pt").returncode == 0
    assert train(tmp_path / "killed.pt", killed_at=11).returncode == -signal.SIGKILL
    again = train(tmp_path / "killed.pt")
    assert again.returncode == 0
    assert again.stdout.split() == [str(iteration) for iteration in range(11, 40)]
    whole, killed = (torch.load(tmp_path / f"{name}.pt") for name in ("whole", "killed"))
    torch.testing.assert_close(killed, whole, rtol=0, atol=0)


def test_a_checkpoint_of_other_parts_is_refused(tmp_path: Path) -> None:
    meta.save_checkpoint(tmp_path / "a.pt", {"model": nn.Linear(1, 1)}, epoch=3)
    with pytest.raises(KeyError, match=r"holds .'model'., not .'net'."):
        meta.load_checkpoint(tmp_path / "a.pt", {"net": nn.Linear(1, 1)})


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pt"
    meta.save_checkpoint(path, {}, epoch=1)

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        meta.save_checkpoint(path, {}, epoch=2)
    assert meta.load_checkpoint(path, {}) == {"epoch": 1}
    assert os.listdir(tmp_path) == ["a.pt"]


def test_a_checkpoint_that_cannot_be_read_is_not_written(tmp_path: Path) -> None:
    path, model = tmp_path / "last.pt", nn.Linear(1, 1)
    meta.save_checkpoint(path, {"model": model}, best=3.0)
    with pytest.raises(TypeError, match="left as it was"):
        meta.save_checkpoint(path, {"model": model}, best=np.float64(4))
    assert meta.load_checkpoint(path, {"model": model}) == {"best": 3.0}


def test_a_number_of_tasks_is_a_natural_number() -> None:
    model = nn.Linear(1, 1)
    meta.average_gradients(model.parameters(), tasks=np.int64(4))
    with pytest.raises(ValueError, match="tasks must not be negative, got -1"):
        meta.average_gradients(model.parameters(), tasks=-1)
    with pytest.raises(TypeError, match=r"tasks must be an integer, got 0\.5"):
        meta.average_gradients(model.parameters(), tasks=0.5)
