"""Checkpoints: across a crash, of other parts, and of damaged files."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from akm_triton import meta

ROOT = Path(__file__).parents[2]

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


def parts(width: int = 3, seed: int = 0) -> dict[str, Any]:
    """A model, what trains it, and a generator, after a step."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1 + seed)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    model(torch.randn(4, 2)).square().mean().backward()
    optimizer.step()
    schedule.step()
    sampler = torch.Generator().manual_seed(seed)
    return {"model": model, "optimizer": optimizer, "schedule": schedule, "sampler": sampler}


class Refuses:
    """A part whose state is half loaded when it raises."""

    def __init__(self) -> None:
        self.scale, self.count = torch.tensor(1.0), 0

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scale.copy_(state["scale"])
        self.count = state["count"]
        torch.rand(1)  # another state of the generator
        if self.count > 1:
            raise RuntimeError("count")


def everything(parts: dict[str, Any]) -> Any:
    """The values of all parts and generators, and the objects that hold them."""
    states = {
        name: part.get_state() if isinstance(part, torch.Generator) else part.state_dict()
        for name, part in parts.items()
    }
    model, optimizer = parts["model"], parts["optimizer"]
    tensors = [*model.parameters(), *model.buffers()]
    tensors += [x for state in optimizer.state.values() for x in state.values()]
    objects = [*tensors, *optimizer.param_groups, optimizer.state]
    return copy.deepcopy((states, torch.get_rng_state())), [id(x) for x in objects]


def narrow(parts: dict[str, Any]) -> None:
    parts["model"][2] = nn.Linear(3, 2)


def unknown(parts: dict[str, Any]) -> None:
    parts["model"].append(nn.Linear(1, 1))


def groups(parts: dict[str, Any]) -> None:
    parts["optimizer"].add_param_group({"params": [nn.Parameter(torch.ones(1))]})


def sampler(parts: dict[str, Any]) -> None:
    parts["sampler"] = nn.Linear(1, 1)  # its state is none of a generator


def custom(parts: dict[str, Any]) -> None:
    parts["custom"] = Refuses()
    parts["custom"].count = 2


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], None], str | None]] = {
    "shape": (narrow, "size mismatch for 2"),
    "keys": (unknown, r"Unexpected key.s. in state_dict: .3\."),
    "groups": (groups, "different number of parameter groups"),
    "generator": (sampler, None),
    "custom": (custom, "count"),
}


@pytest.mark.parametrize("last", ["sampler", "model"])
@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_state_changes_nothing(case: str, last: str, tmp_path: Path) -> None:
    """Whichever part is loaded last."""
    change, message = REFUSED[case]
    saved, mine = parts(seed=1), parts()
    change(saved)
    meta.save_checkpoint(tmp_path / "a.pt", saved)
    if case == "custom":
        mine["custom"] = Refuses()
    mine[last] = mine.pop(last)
    before = everything(mine)
    with pytest.raises((RuntimeError, ValueError, TypeError), match=message):
        meta.load_checkpoint(tmp_path / "a.pt", mine)
    after = everything(mine)
    torch.testing.assert_close(after[0], before[0], rtol=0, atol=0)
    assert after[1] == before[1]


class Extra(nn.Linear):
    """A module with a state that is no tensor."""

    extra = 0

    def get_extra_state(self) -> int:
        return self.extra

    def set_extra_state(self, state: int) -> None:
        self.extra = state


def test_an_extra_state_is_loaded_and_put_back(tmp_path: Path) -> None:
    saved, mine = Extra(1, 1), Extra(1, 1)
    saved.extra = 7
    meta.save_checkpoint(tmp_path / "a.pt", {"model": saved})
    meta.load_checkpoint(tmp_path / "a.pt", {"model": mine})
    assert mine.extra == 7
    other, refuses = Extra(1, 1), nn.Linear(1, 2)
    meta.save_checkpoint(tmp_path / "a.pt", {"model": saved, "other": nn.Linear(2, 1)})
    with pytest.raises(RuntimeError, match="size mismatch"):
        meta.load_checkpoint(tmp_path / "a.pt", {"model": other, "other": refuses})
    assert other.extra == 0


def test_any_flipped_bit_is_found(tmp_path: Path) -> None:
    """In values, names, padding, mark and digest; and any end that is missing."""
    path, mine = tmp_path / "a.pt", parts(seed=1)
    meta.save_checkpoint(path, parts())
    whole = path.read_bytes()
    before = everything(mine)
    places = [*range(0, len(whole), 211), *range(len(whole) - 60, len(whole))]
    damaged = [whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :] for i in places]
    damaged += [whole[:size] for size in (0, 1, 48, len(whole) // 2, len(whole) - 49, -1)]
    damaged += [whole + b"x", b"not a checkpoint", b"\x89PNG\r\n" + bytes(200), bytes(500)]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.pt is damaged, or no checkpoint that save_check"):
            meta.load_checkpoint(path, mine)
    torch.testing.assert_close(everything(mine)[0], before[0], rtol=0, atol=0)
    path.write_bytes(whole)
    assert meta.load_checkpoint(path, mine) == {}


def test_other_files_of_torch_are_no_checkpoints(tmp_path: Path) -> None:
    path, model = tmp_path / "a.pt", nn.Linear(1, 1)
    for content in (model.state_dict(), [1, 2], model):
        torch.save(content, path)
        with pytest.raises(ValueError, match="no checkpoint that save_checkpoint wrote"):
            meta.load_checkpoint(path, {"model": model})
    with pytest.raises(FileNotFoundError):
        meta.load_checkpoint(tmp_path / "missing.pt", {"model": model})


def test_a_checkpoint_from_before_the_digest_is_read(tmp_path: Path) -> None:
    saved, mine = nn.Linear(1, 1), nn.Linear(1, 1)
    state = {"parts": {"model": saved.state_dict()}, "random": torch.get_rng_state(), "cuda": []}
    torch.save({**state, "more": {"epoch": 3}}, tmp_path / "a.pt")
    assert meta.load_checkpoint(tmp_path / "a.pt", {"model": mine}) == {"epoch": 3}
    assert torch.equal(mine.weight, saved.weight)
