"""σ → taps on the PyTorch path."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from torch import Tensor

import akm_triton as akm
from akm_triton.gaussian import tap_derivatives
from reference import composition, oracle
from tests.common import FAMILIES


@pytest.mark.parametrize("radius", [1, 7, 15, 31])
def test_discrete_taps_are_bessel(radius: int) -> None:
    """Renormalised over the window, σ up to 10 px, to 1e-12."""
    sigma = torch.linspace(0, 10, 41, dtype=torch.float64)
    wanted = special.ive(np.arange(radius + 1), sigma.numpy()[:, None] ** 2)
    wanted /= 2 * wanted.sum(-1, keepdims=True) - wanted[:, :1]
    found = akm.gaussian_taps(sigma, radius).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    single = akm.gaussian_taps(sigma.float(), radius)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), wanted, atol=1e-6)


def test_variance_is_t() -> None:
    sigma = torch.linspace(0, 5, 21, dtype=torch.float64)
    n = torch.arange(64)
    variance = 2 * (n * n * akm.gaussian_taps(sigma, 63)).sum(-1)
    torch.testing.assert_close(variance, sigma**2, rtol=0, atol=1e-11)


@pytest.mark.parametrize("truncate", [None, 3.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_against_the_oracle(family: str, truncate: float | None) -> None:
    sigma = np.linspace(0, 8, 53)
    options = dict(gaussian=family, truncate=truncate)
    found = akm.gaussian_taps(torch.from_numpy(sigma), 9, **options)  # type: ignore[arg-type]
    np.testing.assert_allclose(found.numpy(), oracle.taps(sigma, 9, **options), atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_truncation_at_a_third(family: str) -> None:
    """int(3σ) changes exactly where 3σ reaches an integer."""
    third = torch.tensor(1 / 3, dtype=torch.float64)
    sigma = torch.stack(
        [torch.nextafter(third, third * 0), third, torch.nextafter(third, third + 1)]
    )
    found = akm.gaussian_taps(sigma, 3, gaussian=family, truncate=3.0)
    np.testing.assert_allclose(
        found.numpy(), oracle.taps(sigma.numpy(), 3, gaussian=family, truncate=3.0), atol=1e-12
    )
    assert (found[:, 1] > 0).tolist() == [int(3 * float(s)) >= 1 for s in sigma]


@given(st.floats(0, 1e6), st.integers(1, 31), st.sampled_from(FAMILIES))
def test_gain_is_one_and_taps_fall(sigma: float, radius: int, family: str) -> None:
    k = akm.gaussian_taps(torch.tensor(sigma, dtype=torch.float64), radius, gaussian=family)
    assert float(2 * k.sum() - k[0]) == pytest.approx(1, abs=1e-13)
    assert (k >= -1e-15).all()
    assert (k[1:] <= k[:-1] + 1e-15).all()


@given(st.floats(0, 3), st.floats(0, 3))
def test_semigroup(one: float, two: float) -> None:
    """Blurring by σ₁ and then σ₂ is blurring by √(σ₁² + σ₂²): B_a B_b = B_{a+b}."""
    z = torch.randn(1, 1, 9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def blur(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return akm.gaussian_blur(x, torch.tensor(sigma, dtype=torch.float64), max_radius=50)

    twice = blur(blur(z, one), two)
    torch.testing.assert_close(twice, blur(z, float(np.hypot(one, two))), rtol=0, atol=1e-11)


def test_no_jump_over_sigma() -> None:
    """The output moves no faster than σ does, over a fine sweep (discrete, whole window)."""
    sigma = torch.linspace(0, 12, 6001, dtype=torch.float64)
    k = akm.gaussian_taps(sigma, 15)
    speed = (k[1:] - k[:-1]).abs().sum(-1) / (sigma[1:] - sigma[:-1])
    assert speed.max() < 1.2
    truncated = akm.gaussian_taps(sigma, 15, truncate=3.0)
    jump = (truncated[1:] - truncated[:-1]).abs().sum(-1) / (sigma[1:] - sigma[:-1])
    assert jump.max() > 5  # the paper's cut does jump: the test can fail


@pytest.mark.parametrize("radius", [1, 15, 31, 60])
@pytest.mark.parametrize("family", FAMILIES)
def test_any_sigma(family: str, radius: int) -> None:
    """Up to the largest numbers: the taps to 1e-14, their slope to its last digits or so, and both
    the same from ``tap_derivatives``."""
    sigma = np.concatenate([np.linspace(6, 60, 109), 10.0 ** np.array([3, 7, 12, 20, 100])])
    x = torch.from_numpy(sigma).requires_grad_()
    k = akm.gaussian_taps(x, radius, gaussian=family)
    wanted = oracle.taps(sigma, radius, gaussian=family)
    np.testing.assert_allclose(k.detach().numpy(), wanted, atol=1e-14)
    slope = oracle.taps_derivative(sigma, radius, gaussian=family)
    (found,) = torch.autograd.grad(k[:, 0].sum(), x)
    np.testing.assert_allclose(found.numpy(), slope[:, 0], rtol=1e-9)
    both = tap_derivatives(x.detach(), radius, family, None)[:2]
    np.testing.assert_allclose(both[0].numpy(), wanted, atol=1e-14)
    np.testing.assert_allclose(both[1][:, 0].numpy(), slope[:, 0], rtol=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_derivatives_far_beyond_the_window(family: str, dtype: torch.dtype, order: int) -> None:
    """k_0 falls towards the box as 1/σ², and so each derivative has its sign, until it underflows;
    nothing is NaN for a finite σ."""
    largest = torch.finfo(dtype).max
    sigma = torch.tensor([50.0, 1e4, 1e7, 1e9, 1e12, 1e19, 1e30, largest], dtype=dtype)
    x = sigma.clone().requires_grad_()
    y = akm.gaussian_taps(x, 15, gaussian=family)[:, 0]
    for _ in range(order):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    scale = 80 / 31  # k_0 - 1/31 ≈ (Σ n²/31)/(2·31) / σ² = 40/31 / σ², for σ far beyond the window
    wanted = scale * (-1) ** order * [1, 3, 12][order - 1] * sigma.double() ** -(2 + order)
    wanted = wanted.to(dtype)
    found = y.detach()
    assert found.isfinite().all()
    tiny = wanted.abs() < 100 * torch.finfo(dtype).tiny
    torch.testing.assert_close(found[~tiny], wanted[~tiny], rtol=0.1, atol=0)
    assert (found[tiny] * wanted[tiny].sign() >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_cut_of_any_size(dtype: torch.dtype) -> None:
    sigma = torch.tensor([0.0, 1e-3, 1.0, 1e30], dtype=dtype)
    for truncate in (1e300, float("inf")):
        found = akm.gaussian_taps(sigma, 7, truncate=truncate)
        torch.testing.assert_close(found, akm.gaussian_taps(sigma, 7))
    found = akm.gaussian_taps(sigma[:3], 7, truncate=1e-300)
    torch.testing.assert_close(found, torch.eye(1, 8, dtype=dtype).expand(3, 8))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_number_no_taps(value: float, family: str) -> None:
    k = akm.gaussian_taps(torch.tensor([value, 1.0]), 5, gaussian=family)
    assert k[0].isnan().all() and not k[1].isnan().any()


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients(family: str) -> None:
    sigma = torch.tensor([0.0, 0.4, 1.0, 30.0], dtype=torch.float64, requires_grad=True)

    def taps(sigma: torch.Tensor) -> torch.Tensor:
        return akm.gaussian_taps(sigma, 6, gaussian=family)

    assert torch.autograd.gradcheck(taps, (sigma,))
    assert torch.autograd.gradgradcheck(taps, (sigma,))


@pytest.mark.parametrize("truncate", [None, 3.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_three_derivatives(family: str, truncate: float | None) -> None:
    """Against autograd through the composition; the last is differentiable once more."""
    r = torch.tensor([0.0, 0.1, 0.3, 0.9, 2.5, 7.0, 10.0], dtype=torch.float64, requires_grad=True)
    found = tap_derivatives(r, 7, family, truncate)
    for n in range(8):
        wanted = composition.taps(r, 7, family, truncate)[:, 7 + n]
        mine = [x[:, n] for x in found]
        mine.append(torch.autograd.grad(mine[-1].sum(), r, retain_graph=True)[0])
        for x in mine:
            atol = 1e-11 * max(1.0, float(wanted.detach().abs().max()))
            torch.testing.assert_close(x, wanted, rtol=0, atol=atol)
            (wanted,) = torch.autograd.grad(wanted.sum(), r, create_graph=True)


@pytest.mark.parametrize(
    ("sigma", "options", "message"),
    [
        (torch.ones(1), {"gaussian": "Discrete"}, "gaussian must be one of"),
        (torch.ones(1), {"truncate": -1}, "truncate must be"),
        (torch.ones(1), {"truncate": "3"}, "truncate must be"),
        (torch.ones(1), {"max_radius": -3}, "max_radius must be at least 1"),
        (torch.ones(1, dtype=torch.int64), {}, "sigma must be a floating point Tensor"),
        ("1", {}, "sigma must be a floating point Tensor or a number, got str"),
        (True, {}, "sigma must be a floating point Tensor or a number, got bool"),
        (torch.ones(1).to_sparse(), {}, "sigma must be a dense tensor, got layout sparse_coo"),
    ],
    ids=str,
)
def test_taps_refuse_what_means_nothing(sigma: Tensor, options: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        akm.gaussian_taps(sigma, **options)
