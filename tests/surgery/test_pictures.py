"""The pictures show what closed forms say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import akm_triton as akm
from akm_triton.surgery.pictures import frequency_response, receptive_field


def test_the_response_is_that_of_the_discrete_gaussian() -> None:
    """sigmoid(s) exp(−σ² (1 − cos 2πf)): Lindeberg's kernel is made to have it."""
    first, second = akm.Modulation2d(3), akm.AKMConv2d(3, 2, 3, per="layer")
    with torch.no_grad():
        first.r.copy_(torch.tensor([0.5, -1.0, 2.0]))
        first.s.copy_(torch.tensor([0.0, 1.0, 3.0]))
    model = nn.Sequential(first, second, *[akm.Modulation2d(1) for _ in range(3)])
    axes = frequency_response(model).axes
    assert [axis.get_title() for axis in axes] == ["0", "1", "2", "3", "4"]
    for axis, (sigma, gate) in zip(
        axes, [((0.5, 1, 2), (0.5, 0.731059, 0.952574)), ((0.3,), (0.880797,))], strict=False
    ):
        (line,) = axis.get_lines()
        f, shown = line.get_data()
        sigmas, gates = np.array(sigma)[:, None], np.array(gate)[:, None]
        wanted = gates * np.exp(-(sigmas**2) * (1 - np.cos(2 * np.pi * np.asarray(f))))
        assert (f[0], f[-1]) == (0, 0.5)
        np.testing.assert_allclose(shown, np.median(wanted, 0), atol=1e-5)
        band = axis.collections[0].get_paths()[0].vertices[:, 1]
        assert band.min() == pytest.approx(wanted.min(), abs=1e-5)
        assert band.max() == pytest.approx(wanted.max(), abs=1e-5)


def test_the_receptive_field_is_the_gaussian_around_the_middle() -> None:
    layer = akm.AKMConv2d(1, 2, 1, stride=2).eval()
    nn.init.constant_(layer.r, 1.5)
    nn.init.constant_(layer.weight, -1.0)
    (picture,) = receptive_field(nn.Sequential(layer), torch.randn(2, 1, 64, 48)).axes[0].images
    shown = np.asarray(picture.get_array())
    assert shown.shape == (64, 48) and shown.max() == 1
    assert np.unravel_index(shown.argmax(), shown.shape) == (32, 24)
    rows = shown.sum(1) / shown.sum()
    place = np.arange(64)
    assert (rows * place).sum() == pytest.approx(32, abs=0.01)
    assert (rows * (place - 32) ** 2).sum() == pytest.approx((2 * 1.5) ** 2, rel=1e-3)


def test_refuses_a_network_with_nothing_to_show() -> None:
    with pytest.raises(ValueError, match="model has no AKM layer"):
        frequency_response(nn.ReLU())
    with pytest.raises(ValueError, match="model has no AKM layer"):
        receptive_field(nn.ReLU(), torch.zeros(1, 1, 4, 4))
