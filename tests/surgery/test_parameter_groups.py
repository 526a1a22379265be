"""Groups for an optimizer: which parameter is in which, and what that does to a step."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import akm_triton as akm


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def network() -> nn.Sequential:
    return nn.Sequential(
        akm.AKMConv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        akm.Modulation2d(4),
        nn.Conv2d(4, 2, 1),
    )


def test_each_parameter_is_in_the_group_of_its_kind() -> None:
    model = network()
    conv, norm, modulation, last = model
    groups = akm.parameter_groups(model, lr=0.01, weight_decay=0.05)
    wanted = [
        [conv.weight, conv.bias, norm.weight, norm.bias, last.weight, last.bias],
        [conv.r, conv.s, modulation.r, modulation.s],
    ]
    assert [[*map(id, group["params"])] for group in groups] == [[*map(id, w)] for w in wanted]
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]
    assert [group["lr"] for group in groups] == [0.01, 0.1]


def test_a_step_moves_sigma_by_its_own_rate_and_decays_the_others_alone() -> None:
    """Without a gradient AdamW only decays; with one its first step is the rate."""
    model = network()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    groups = akm.parameter_groups(model, lr=0.01, weight_decay=0.5, modulation_lr=0.2)
    optimizer = torch.optim.AdamW(groups)
    for name, p in model.named_parameters():
        p.grad = torch.full_like(p, float(name == "2.r"))
    optimizer.step()
    for name, p in model.named_parameters():
        if name == "2.r":
            torch.testing.assert_close(p.detach(), before[name] - 0.2)
        else:
            decayed = 1 if name.endswith((".r", ".s")) else 1 - 0.01 * 0.5
            torch.testing.assert_close(p.detach(), before[name] * decayed)


def test_parametrised_shared_and_frozen_parameters() -> None:
    model = network()
    parametrize.register_parametrization(model[0], "r", Doubled())
    model.append(model[2])  # a layer twice
    model[3].r = nn.Parameter(torch.ones(1))  # the name alone makes no r
    model[1].weight.requires_grad_(False)
    model[2].s.requires_grad_(False)
    others, modulation = akm.parameter_groups(model, lr=1.0, weight_decay=0.0)
    original: Any = model[0].parametrizations["r"]
    assert {*map(id, modulation["params"])} == {
        id(original.original), id(model[0].s), id(model[2].r),
    }  # fmt: skip
    assert any(p is model[3].r for p in others["params"])
    assert len(modulation["params"]) == 3 and len(others["params"]) == 6
    torch.optim.SGD([others, modulation])  # which refuses a parameter that comes twice


def test_a_network_without_modulation_has_an_empty_group() -> None:
    groups = akm.parameter_groups(nn.Linear(2, 2), lr=0.1, weight_decay=0.1)
    assert [len(group["params"]) for group in groups] == [2, 0]
    torch.optim.AdamW(groups)


def test_refuses_what_is_no_model() -> None:
    with pytest.raises(TypeError, match="model must be a Module, got list"):
        akm.parameter_groups([nn.Linear(2, 2)], lr=0.1, weight_decay=0.1)  # type: ignore[arg-type]


def test_the_recipe_for_hugging_face_exempts_r_and_s(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    page = Path(akm.__file__).parent / "surgery" / "README.md"
    (recipe,) = re.findall(r"^```py\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    names: dict[str, Any] = {}
    exec(recipe, names)
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    model = network()
    plain = transformers.Trainer(model, arguments).get_decay_parameter_names(model)
    ours = names["AKMTrainer"](model, arguments).get_decay_parameter_names(model)
    assert set(plain) - set(ours) == {"0.r", "0.s", "2.r", "2.s"}
    assert set(ours) <= set(plain)
