"""The oracle itself, against SciPy, NumPy, finite differences and the paper's known values."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage, special
from scipy.fft import dctn, idctn

from reference import composition, oracle, paper
from tests.common import BORDERS, FAMILIES

NUMPY_PAD = {
    "symmetric": "symmetric",
    "replicate": "edge",
    "reflect": "reflect",
    "circular": "wrap",
}
CENTRE = [0.106507, 0.786986, 0.106507]


def close(found: Any, wanted: Any, atol: float) -> None:
    """NumPy's own default would let 1e-7 of the value pass besides."""
    np.testing.assert_allclose(found, wanted, rtol=0, atol=atol)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_imports_nothing_of_the_package() -> None:
    paths = sorted(Path(oracle.__file__).parent.glob("*.py"))
    assert {path.name for path in paths} >= {"oracle.py", "composition.py", "paper.py"}
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not any(name.startswith("akm_triton") for name in names)


def test_paper_impulse() -> None:
    impulse = np.zeros((9, 9))
    impulse[4, 4] = 1
    blurred = paper.sampled_blur_2d(impulse, 0.5)
    close(blurred[3:6, 3:6], np.outer(CENTRE, CENTRE), atol=1e-6)
    assert np.count_nonzero(blurred) == 9
    rows = paper.smooth_rows(impulse, 0.5)
    close(rows[4, 3:6], CENTRE, atol=1e-6)
    assert np.count_nonzero(rows) == 3


def test_paper_ramp_passes_through() -> None:
    ramp = np.arange(1.0, 26).reshape(5, 5)
    np.testing.assert_array_equal(paper.smooth_rows(ramp, 1.0), ramp)


def test_paper_formula_is_the_oracle_of_the_seed_options() -> None:
    z = rng().standard_normal((1, 1, 9, 11))
    for r in (0.2, 0.5, -1.4):
        k = oracle.taps(abs(r), 6, gaussian="sampled", truncate=3.0)[None]
        close(oracle.blur(z, k, k, "zeros")[0, 0], paper.sampled_blur_2d(z[0, 0], r), atol=1e-12)


def test_discrete_taps_are_bessel_and_have_variance_t() -> None:
    n = np.arange(61)
    for sigma in (0.0, 0.1, 1.0, -1.0, 5.0):
        k = oracle.taps(sigma, 60)
        close(k, special.ive(n, sigma**2), atol=1e-12)
        assert 2 * (n**2 * k).sum() == pytest.approx(sigma**2, abs=1e-10)


def test_discrete_taps_are_renormalised_over_a_narrow_window() -> None:
    bessel = special.ive(np.arange(-3, 4), 2.5**2)
    wanted = (bessel / bessel.sum())[3:]
    close(oracle.taps([[2.5, 0.0]], 3)[0, 0], wanted, atol=1e-12)


def test_sampled_taps_are_exponentials() -> None:
    sampled: dict[str, Any] = dict(gaussian="sampled")
    k = oracle.taps(0.5, 1, **sampled)
    close(k, CENTRE[1:], atol=1e-6)
    for sigma in (0.0, 1e-170, 1e-3):
        np.testing.assert_array_equal(oracle.taps(sigma, 3, **sampled), [1, 0, 0, 0])
        np.testing.assert_array_equal(oracle.taps_derivative(sigma, 3, **sampled), 0)
    np.testing.assert_array_equal(oracle.taps(-0.7, 3, **sampled), oracle.taps(0.7, 3, **sampled))


@pytest.mark.parametrize("family", FAMILIES)
def test_truncation_zeroes_taps_and_keeps_the_sum(family: str) -> None:
    k = oracle.taps([0.3, 0.5, -1.4], 6, gaussian=family, truncate=3.0)
    assert np.count_nonzero(k, axis=-1).tolist() == [1, 2, 5]  # int(3σ) + 1
    close(k[:, 0] + 2 * k[:, 1:].sum(-1), 1, atol=1e-15)


@pytest.mark.parametrize("family", FAMILIES)
def test_nan_is_not_hidden(family: str) -> None:
    assert np.isnan(oracle.taps(np.nan, 3, gaussian=family)).all()


