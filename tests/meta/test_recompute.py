"""Inner steps computed again in the backward pass: the same gradients, less memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from akm_triton.meta import MAML
from tests.meta.tasks import (
    Observer,
    close,
    episodes,
    gradients,
    network,
)


class Tempered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, out: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.w * out, y)


def test_a_learned_loss_has_its_gradient_with_checkpoint_too() -> None:
    found = []
    for checkpoint in (False, True):
        loss = Tempered()
        MAML(network(), inner_steps=3, checkpoint=checkpoint)(episodes(), loss).loss.backward()
        found.append(loss.w.grad)
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=0)


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("order", [1, 2])
def test_checkpointing_changes_no_gradient(order: int, vectorize: bool) -> None:
    """Both passes use the same random numbers."""
    found = []
    for checkpoint in (False, True):
        maml = MAML(
            network(nn.Dropout(0.3)), inner_steps=3, order=order, learn_lr="element",
            checkpoint=checkpoint, vectorize=vectorize, step_weights=(0.2, 0.3, 0.5),
        )  # fmt: skip
        torch.manual_seed(3)
        loss = maml(episodes(), F.cross_entropy).loss
        torch.manual_seed(9)
        found.append(gradients(maml, loss))
    close(found[1], found[0], 1e-12)


def test_checkpointing_needs_the_memory_of_one_step() -> None:
    def alive(steps: int, checkpoint: bool) -> int:
        with Observer() as observer:
            maml = MAML(network(), inner_steps=steps, adapt="modulation", checkpoint=checkpoint)
            loss = maml(episodes(), F.cross_entropy).loss
            assert loss.requires_grad
            return observer.bytes_alive

    grows, stays = (alive(8, flag) / alive(1, flag) for flag in (False, True))
    assert grows > 4 and stays < 1.2


def test_autocast_is_the_same_in_both_passes() -> None:
    found = []
    for checkpoint in (False, True):
        maml = MAML(network().float(), inner_steps=2, adapt="modulation", checkpoint=checkpoint)
        (xs, ys), (xq, yq) = episodes()
        with torch.autocast("cpu", torch.bfloat16):
            loss = maml(((xs.float(), ys), (xq.float(), yq)), F.cross_entropy).loss
        found.append(gradients(maml, loss))
    close(found[1], found[0], 0)
