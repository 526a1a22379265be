"""Reptile: its update is that of the published loop."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from akm_triton.meta import Reptile
from tests.meta.tasks import (
    RATE,
    episodes,
    network,
    unstacked,
)


def test_reptile_moves_a_scalar() -> None:
    class Scaled(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 1)
            self.scale = nn.Parameter(torch.tensor(1.5))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * super().forward(x)

    x, y = torch.randn(4, 5, 2), torch.randn(4, 5, 1)
    reptile = Reptile(Scaled(), inner_steps=2)
    reptile(((x, y), (x, y)), F.mse_loss).loss.backward()
    moved = [reptile.adapt((a, b), F.mse_loss).scale.detach() for a, b in zip(x, y, strict=True)]
    wanted = reptile.model.scale.detach() - torch.stack(moved).mean()
    torch.testing.assert_close(reptile.model.scale.grad, wanted)


def test_reptile_is_the_loop_by_hand() -> None:
    reptile = Reptile(network(), inner_lr=RATE, inner_steps=3)
    ends: list[list[Tensor]] = []
    for (xs, ys), _ in unstacked(episodes()):
        model = copy.deepcopy(reptile.model)
        inner = torch.optim.SGD(model.parameters(), lr=RATE)
        for _ in range(3):
            inner.zero_grad()
            F.cross_entropy(model(xs), ys).backward()
            inner.step()
        ends.append([p.detach() for p in model.parameters()])
    wanted = [
        p.detach() + 0.25 * (torch.stack(end).mean(0) - p.detach())
        for p, end in zip(reptile.model.parameters(), zip(*ends, strict=True), strict=True)
    ]
    outer = torch.optim.SGD(reptile.parameters(), lr=0.25)
    reptile(episodes(), F.cross_entropy).loss.backward()
    outer.step()
    for p, want in zip(reptile.model.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.detach(), want, rtol=1e-10, atol=1e-12)
