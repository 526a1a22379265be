"""The oracle itself, against SciPy, NumPy, finite differences and the paper's known values."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage, special
from scipy.fft import dctn, idctn

from reference import composition, oracle, paper

BORDERS = ("symmetric", "zeros", "replicate", "reflect", "circular")
NUMPY_PAD = {
    "symmetric": "symmetric",
    "replicate": "edge",
    "reflect": "reflect",
    "circular": "wrap",
}
CENTRE = [0.106507, 0.786986, 0.106507]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_imports_nothing_of_the_package() -> None:
    for path in Path(oracle.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not any(name.startswith("akm_triton") for name in names)


def test_paper_impulse() -> None:
    impulse = np.zeros((9, 9))
    impulse[4, 4] = 1
    blurred = paper.sampled_blur_2d(impulse, 0.5)
    np.testing.assert_allclose(blurred[3:6, 3:6], np.outer(CENTRE, CENTRE), atol=1e-6)
    assert np.count_nonzero(blurred) == 9
    rows = paper.smooth_rows(impulse, 0.5)
    np.testing.assert_allclose(rows[4, 3:6], CENTRE, atol=1e-6)
    assert np.count_nonzero(rows) == 3


def test_paper_ramp_passes_through() -> None:
    ramp = np.arange(1.0, 26).reshape(5, 5)
    np.testing.assert_array_equal(paper.smooth_rows(ramp, 1.0), ramp)


def test_paper_formula_is_the_oracle_of_the_seed_options() -> None:
    z = rng().standard_normal((1, 1, 9, 11))
    for r in (0.2, 0.5, -1.4):
        k = oracle.taps(abs(r), 6, gaussian="sampled", truncate=3.0)[None]
        np.testing.assert_allclose(
            oracle.blur(z, k, k, "zeros")[0, 0], paper.sampled_blur_2d(z[0, 0], r), atol=1e-12
        )


def test_discrete_taps_are_bessel_and_have_variance_t() -> None:
    n = np.arange(61)
    for sigma in (0.0, 0.1, 1.0, 5.0):
        k = oracle.taps(sigma, 60)
        np.testing.assert_allclose(k, special.ive(n, sigma**2), atol=1e-12)
        assert 2 * (n**2 * k).sum() == pytest.approx(sigma**2, abs=1e-10)


@pytest.mark.parametrize("truncate", [None, 3.0])
@pytest.mark.parametrize("family", ["discrete", "sampled"])
def test_taps_derivative(family: str, truncate: float | None) -> None:
    sigma, step = np.array([0.21, 0.5, 0.9, 2.2, 6.1]), 1e-5
    options = dict(gaussian=family, truncate=truncate)
    slope = oracle.taps(sigma + step, 9, **options) - oracle.taps(sigma - step, 9, **options)
    np.testing.assert_allclose(
        oracle.taps_derivative(sigma, 9, **options), slope / (2 * step), atol=1e-8
    )


@pytest.mark.parametrize("border", NUMPY_PAD)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_fold_is_numpy_pad(size: int, border: str) -> None:
    padded = np.pad(np.arange(size), 17, mode=NUMPY_PAD[border])
    assert [oracle.fold(i, size, border) for i in range(-17, size + 17)] == list(padded)
    assert oracle.fold(-1, size, "zeros") == oracle.fold(size, size, "zeros") == -1


def test_discrete_symmetric_is_diagonal_in_the_cosine_basis() -> None:
    z = rng().standard_normal((1, 1, 12, 17))
    for sigma in (0.3, 1.0, 2.5):
        k = oracle.taps(sigma, 40)[None]
        frequencies = [np.cos(np.pi * np.arange(n) / n) - 1 for n in z.shape[2:]]
        decay = np.exp(sigma**2 * (frequencies[0][:, None] + frequencies[1]))
        wanted = idctn(decay * dctn(z[0, 0], norm="ortho"), norm="ortho")
        np.testing.assert_allclose(oracle.blur(z, k, k, "symmetric")[0, 0], wanted, atol=1e-12)


def test_sampled_zeros_is_scipy_gaussian_filter() -> None:
    z = rng().standard_normal((1, 1, 12, 17))
    for sigma in (0.4, 1.0, 2.6):
        k = oracle.taps(sigma, 8, gaussian="sampled", truncate=3.0)[None]
        wanted = ndimage.gaussian_filter(z[0, 0], sigma, mode="constant", radius=int(3 * sigma))
        np.testing.assert_allclose(oracle.blur(z, k, k, "zeros")[0, 0], wanted, atol=1e-12)


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
        np.testing.assert_allclose(grad, numeric, atol=1e-10)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3)])
@pytest.mark.parametrize("family", ["discrete", "sampled"])
def test_modulate_backward(family: str, shape: tuple[int, ...]) -> None:
    g, z = rng(1).standard_normal((2, 2, 3, 4, 5))
    r, s = rng(2).uniform(0.4, 2, (2, *shape))
    options = dict(gaussian=family, border="reflect", truncate=None, max_radius=3)
    grads = oracle.modulate_backward(g, z, r, s, **options)
    for which, grad in enumerate(grads):
        direction = rng(3).standard_normal(grad.shape)
        ends = []
        for step in (1e-6, -1e-6):
            moved = [z, r, s]
            moved[which] = moved[which] + step * direction
            ends.append((g * oracle.modulate(*moved, **options)).sum())
        numeric = (ends[0] - ends[1]) / 2e-6
        assert (grad * direction).sum() == pytest.approx(numeric, abs=1e-7)


@pytest.mark.parametrize("size", [(9, 12), (1, 1), (3, 2)], ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("family", ["discrete", "sampled"])
def test_composition(
    family: str, border: str, shape: tuple[int, ...], size: tuple[int, int]
) -> None:
    z = rng(1).standard_normal((2, 3, *size))
    r, s = rng(2).standard_normal((2, *shape))
    options = dict(gaussian=family, border=border, truncate=None, max_radius=5)
    found = composition.modulate(*(torch.from_numpy(np.asarray(x)) for x in (z, r, s)), **options)
    np.testing.assert_allclose(found.numpy(), oracle.modulate(z, r, s, **options), atol=1e-12)
