"""AKMConv2d and Modulation2d: drop-in behaviour, initialisation, checkpoints."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import akm_triton as akm


def test_drop_in_for_conv2d() -> None:
    """Every argument of nn.Conv2d, in its order; modulation by keyword only."""
    theirs = list(inspect.signature(nn.Conv2d.__init__).parameters.values())
    mine = list(inspect.signature(akm.AKMConv2d.__init__).parameters.values())
    assert [(p.name, p.default) for p in mine[: len(theirs)]] == [
        (p.name, p.default) for p in theirs
    ]
    assert all(p.kind is p.KEYWORD_ONLY for p in mine[len(theirs) :])
    assert issubclass(akm.AKMConv2d, nn.Conv2d)


@pytest.mark.parametrize(
    "options",
    [
        dict(stride=2, padding=1),
        dict(padding="same", dilation=2),
        dict(groups=2, bias=False),
        dict(padding=1, padding_mode="reflect"),
    ],
    ids=str,
)
def test_layer_is_convolution_then_modulate(options: dict[str, object]) -> None:
    layer = akm.AKMConv2d(4, 6, 3, **options)  # type: ignore[arg-type]
    nn.init.uniform_(layer.r, 0, 2)
    x = torch.randn(2, 4, 9, 8)
    wanted = akm.modulate(nn.Conv2d.forward(layer, x), layer.r, layer.s)
    torch.testing.assert_close(layer(x), wanted)
    torch.testing.assert_close(layer(x[0]), wanted[0])


def test_modulation2d_is_modulate() -> None:
    options = dict(gaussian="sampled", border="zeros", truncate=3.0, max_radius=5)
    layer = akm.Modulation2d(3, **options)  # type: ignore[arg-type]
    z = torch.randn(2, 3, 6, 6)
    wanted = akm.modulate(z, layer.r, layer.s, **options)  # type: ignore[arg-type]
    assert torch.equal(layer(z), wanted)


@pytest.mark.parametrize("gaussian", ["discrete", "sampled"])
def test_starts_near_the_identity_with_a_gradient(gaussian: str) -> None:
    layer = akm.Modulation2d(4, gaussian=gaussian)
    z = torch.randn(2, 4, 16, 16)
    y = layer(z)
    similarity = torch.nn.functional.cosine_similarity(y.flatten(), z.flatten(), dim=0)
    assert similarity > 0.85
    y.square().mean().backward()
    assert layer.r.grad is not None and layer.s.grad is not None
    assert (layer.r.grad.abs() > 1e-4).all() and (layer.s.grad.abs() > 1e-3).all()


@pytest.mark.parametrize("per", ["channel", "layer"])
def test_parameters_and_reset(per: str) -> None:
    layer = akm.AKMConv2d(3, 8, 3, per=per)
    count = 8 if per == "channel" else 1
    assert set(dict(layer.named_parameters())) == {"weight", "bias", "r", "s"}
    assert layer.r.shape == layer.s.shape == (count,)
    before = layer.weight.clone()
    nn.init.zeros_(layer.r)
    layer.reset_parameters()
    assert (layer.r == 0.3).all() and not torch.equal(layer.weight, before)
    assert torch.equal(layer.sigma, layer.r.abs())
    assert torch.equal(layer.gate, torch.sigmoid(layer.s))


def test_repr() -> None:
    text = repr(akm.AKMConv2d(3, 8, 3, **akm.PAPER))
    assert text == (
        "AKMConv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), per='layer', gaussian='sampled', "
        "border='zeros', truncate=3.0, max_radius=15)"
    )
    assert repr(akm.Modulation2d(8)).startswith("Modulation2d(8, per='channel'")


def test_loads_a_plain_convolution() -> None:
    plain, layer = nn.Conv2d(3, 8, 3), akm.AKMConv2d(3, 8, 3)
    missing, unexpected = layer.load_state_dict(plain.state_dict(), strict=False)
    assert sorted(missing) == ["r", "s"] and not unexpected
    assert torch.equal(layer.weight, plain.weight)
    with pytest.raises(RuntimeError, match="Missing key"):
        layer.load_state_dict(plain.state_dict())


@pytest.mark.parametrize("per", ["channel", "layer"])
def test_loads_the_checkpoint_of_the_paper(per: str) -> None:
    conv = nn.Conv2d(3, 8, 3)
    state = {
        "0.conv.weight": conv.weight.detach(),
        "0.conv.bias": conv.bias.detach() if conv.bias is not None else None,
        "0.r": torch.tensor([0.7]),
        "0.s": torch.tensor([-1.0]),
    }
    kept = dict(state)
    model = nn.Sequential(akm.AKMConv2d(3, 8, 3, per=per))
    model.load_state_dict(state)
    layer = model[0]
    assert torch.equal(layer.weight, conv.weight)
    assert (layer.r == 0.7).all() and (layer.s == -1).all()
    assert state.keys() == kept.keys()  # the caller's dictionary is left alone


def test_one_number_that_is_assigned_serves_each_channel() -> None:
    layer, one = akm.Modulation2d(4), akm.Modulation2d(4, per="layer")
    layer.load_state_dict(one.state_dict(), assign=True)
    layer(torch.randn(1, 4, 5, 5)).square().sum().backward()
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    assert layer.r.shape == (4,) and layer.r.unique().numel() > 1


def test_a_child_called_conv_keeps_its_names() -> None:
    class Block(akm.Modulation2d):
        def __init__(self) -> None:
            super().__init__(4)
            self.conv = nn.Conv2d(4, 4, 3)

    Block().load_state_dict(Block().state_dict())


def test_refuses_other_channels() -> None:
    with pytest.raises(ValueError, match="z must have 5 channels, got shape"):
        akm.Modulation2d(5, per="layer")(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="channels must be at least 1"):
        akm.Modulation2d(0)


def test_round_trips() -> None:
    layer = akm.AKMConv2d(3, 8, 3, border="zeros")
    nn.init.uniform_(layer.r)
    x = torch.randn(1, 3, 7, 7)
    other = akm.AKMConv2d(3, 8, 3, border="zeros")
    other.load_state_dict(layer.state_dict())
    for copied in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(copied(x), layer(x))


@pytest.mark.parametrize("channels", ["8", 2.5, True, None])
def test_refuses_what_is_no_number_of_channels(channels: Any) -> None:
    with pytest.raises(TypeError, match=f"channels must be an int, got {channels!r}"):
        akm.Modulation2d(channels)


def test_refuses_unknown_options() -> None:
    with pytest.raises(ValueError, match=r"per must be one of .* got 'group'"):
        akm.AKMConv2d(3, 8, 3, per="group")
    with pytest.raises(ValueError, match=r"border must be one of"):
        akm.Modulation2d(8, border="none")


def test_meta_device_and_dtype() -> None:
    with torch.device("meta"):
        layer = akm.AKMConv2d(3, 8, 3)
    assert layer.r.is_meta and layer.weight.is_meta
    assert akm.Modulation2d(4, dtype=torch.float64).r.dtype == torch.float64