@pytest.mark.parametrize("truncate", [None, 3.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_taps_derivative(family: str, truncate: float | None) -> None:
    sigma, step = np.array([-0.5, 0.0, 0.21, 0.5, 0.9, 2.2, 6.1]), 2e-4
    options: dict[str, Any] = dict(gaussian=family, truncate=truncate)
    near, far = (
        oracle.taps(sigma + h, 9, **options) - oracle.taps(sigma - h, 9, **options)
        for h in (step, 2 * step)
    )
    wanted = (8 * near - far) / (12 * step)  # error O(step⁴)
    close(oracle.taps_derivative(sigma, 9, **options), wanted, atol=1e-10)


@pytest.mark.parametrize("border", NUMPY_PAD)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_fold_is_numpy_pad(size: int, border: str) -> None:
    pad: Any = np.pad
    padded = pad(np.arange(size), 17, mode=NUMPY_PAD[border])
    index = np.arange(-17, size + 17)
    assert [oracle.fold(int(i), size, border) for i in index] == list(padded)
    np.testing.assert_array_equal(oracle.fold(index, size, border), padded)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_fold_finds_nothing_beyond_zeros(size: int) -> None:
    folded = oracle.fold(np.arange(-17, size + 17)[None], size, "zeros")
    assert folded.tolist() == [[-1] * 17 + list(range(size)) + [-1] * 17]
    assert oracle.fold(-1, size, "zeros") == oracle.fold(size, size, "zeros") == -1


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="mirror"):
        oracle.fold(0, 3, "mirror")
    with pytest.raises(ValueError, match="box"):
        oracle.taps(1.0, 3, gaussian="box")


def test_discrete_symmetric_is_diagonal_in_the_cosine_basis() -> None:
    z = rng().standard_normal((1, 1, 12, 17))
    for sigma in (0.3, 1.0, 2.5):
        k = oracle.taps(sigma, 40)[None]
        frequencies = [np.cos(np.pi * np.arange(n) / n) - 1 for n in z.shape[2:]]
        decay = np.exp(sigma**2 * (frequencies[0][:, None] + frequencies[1]))
        wanted = idctn(decay * dctn(z[0, 0], norm="ortho"), norm="ortho")
        close(oracle.blur(z, k, k, "symmetric")[0, 0], wanted, atol=1e-12)


def test_sampled_zeros_is_scipy_gaussian_filter() -> None:
    z = rng().standard_normal((1, 1, 12, 17))
    for sigma in (0.4, 1.0, 2.6):
        k = oracle.taps(sigma, 8, gaussian="sampled", truncate=3.0)[None]
        wanted = ndimage.gaussian_filter(z[0, 0], sigma, mode="constant", radius=int(3 * sigma))
        close(oracle.blur(z, k, k, "zeros")[0, 0], wanted, atol=1e-12)


@pytest.mark.parametrize("border", BORDERS)
def test_adjoint(border: str) -> None:
    g, z = rng(1).standard_normal((2, 2, 3, 7, 5))
    a, b = rng(2).standard_normal((2, 3, 10))
    left = (g * oracle.blur(z, a, b, border)).sum()
    assert left == pytest.approx((oracle.blur(g, a, b, border, adjoint=True) * z).sum())


@pytest.mark.parametrize("shape", [(1, 4), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("border", BORDERS)
def test_tap_grads(border: str, shape: tuple[int, ...]) -> None:
    g, z = rng(1).standard_normal((2, 2, 3, 5, 6))
    a, b = rng(2).standard_normal((2, *shape))
    found = oracle.tap_grads(g, z, a, b, border)
    for table, grad in zip((a, b), found, strict=True):
        numeric = np.zeros_like(table)
        for index in np.ndindex(*shape):  # F is linear in each table: a unit step is exact
            before = (g * oracle.blur(z, a, b, border)).sum()
            table[index] += 1
            numeric[index] = (g * oracle.blur(z, a, b, border)).sum() - before
            table[index] -= 1
        close(grad, numeric, atol=1e-10)


SHAPES: list[tuple[int, ...]] = [(), (1,), (3,), (2, 3)]


def parameters(shape: tuple[int, ...], seed: int) -> tuple[Any, Any]:
    """(r, s) of either sign, r away from the multiples of 1/3 where truncation jumps."""
    r = rng(seed).choice([-1.9, -0.85, -0.5, 0.0, 0.5, 1.2, 2.1], shape)
    return r, rng(seed + 1).standard_normal(shape)


@pytest.mark.parametrize("truncate", [None, 3.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_modulate_backward(
    family: str, border: str, shape: tuple[int, ...], truncate: float | None
) -> None:
    g, z = rng(1).standard_normal((2, 2, 3, 4, 5))
    r, s = parameters(shape, 2)
    options: dict[str, Any] = dict(gaussian=family, border=border, truncate=truncate, max_radius=6)
    grads = oracle.modulate_backward(g, z, r, s, **options)
    assert [grad.shape for grad in grads] == [z.shape, shape, shape]
    for which, grad in enumerate(grads):
        direction = rng(3).standard_normal(grad.shape)
        ends = []
        for step in (1e-6, -1e-6):
            moved: list[Any] = [z, r, s]
            moved[which] = moved[which] + step * direction
            ends.append((g * oracle.modulate(moved[0], moved[1], moved[2], **options)).sum())
        numeric = (ends[0] - ends[1]) / 2e-6
        assert (grad * direction).sum() == pytest.approx(numeric, abs=1e-7)


@pytest.mark.parametrize("r_shape, s_shape", [((3,), (2, 3)), ((2, 3), ()), ((1,), (3,))], ids=str)
def test_r_and_s_of_different_shapes(r_shape: tuple[int, ...], s_shape: tuple[int, ...]) -> None:
    z = rng(1).standard_normal((2, 3, 5, 4))
    r, s = parameters(r_shape, 2)[0], parameters(s_shape, 4)[1]
    options: dict[str, Any] = dict(
        gaussian="discrete", border="symmetric", truncate=None, max_radius=3
    )
    _, dr, ds = oracle.modulate_backward(z, z, r, s, **options)
    assert (dr.shape, ds.shape) == (r_shape, s_shape)
    found = composition.modulate(*(torch.from_numpy(np.asarray(x)) for x in (z, r, s)), **options)
    close(found.numpy(), oracle.modulate(z, r, s, **options), atol=1e-12)


@pytest.mark.parametrize("truncate", [None, 3.0])
@pytest.mark.parametrize("size", [(9, 12), (1, 1), (3, 2)], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_composition(
    family: str,
    border: str,
    shape: tuple[int, ...],
    size: tuple[int, int],
    truncate: float | None,
) -> None:
    """Forward and, by plain autograd, backward; radius 6 exceeds all but the first map."""
    g, z = rng(1).standard_normal((2, 2, 3, *size))
    r, s = parameters(shape, 2)
    options: dict[str, Any] = dict(gaussian=family, border=border, truncate=truncate, max_radius=6)
    leaves = [torch.from_numpy(np.array(x)).requires_grad_() for x in (z, r, s)]
    found = composition.modulate(leaves[0], leaves[1], leaves[2], **options)
    wanted = oracle.modulate(z, r, s, **options)
    close(found.detach().numpy(), wanted, atol=1e-12)
    slopes = torch.autograd.grad(found, leaves, torch.from_numpy(g))
    for slope, grad in zip(slopes, oracle.modulate_backward(g, z, r, s, **options), strict=True):
        close(slope.numpy(), grad, atol=1e-11)


@pytest.mark.parametrize("radius", [7, 15, 31])
def test_composition_taps_hold_from_identity_to_box(radius: int) -> None:
    sigma = np.array([0.0, 0.1, 1.0, 5.0, 10.0, 20.0, 29.0])
    found = composition.taps(torch.from_numpy(sigma), radius, "discrete", None)
    close(found[:, radius:].numpy(), oracle.taps(sigma, radius), atol=1e-12)
    close(found, found.flip(-1), atol=1e-15)
    box = composition.taps(torch.tensor(1e4, dtype=torch.float64), radius, "discrete", None)
    close(box, 1 / (2 * radius + 1), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_composition_taps_in_any_dtype(family: str, dtype: torch.dtype) -> None:
    """Half precision is counted in float32: the taps are those of the rounded σ."""
    sigma = torch.tensor([0.0, 0.3, 1.5, 6.0, 20.0], dtype=dtype)
    found = composition.taps(sigma, 15, family, None)[:, 15:]
    assert found.dtype == torch.float32
    close(found.numpy(), oracle.taps(sigma.double().numpy(), 15, gaussian=family), atol=5e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_composition_in_any_dtype(family: str, dtype: torch.dtype) -> None:
    """Parameters in the dtype of z cost a rounding or two of z, not the taps."""
    options: dict[str, Any] = dict(
        gaussian=family, border="symmetric", truncate=None, max_radius=15
    )
    z = torch.from_numpy(rng(1).standard_normal((2, 3, 20, 21))).to(dtype)
    r, s = torch.tensor([0.3, 1.5, 4.0], dtype=dtype), torch.tensor([-1.0, 0.0, 1.0], dtype=dtype)
    found = composition.modulate(z, r, s, **options)
    assert found.dtype == dtype
    exact = [x.double().numpy() for x in (z, r, s)]
    bound = 4 * torch.finfo(dtype).eps * np.abs(exact[0]).max()
    wanted = oracle.modulate(exact[0], exact[1], exact[2], **options)
    close(found.double().numpy(), wanted, atol=bound)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_composition_stays_on_its_device(family: str, border: str) -> None:
    z, r = torch.empty(2, 3, 4, 20, device="meta"), torch.empty(3, device="meta")
    for radius in (2, 9):
        found = composition.modulate(
            z, r, r, gaussian=family, border=border, truncate=3.0, max_radius=radius
        )
        assert found.device.type == "meta" and found.shape == z.shape
