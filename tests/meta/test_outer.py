"""The outer loop on two processes."""

from __future__ import annotations

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


def _halves(rank: int) -> list[Any]:
    grads = []
    for dtype, value in HALVES.items():
        p = nn.Parameter(torch.zeros(2, dtype=dtype))
        p.grad = torch.tensor([value, 0], dtype=dtype)
        meta.average_gradients([p], tasks=32 + rank)
        grads.append(p.grad)
    p = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    p.grad = torch.tensor([float(rank)], dtype=torch.bfloat16)
    meta.average_gradients([p], tasks=257 - 256 * rank)  # 257 is no bfloat16
    return [*grads, p.grad]


def _reptile(rank: int) -> dict[str, Any]:
    mine = unstacked(episodes(4))[rank::2]
    for options in ({}, {"static_graph": True}, {"find_unused_parameters": True}):
        reptile = meta.Reptile(network(), inner_steps=2, adapt="modulation")
        wrapped = nn.parallel.DistributedDataParallel(reptile, **options)
        if "find_unused_parameters" in options:
            for _ in range(2):
                reptile.zero_grad()
                wrapped(mine, F.cross_entropy).loss.backward()
        else:
            with pytest.raises(ValueError, match=r"0\.weight gets no gradient, .* find_unused_"):
                wrapped(mine, F.cross_entropy)
            with torch.no_grad():
                wrapped(mine, F.cross_entropy)
    return {k: p.grad for k, p in reptile.model.named_parameters()}


def _more(rank: int, path: str) -> None:
    found = _halves(rank), _reptile(rank)
    if rank == 0:
        torch.save(found, path)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("two") / "gradients.pt"
    in_two_processes(_more, str(path))
    return torch.load(path)


def test_half_precision_is_averaged_in_float32(two: Any) -> None:
    wanted = [torch.tensor([value, 0], dtype=dtype) for dtype, value in HALVES.items()]
    wanted.append(torch.tensor([1 / 258]).bfloat16())
    torch.testing.assert_close(two[0], wanted, rtol=1e-14, atol=0)


def test_reptile_of_some_parameters_says_what_ddp_needs(two: Any) -> None:
    reptile = meta.Reptile(network(), inner_steps=2, adapt="modulation")
    reptile(episodes(4), F.cross_entropy).loss.backward()
    assert [name for name, grad in two[1].items() if grad is not None] == ["0.r", "0.s"]
    for name in ("0.r", "0.s"):
        wanted = reptile.model.get_parameter(name).grad
        torch.testing.assert_close(two[1][name], wanted, rtol=1e-9, atol=1e-12)


def test_a_number_of_tasks_is_a_natural_number() -> None:
    model = nn.Linear(1, 1)
    meta.average_gradients(model.parameters(), tasks=np.int64(4))
    with pytest.raises(ValueError, match="tasks must not be negative, got -1"):
        meta.average_gradients(model.parameters(), tasks=-1)
    with pytest.raises(TypeError, match=r"tasks must be an integer, got 0\.5"):
        meta.average_gradients(model.parameters(), tasks=0.5)
