"""The ops in the basis of cosines, against products with the matrices of the taps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import akm_triton as akm
from akm_triton.backend import spectral
from akm_triton.backend import torch as torch_backend
from reference import oracle
from tests.common import random


def sums(x: np.ndarray, taps: Tensor) -> Tensor:
    return torch.from_numpy(x).sum_to_size(taps.shape)


@pytest.mark.parametrize("shapes", [((2, 3), (2, 3)), ((2, 3), (3,)), ((1,), (2, 3))], ids=str)
@pytest.mark.parametrize(("size", "radius"), [((7, 5), 3), ((1, 4), 15), ((16, 9), 31)], ids=str)
def test_ops(
    size: tuple[int, int], radius: int, shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    """With any symmetric taps, Gaussian or not."""
    z, g = random(2, 3, *size), random(2, 3, *size, seed=1)
    a, b = (random(*shape, radius + 1, seed=i) for i, shape in enumerate(shapes, 2))
    whole = [x.expand(2, 3, radius + 1).numpy() for x in (a, b)]
    wanted = torch.from_numpy(oracle.blur(z.numpy(), *whole, "symmetric"))
    torch.testing.assert_close(spectral.blur(z, a, b), wanted)
    da, db = oracle.tap_grads(g.numpy(), z.numpy(), *whole, "symmetric")
    wanted_dz = torch.from_numpy(oracle.blur(g.numpy(), *whole, "symmetric", adjoint=True))
    dz, *grads = spectral.blur_backward(g, z, a, b)
    torch.testing.assert_close(dz, wanted_dz)
    for found in (grads, spectral.tap_grads(g, z, a, b)):
        torch.testing.assert_close(found[0], sums(da, a))
        torch.testing.assert_close(found[1], sums(db, b))


@pytest.mark.parametrize(
    ("shape", "border", "size", "wanted"),
    [
        ((2, 3), "symmetric", 8, ["blur", "blur_backward"]),
        ((2, 3), "symmetric", 24, []),
        ((2, 3), "circular", 8, []),
        ((3,), "symmetric", 8, []),
    ],
)
def test_when_they_are_used(
    shape: tuple[int, ...],
    border: str,
    size: int,
    wanted: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[str] = []

    def watched(name: str) -> None:
        op = getattr(spectral, name)
        monkeypatch.setattr(
            torch_backend.spectral, name, lambda *args: called.append(name) or op(*args)
        )

    for name in ("blur", "tap_grads", "blur_backward"):
        watched(name)
    z, r = torch.randn(2, 3, size, size, requires_grad=True), torch.rand(shape, requires_grad=True)
    akm.gaussian_blur(z, r, border=border, backend="torch").sum().backward()
    assert called == wanted


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_constant_stays(dtype: torch.dtype) -> None:
    z = torch.full((2, 3, 9, 12), 100.0, dtype=dtype)
    y = akm.gaussian_blur(z, torch.tensor([[0.0, 0.5, 1.0], [2.0, 5.0, 40.0]]), backend="torch")
    torch.testing.assert_close(y, z, rtol=1e-6 if dtype == torch.float32 else 0, atol=0)
