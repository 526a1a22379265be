"""fold: what it leaves, how far the output moves, what it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import akm_triton as akm
from reference import oracle
from tests.common import BORDERS, FAMILIES
from tests.surgery.networks import NETWORKS, apart, images, network
from tests.surgery.test_convert import ROWS, Autoencoder, block, converted, same, state

CONVOLUTIONS = [
    dict(padding=1),
    dict(stride=2, padding=1, padding_mode="circular"),
    dict(dilation=2, padding=2, padding_mode="reflect", bias=False),
    dict(groups=8, padding="same", padding_mode="replicate"),
    dict(stride=3, groups=2),
]
OPTIONS = [dict(), dict(per="layer"), dict(truncate=2.5), dict(max_radius=3)]


def layer_with(
    border: str, gaussian: str, convolution: Any, options: Any, dtype: torch.dtype
) -> akm.AKMConv2d:
    """σ of all sizes, gates of all heights, biases large beside the weights."""
    layer = akm.AKMConv2d(
        8, 8, 3, border=border, gaussian=gaussian, dtype=dtype, **convolution, **options
    )
    sigma = torch.tensor([0.0, 0.01, 0.05, 0.1, 0.3, 0.6, -1.1, 2.5], dtype=dtype)
    with torch.no_grad():
        layer.r.copy_(sigma[torch.randperm(8)][: layer.r.numel()])
        layer.s.normal_(std=2)
        if layer.bias is not None:
            layer.bias.normal_(std=3)
    return layer.eval()


def ranges(z: Tensor, border: str) -> Tensor:
    """Of each map: largest less smallest value; outside, there are zeros where the border is."""
    if border == "zeros":
        z = F.pad(z, (1, 1, 1, 1))
    return z.amax((2, 3)) - z.amin((2, 3))


def shares(layer: akm.AKMConv2d, sigma: float) -> list[float]:
    """1 − (k_0 + 2 Σ k_n)² for each radius, by SciPy."""
    taps = oracle.taps(
        np.array(sigma), layer.max_radius, gaussian=layer.gaussian, truncate=layer.truncate
    )
    return [1 - (2 * taps[: n + 1].sum() - taps[0]) ** 2 for n in range(layer.max_radius + 1)]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("convolution", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("gaussian", FAMILIES)
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.sampled(("border", "gaussian", "options"), ("convolution", "options"))
def test_one_layer(border: str, gaussian: str, convolution: Any, options: Any) -> None:
    x = torch.randn(2, 8, 13, 11, dtype=torch.float64) + 1
    for tolerance in (0.0, 1e-3, 0.02, 0.3):
        layer = layer_with(border, gaussian, convolution, options, torch.float64)
        y, z = layer(x), nn.Conv2d.forward(layer, x)
        gate, sigma = layer.gate.expand(8), layer.sigma.tolist()
        most = [shares(layer, abs(v)) for v in sigma]

        model = akm.fold(nn.Sequential(layer), tolerance=tolerance)

        off = (model(x) - y).abs().amax((2, 3))
        assert (off <= max(tolerance, 1e-12) * gate * ranges(z, border) + 1e-13).all()
        # and no less was done than the bound allows
        assert model[0] is layer
        dropped = [share[0] <= max(tolerance, 1e-15) for share in most]
        if all(dropped):
            assert type(layer) is nn.Conv2d
            assert vars(layer).keys() == vars(nn.Conv2d(1, 1, 1)).keys()
        else:
            assert (layer.r == 0).tolist() == [
                d or v == 0 for d, v in zip(dropped, sigma, strict=True)
            ]
            assert (layer.gate == 1).all()
            if tolerance > 0:
                radius = max(sum(x > tolerance for x in share) for share in most)
                assert layer.max_radius == radius


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_other_dtypes(dtype: torch.dtype) -> None:
    x = torch.randn(2, 8, 13, 11, dtype=dtype)
    for options in OPTIONS:
        layer = layer_with("symmetric", "discrete", dict(padding=1), options, dtype)
        y = layer(x)
        akm.fold(layer)
        assert layer.weight.dtype == dtype
        assert apart(layer(x).float(), y.float()) < (1e-6 if dtype == torch.float32 else 2e-2)


def test_half_weights_with_a_gate_in_float32() -> None:
    """As convert makes them."""
    model = block(nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1)).to(torch.float16)
    akm.convert(model, r=0)
    x = torch.randn(1, 16, 9, 9, dtype=torch.float16)
    y = model(x)
    akm.fold(model)
    assert {p.dtype for p in model.parameters()} == {torch.float16}
    assert apart(model(x).float(), y.float()) < 2e-3


def test_a_gate_of_one_is_one() -> None:
    from akm_triton.surgery.fold import OPEN

    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert torch.sigmoid(torch.full((9,), OPEN, dtype=dtype)).unique().tolist() == [1.0]


def trained(name: str, where: str, sigma: float) -> nn.Module:
    """Converted, with gates of its own, and σ up to this."""
    model = network(name)
    for p, q in zip(*[iter(converted(model, where=where).parameters)] * 2, strict=True):
        nn.init.uniform_(p, 0, sigma)
        nn.init.normal_(q)
    return model


@pytest.mark.parametrize(("name", "where"), ROWS)
def test_a_network_folds_into_the_plain_one(name: str, where: str) -> None:
    model, x = trained(name, where, 0.0), images()
    y = model(x)
    assert akm.fold(model) is model
    assert apart(model(x), y) < 1e-6
    plain = NETWORKS[name]().eval()
    assert [(k, type(v)) for k, v in model.named_modules()] == [
        (k, type(v)) for k, v in plain.named_modules()
    ]
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain(x), model(x))
    assert all(not module._load_state_dict_pre_hooks for module in model.modules())


@pytest.mark.parametrize(("name", "where"), ROWS)
def test_a_network_with_blurs_keeps_them(name: str, where: str) -> None:
    model, x = trained(name, where, 1.5), images()
    y = model(x)
    akm.fold(model)
    assert apart(model(x), y) < 1e-6
    left = [m for m in model.modules() if isinstance(m, (akm.AKMConv2d, akm.Modulation2d))]
    assert left and all((m.gate == 1).all() and m.max_radius < 15 for m in left)
    before = state(model)[2]
    akm.fold(model)  # twice is once
    assert all(torch.equal(x, before[k]) for k, x in model.state_dict().items())
    assert akm.revert(model) == []


def test_some_layers_fold() -> None:
    model, x = trained("resnet", "auto", 1.0), images()
    nn.init.uniform_(model.layer1.bn1.modulation.r, 0, 0.02)
    y = model(x)
    akm.fold(model, tolerance=1e-3)
    assert type(model.layer1.bn1) is nn.BatchNorm2d
    assert isinstance(model.layer1.bn2.modulation, akm.Modulation2d)
    assert 0 < apart(model(x), y) < 1e-3


def test_a_shared_norm_folds_under_all_its_names() -> None:
    norm = nn.BatchNorm2d(16)
    model = block(norm, nn.ReLU(), norm)
    akm.convert(model, where="norm", r=0)
    akm.fold(model)
    assert model[1] is model[3] is norm


def test_layers_that_share_a_weight_get_their_own() -> None:
    model = nn.Sequential(akm.AKMConv2d(4, 4, 1), akm.AKMConv2d(4, 4, 1), nn.Conv2d(4, 4, 1)).eval()
    for layer in model[:2]:
        layer.weight = model[2].weight
        nn.init.zeros_(layer.r)
        nn.init.normal_(layer.s)
    model[0].weight.requires_grad_(False)
    x = torch.randn(1, 4, 5, 5)
    y = model(x)
    akm.fold(model)
    assert apart(model(x), y) < 1e-6 and not model[1].weight.requires_grad


def test_a_gate_stays_where_nothing_can_take_it() -> None:
    """After a norm without a weight, and by hand."""
    model = block(nn.BatchNorm2d(16, affine=False), nn.SiLU(), akm.Modulation2d(16)).eval()
    akm.convert(model, exact=False, r=0)
    nn.init.constant_(model[3].r, 0.5)
    x = torch.randn(1, 16, 9, 9)
    y = model(x)
    akm.fold(model)
    assert apart(model(x), y) < 1e-6
    assert (model[1].modulation.gate < 1).all() and model[1].modulation.max_radius == 1
    assert (model[3].gate < 1).all() and 3 < model[3].max_radius < 9


def test_a_gate_stays_where_a_tied_decoder_has_the_weight_too() -> None:
    model = Autoencoder().eval()
    akm.convert(model, exact=False, r=0)
    x = torch.randn(1, 16, 9, 9)
    y = model(x)
    akm.fold(model)
    assert apart(model(x), y) < 1e-6
    assert type(model.stem) is nn.Conv2d and (model.conv.gate < 1).all()


def test_weights_that_were_averaged_fold() -> None:
    """EMA's copy of a converted network, and from there into the plain one."""
    model, x = network("resnet"), images()
    akm.convert(model, r=0.01)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    for _ in range(2):  # the first is a copy
        averaged.update_parameters(model)
        for p in model.parameters():
            nn.init.normal_(p, std=0.01)
    y = averaged.eval()(x)
    assert apart(model(x), y) > 0.1
    akm.fold(averaged, tolerance=0.01)
    assert apart(averaged(x), y) < 0.01
    plain = NETWORKS["resnet"]().eval()
    plain.load_state_dict(averaged.module.state_dict())
    assert torch.equal(plain(x), averaged(x))


