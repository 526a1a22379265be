"""The recipes that train run as they stand, and train and log and save what they say."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

import akm_triton as akm
from tests.surgery.networks import import_timm

pytestmark = pytest.mark.filterwarnings("ignore")  # of the other packages' own doing


def test_timm() -> None:
    import_timm()
    from tests.recipes import train_timm

    model = train_timm.main()
    modulation = [m for m in model.modules() if isinstance(m, akm.Modulation2d)]
    assert len(modulation) == 19
    assert all((m.r != 0.05).any() and (m.s != 2).any() for m in modulation)


def test_lightning(tmp_path: Path) -> None:
    pytest.importorskip("pytorch_lightning")
    from tests.recipes import train_lightning

    model = train_lightning.main(tmp_path)
    rows = [*csv.DictReader((tmp_path / "akm" / "metrics.csv").open())]
    logged = [row for row in rows if row["0.sigma/median"]]
    assert len(logged) == 2 and sum(bool(row["loss"]) for row in rows) == 8
    for name in "0", "2":
        layer = model.network.get_submodule(name)
        r, s = layer.r.detach().abs().cpu(), layer.s.detach().cpu()
        wanted = {
            "sigma/min": r.min(), "sigma/median": r.quantile(0.5), "sigma/max": r.max(),
            "gate/min": s.sigmoid().min(), "gate/max": s.sigmoid().max(),
        }  # fmt: skip
        for what, value in wanted.items():
            assert float(logged[1][f"{name}.{what}"]) == pytest.approx(float(value))
            assert logged[0][f"{name}.{what}"] != logged[1][f"{name}.{what}"]


def test_transformers(tmp_path: Path) -> None:
    for package in ("transformers", "accelerate"):
        pytest.importorskip(package)
    from tests.recipes import train_transformers

    trainer = train_transformers.main(tmp_path)
    named = {p: name for name, p in trainer.model.named_parameters()}
    decayed, kept = ({named[p] for p in g["params"]} for g in trainer.optimizer.param_groups)
    assert [g["weight_decay"] for g in trainer.optimizer.param_groups] == [0.05, 0]
    assert [g["initial_lr"] for g in trainer.optimizer.param_groups] == [1e-3, 1e-2]
    assert len(kept) == 10 and decayed | kept == set(named.values())
    assert all(name.endswith((".modulation.r", ".modulation.s")) for name in kept)
    assert all((p != (0.05 if named[p][-1] == "r" else 2)).any() for p in named if named[p] in kept)

    from safetensors.torch import load_file

    loaded = type(trainer.model)(trainer.model.config)
    akm.convert(loaded)
    loaded.load_state_dict(load_file(tmp_path / "checkpoint-4" / "model.safetensors"))
    for p, q in zip(loaded.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(p, q.cpu())


def test_ema(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    from tests.recipes import train_ema

    train_ema.main(tmp_path / "model.safetensors")
    saved = safetensors.load_file(tmp_path / "model.safetensors")
    for name, start in ("r", 0.05), ("s", 2):
        assert (saved[f"4.modulation.{name}"] != start).all()


def test_the_average_is_of_r_and_s_too() -> None:
    model = torch.nn.Sequential(akm.AKMConv2d(1, 2, 1))
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    for value in (1.0, 2.0):
        for p in (model[0].r, model[0].s):
            torch.nn.init.constant_(p, value)
        average.update_parameters(model)
    for p in (average.module[0].r, average.module[0].s):
        torch.testing.assert_close(p.detach(), torch.full((2,), 1.1))
