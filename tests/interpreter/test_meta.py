"""Meta-gradients through the Triton kernels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import akm_triton as akm
from akm_triton.meta import MAML


def meta_gradient(
    monkeypatch: pytest.MonkeyPatch, backend: str, dtype: torch.dtype, adapt: str, vectorize: bool
) -> list[Tensor]:
    monkeypatch.setenv("AKM_BACKEND", backend)
    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(dtype)

    conv = akm.AKMConv2d(1, 2, 3, padding=1, max_radius=2, border="reflect")
    model = nn.Sequential(conv, nn.Tanh(), nn.Flatten(), nn.Linear(2 * 5 * 4, 2)).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(rand(*p.shape) + 0.2)
    maml = MAML(model, inner_lr=0.2, inner_steps=2, adapt=adapt, vectorize=vectorize)
    labels = torch.tensor([[0, 1], [1, 0]])
    tasks = ((rand(2, 2, 1, 5, 4), labels), (rand(2, 2, 1, 5, 4), labels))
    result = maml(tasks, F.cross_entropy)
    return [result.losses, *torch.autograd.grad(result.loss, list(model.parameters()))]


@pytest.mark.sampled
@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("adapt", ["all", "modulation"])
def test_the_kernels_give_the_meta_gradient_of_plain_pytorch(
    adapt: str, vectorize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = meta_gradient(monkeypatch, "triton", torch.float32, adapt, vectorize)
    wanted = meta_gradient(monkeypatch, "torch", torch.float64, adapt, vectorize)
    for x, want in zip(found, wanted, strict=True):
        atol = 1e-4 * float(want.abs().max())
        assert atol > 0
        torch.testing.assert_close(x.double(), want, rtol=0, atol=atol)
