"""Signals, volumes and a σ for each axis: interpreted kernels, or what stands in for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import akm_triton as akm
from tests.common import random

CASES: list[Any] = [
    ((2, 3, 40), -1, 1), ((2, 3, 9, 12), None, 2), ((2, 3, 9, 12), -2, 1),
    ((2, 2, 4, 9, 8), None, 3),
]  # fmt: skip


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(("shape", "axes", "count"), CASES, ids=["1d", "2d", "columns", "3d"])
def test_as_pytorch(shape: tuple[int, ...], axes: Any, count: int, last: bool) -> None:
    """Values and gradients, and gradients of these."""
    z = random(*shape)
    z = z.movedim(1, -1).contiguous().movedim(-1, 1) if last else z
    r = [random(shape[1], seed=1 + i).abs() + 0.3 for i in range(count)]
    given = (z, random(shape[1], seed=9), *r)

    def derivatives(backend: str, *x: Tensor) -> list[Tensor]:
        x = tuple(y.detach().requires_grad_() for y in x)
        y = akm.modulate(
            x[0], x[2:], x[1], axes=axes, border="reflect", max_radius=4, backend=backend
        )
        grads = torch.autograd.grad(y.pow(3).mean(), x, create_graph=True)
        value = sum(g.square().sum() for g in grads)
        assert isinstance(value, Tensor)
        assert y.stride() == x[0].stride()
        return [y, *grads, *torch.autograd.grad(value, x)]

    found = derivatives("triton", *(x.float() for x in given))
    for x, want in zip(found, derivatives("torch", *given), strict=True):
        atol = 1e-4 * float(want.detach().abs().max())
        torch.testing.assert_close(x.double(), want, rtol=0, atol=atol)