def test_a_norm_with_a_weight_alone() -> None:
    model = block(nn.BatchNorm2d(16))
    model[1].bias = None
    x = torch.randn(1, 16, 9, 9)
    y = model(x)
    akm.convert(model, r=0)
    assert apart(model(x), y) < 1e-6
    akm.fold(model)
    assert type(model[1]) is nn.BatchNorm2d and apart(model(x), y) < 1e-6


def test_subclasses_are_left_alone() -> None:
    class Of(akm.AKMConv2d):
        pass

    model = nn.Sequential(Of(4, 4, 1)).eval()
    before = state(model)
    akm.fold(model, tolerance=0.9)
    assert same(before, state(model))


def weight_normed(model: Any) -> Any:
    parametrizations.weight_norm(model[0][0])
    return model


def pruned(model: Any) -> Any:
    prune.random_unstructured(model[1][1].modulation, "r", 0.5)
    return model


def scheduled(model: Any) -> Any:
    model[0][0].register_buffer("added_variance", torch.ones(()))
    return model


def filled(model: Any, name: str, value: float) -> Any:
    nn.init.constant_(getattr(model[1][1].modulation, name), value)
    return model


@pytest.mark.parametrize(
    ("change", "tolerance", "error", "message"),
    [
        (lambda m: m.train(), 0, ValueError, r"0\.0 is in training mode; call model.eval"),
        (lambda m: m[1][1].layer.train(), 0, ValueError, "1.1.modulation is in training mode"),
        (weight_normed, 0, ValueError, r"0\.0: weight of it is computed"),
        (pruned, 0, ValueError, r"1\.1\.modulation: r of it is computed"),
        (scheduled, 0, ValueError, r"0\.0 has added_variance; remove schedules first"),
        (lambda m: filled(m, "r", float("nan")), 0, ValueError, "r and s must be finite"),
        (lambda m: filled(m, "r", float("inf")), 0, ValueError, "r and s must be finite"),
        (lambda m: filled(m, "s", float("nan")), 0, ValueError, "r and s must be finite"),
        (lambda m: m, -0.1, ValueError, r"tolerance must be at least 0 and below 1, got -0\.1"),
        (lambda m: m, 1, ValueError, "tolerance must be at least 0 and below 1, got 1"),
        (lambda m: m, float("nan"), ValueError, "tolerance must be at least 0"),
        (lambda m: m, "0", TypeError, "tolerance must be a number, got '0'"),
    ],
)
def test_refuses(
    change: Callable[[Any], Any], tolerance: Any, error: type[Exception], message: str
) -> None:
    model = nn.Sequential(block(), block(nn.BatchNorm2d(16)))
    akm.convert(model)
    change(model)
    before = state(model)
    with pytest.raises(error, match=message):
        akm.fold(model, tolerance=tolerance)
    after = state(model)
    assert before[:2] == after[:2]
    for key, value in before[2].items():
        torch.testing.assert_close(after[2][key], value, rtol=0, atol=0, equal_nan=True)


def test_refuses_what_is_no_network() -> None:
    with pytest.raises(TypeError, match="model must be a Module, got list"):
        akm.fold([])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=re.escape("the model: r and s must be finite")):
        akm.fold(akm.AKMConv2d(3, 3, 1, device="meta").eval())
