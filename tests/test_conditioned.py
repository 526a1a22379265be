"""ConditionedModulation2d: one Modulation2d for each sample."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import akm_triton as akm
from akm_triton.meta import MAML
from tests.common import random


def started(layer: akm.ConditionedModulation2d) -> akm.ConditionedModulation2d:
    """With a head that changes something."""
    for p in layer.head.parameters():
        nn.init.normal_(p, 0, 0.3)
    nn.init.uniform_(layer.r, 0.5, 1.5)
    return layer


@pytest.mark.parametrize("options", [{}, dict(per="layer"), dict(what="s"), akm.PAPER], ids=str)
def test_starts_as_modulation2d(options: dict[str, Any]) -> None:
    plain = {key: value for key, value in options.items() if key != "what"}
    layer = akm.ConditionedModulation2d(4, **options, dtype=torch.float64)
    wanted = akm.Modulation2d(4, **plain, dtype=torch.float64)
    z = random(3, 4, 7, 6)
    torch.testing.assert_close(layer(z), wanted(z), rtol=0, atol=1e-12)
    layer(z).square().sum().backward()
    assert all(p.grad is not None for p in layer.parameters() if p is not layer.r)
    assert layer.head[2].weight.grad.abs().max() > 0  # it leaves its start
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    for module in layer.modules():  # as FSDP does for what was made on the meta device
        getattr(module, "reset_parameters", lambda: None)()
    torch.testing.assert_close(layer(z), wanted(z), rtol=0, atol=1e-12)
    assert layer.state_dict().keys() == before.keys()


@pytest.mark.parametrize("what", ["rs", "r", "s"])
@pytest.mark.parametrize("per", ["channel", "layer"])
def test_is_a_modulation_for_each_sample(what: str, per: str) -> None:
    layer = started(akm.ConditionedModulation2d(3, what=what, per=per, border="zeros")).double()
    z = random(4, 3, 6, 5)
    found = layer(z)
    one = akm.Modulation2d(3, per=per, border="zeros").double()
    for sample, y in zip(z, found, strict=True):
        change = layer.head(sample.sum((1, 2)) / 30)
        count = 3 if per == "channel" else 1
        with torch.no_grad():
            one.r.copy_(layer.r + (change[:count] if "r" in what else 0))
            one.s.copy_(layer.s + (change[change.numel() - count :] if "s" in what else 0))
        torch.testing.assert_close(y, one(sample))
        torch.testing.assert_close(layer(sample), y)
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_a_condition_takes_the_place_of_the_pooled_map() -> None:
    head = nn.Linear(2, 6)
    layer = akm.ConditionedModulation2d(3, head=head)
    z, condition = torch.randn(4, 3, 6, 6), torch.randn(4, 2)
    change = head(condition)
    wanted = akm.modulate(z, layer.r + change[:, :3], layer.s + change[:, 3:])
    torch.testing.assert_close(layer(z, condition), wanted)
    shared = layer(z, condition[0])  # of a task, for all samples
    torch.testing.assert_close(
        shared, akm.modulate(z, layer.r + change[0, :3], layer.s + change[0, 3:])
    )
    assert [name for name, _ in layer.named_parameters()] == ["r", "s", "head.weight", "head.bias"]


def test_the_hidden_layer_is_a_fraction_of_the_channels() -> None:
    widths = [akm.ConditionedModulation2d(c, reduction=r).head[0].out_features
              for c, r in ((4, 16), (64, 4), (256, 16))]  # fmt: skip
    assert widths == [8, 16, 16]
    layer = akm.ConditionedModulation2d(4, device="meta", dtype=torch.float16)
    assert {(p.device.type, p.dtype) for p in layer.parameters()} == {("meta", torch.float16)}


def test_gradients() -> None:
    layer = started(akm.ConditionedModulation2d(2, max_radius=3)).double()
    names = [name for name, _ in layer.named_parameters()]

    def f(z: Tensor, *values: Tensor) -> Any:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (z,))

    inputs = [random(2, 2, 3, 4), *(p.detach() for p in layer.parameters())]
    assert torch.autograd.gradcheck(f, [x.requires_grad_() for x in inputs], fast_mode=True)


def test_transforms() -> None:
    layer = started(akm.ConditionedModulation2d(3))
    z = torch.randn(2, 3, 6, 6)
    wanted = layer(z)
    torch.testing.assert_close(torch.func.vmap(layer)(z[:, None])[:, 0], wanted)
    torch.testing.assert_close(torch.fx.symbolic_trace(nn.Sequential(layer))(z), wanted)
    torch.testing.assert_close(torch.export.export(layer, (z,)).module()(z), wanted)
    torch.testing.assert_close(copy.deepcopy(layer)(z), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(z).dtype == torch.bfloat16


def test_meta_learning_adapts_it() -> None:
    layer = started(akm.ConditionedModulation2d(2))
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), layer, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 2)
    )
    support = torch.randn(3, 4, 1, 6, 6), torch.tensor([0, 1, 0, 1]).repeat(3, 1)
    losses = []
    for at_once in (True, False):
        maml = MAML(model, inner_lr=0.1, inner_steps=2, vectorize=at_once)
        losses.append(maml((support, support), F.cross_entropy).loss)
    torch.testing.assert_close(*losses)
    losses[0].backward()
    assert layer.head[0].weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(what="gate"), ValueError, r"what must be one of \('rs', 'r', 's'\), got 'gate'"),
        (dict(reduction=0), ValueError, "reduction must be at least 1, got 0"),
        (dict(reduction=2.5), TypeError, "reduction must be an int, got 2.5"),
    ],
    ids=str,
)
def test_refuses(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        akm.ConditionedModulation2d(4, **arguments)


def test_refuses_what_does_not_fit() -> None:
    z = torch.randn(2, 4, 5, 5)
    with pytest.raises(
        ValueError, match=r"head must return 8 numbers for each sample, got .*\(2, 4\)"
    ):
        akm.ConditionedModulation2d(4, head=nn.Linear(3, 4))(z, torch.randn(2, 3))
    with pytest.raises(ValueError, match=r"r must have shape .* got \(3, 4\)"):
        akm.ConditionedModulation2d(4)(z, torch.randn(3, 4))
    with pytest.raises(ValueError, match="z must have 4 channels"):
        akm.ConditionedModulation2d(4)(z[:, :3])
