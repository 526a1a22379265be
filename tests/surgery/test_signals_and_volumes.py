"""Networks of signals and volumes, and transposed convolutions: converted, folded, told of."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import akm_triton as akm

CONVS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {
    1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d,
}  # fmt: skip
NORMS: dict[int, Any] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def network(dims: int) -> nn.Module:
    """A convolution and its norm, one in groups that makes maps larger, one alone."""
    torch.manual_seed(0)
    model = nn.Sequential(
        CONVS[dims](16, 16, 3, padding=1), NORMS[dims](16), nn.ReLU(),
        TRANSPOSED[dims](16, 20, 2, stride=2, groups=2), nn.ReLU(),
        CONVS[dims](20, 6, 3, stride=2),
    )  # fmt: skip
    nn.init.uniform_(model[1].weight, 0.5, 1.5)
    return model.eval()


def batch(dims: int) -> Tensor:
    return torch.randn(2, 16, *(7, 6, 5)[:dims])


def names(dims: int) -> tuple[str, str, str]:
    return f"AKMConvTranspose{dims}d", f"AKMConv{dims}d", f"Modulation{dims}d"


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convert_and_revert(dims: int) -> None:
    model, x = network(dims), batch(dims)
    before, state = model(x), copy.deepcopy(model.state_dict())
    report = akm.convert(model, r=0.0, isotropic=dims == 1)
    assert report.placed == {"0": "1", "3": "3", "5": "5"} and not report.skipped
    up, conv, modulation = names(dims)
    assert [type(model[i]).__name__ for i in (3, 5)] == [up, conv]
    assert type(model[1].modulation).__name__ == modulation
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)
    for module in (model[1].modulation, model[3], model[5]):
        nn.init.constant_(module.r, 1.0)
    assert not torch.allclose(model(x), before, rtol=1e-2, atol=1e-2)
    assert akm.revert(model) == ["1", "3", "5"]
    assert type(model[3]) is TRANSPOSED[dims] and type(model[5]) is CONVS[dims]
    torch.testing.assert_close(model.state_dict(), state)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_fold_keeps_gates(dims: int) -> None:
    """With blurs that do nothing, gates of each channel go into weights of any layout."""
    model, x = network(dims), batch(dims)
    report = akm.convert(model, r=0.0)
    for parameter in report.parameters[1::2]:
        nn.init.normal_(parameter)
    before = model(x)
    akm.fold(model)
    assert type(model[3]) is TRANSPOSED[dims] and type(model[5]) is CONVS[dims]
    assert type(model[1]) is NORMS[dims]
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dims", "isotropic"), [(1, True), (2, False), (3, True), (3, False)])
def test_fold_stays_within_its_tolerance(dims: int, isotropic: bool) -> None:
    layer: Any = {1: akm.Modulation1d, 2: akm.Modulation2d, 3: akm.Modulation3d}[dims](
        64, isotropic=isotropic
    )
    nn.init.uniform_(layer.r, 0, 0.5)
    z = torch.rand(1, 64, *(9, 8, 7)[:dims])
    span = (z.flatten(2).amax(2) - z.flatten(2).amin(2))[0]
    before, folded = layer(z), akm.fold(copy.deepcopy(layer).eval(), tolerance=0.1)
    change = (folded(z) - before).abs().flatten(2).amax(2)[0]
    assert (folded.r == 0).any() and (folded.r != 0).any()
    assert (change <= 0.1 * layer.gate * span).all()


def test_summary_of_a_volume() -> None:
    model = nn.Sequential(
        akm.AKMConv3d(1, 4, 3, padding=1, max_radius=2, isotropic=False), nn.AvgPool3d(2),
        akm.AKMConvTranspose3d(4, 2, 2, stride=2, max_radius=2),
    )  # fmt: skip
    with torch.no_grad():
        model[0].r.copy_(torch.tensor([1.0, 2.0, 3.0]).expand(4, 3))
        nn.init.constant_(model[2].r, 1.5)
    first, second = akm.summary(model, torch.randn(2, 1, 8, 6, 4)).layers
    assert first.sigma == (1.0, 2.0, 3.0) and first.field == pytest.approx(1.0)  # down its depth
    assert second.field == pytest.approx((1.0**2 + 1.5**2) ** 0.5)
    pixels = 8 * 6 * 4
    assert first.flops == 2 * (4 * pixels * 27 + 3 * 5 * 4 * pixels)
    assert second.flops == 2 * (4 * pixels // 8 * 2 * 8 + 3 * 5 * 2 * pixels)
    with pytest.raises(ValueError, match=r"images must be \(N, C, D, H, W\)"):
        akm.summary(model, torch.randn(1, 8, 6, 4))


def test_summary_of_a_signal() -> None:
    model = nn.Sequential(akm.AKMConv1d(1, 4, 3, stride=4), nn.MaxPool1d(2), akm.Modulation1d(4))
    for layer in (model[0], model[2]):
        nn.init.constant_(layer.r, 1.0)
    first, second = akm.summary(model, torch.randn(2, 1, 400)).layers
    assert first.field == pytest.approx(4.0) and first.sigma_input == pytest.approx(4.0)
    assert second.field == pytest.approx((4.0**2 + 8.0**2) ** 0.5)


def test_groups_and_penalty_know_all() -> None:
    model = nn.Sequential(akm.AKMConv1d(1, 4, 3), akm.Modulation3d(4, isotropic=False))
    groups = akm.parameter_groups(model, lr=0.1, weight_decay=0.1)
    assert [x.shape for x in groups[1]["params"]] == [(4,), (4,), (4, 3), (4,)]
    assert akm.sigma_penalty(model).item() == pytest.approx(0.3)
    assert akm.scalars(model)["1.sigma/max"] == pytest.approx(0.3)


def test_a_norm_of_features_is_left_alone() -> None:
    model = nn.Sequential(
        nn.Conv2d(16, 16, 3), nn.GroupNorm(2, 16), nn.Flatten(), nn.BatchNorm1d(16)
    )
    assert akm.convert(model, where="norm").placed == {"1": "1"}


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_norms_of_any_dimensions(dims: int) -> None:
    """A norm that does not tell what it is of: behind a convolution, or among them."""
    model = nn.Sequential(
        CONVS[dims](16, 16, 1), nn.GroupNorm(4, 16), nn.GELU(), nn.GroupNorm(4, 16),
        CONVS[dims](16, 16, 1), NORMS[dims](16),
    ).eval()  # fmt: skip
    x = batch(dims)
    before = model(x)
    assert akm.convert(model, where="norm", exact=False).placed == {"1": "1", "3": "3", "5": "5"}
    for i in (1, 3, 5):
        assert type(model[i].modulation).__name__ == names(dims)[2]
    model(x)
    akm.revert(model)
    assert torch.equal(model(x), before)


def test_norms_of_unknown_dimensions_are_left_alone() -> None:
    layers = nn.Conv3d(16, 16, 1), nn.Flatten(2, 3), nn.GroupNorm(4, 16), nn.Conv2d(16, 16, 1)
    with pytest.raises(ValueError, match=r"2 \(nothing tells whether it is of"):
        akm.convert(nn.Sequential(*layers), where="norm")


def test_what_has_one_pixel_is_left_alone() -> None:
    class Squeeze(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv3d(16, 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.conv(x.mean((2, 3, 4), keepdim=True))
            return x * y

    model = nn.Sequential(nn.Conv3d(16, 16, 3), Squeeze())
    assert akm.convert(model).skipped["1.conv"].startswith("its maps have one pixel")
