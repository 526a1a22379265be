"""Norms in the inner loop: with all tasks at once, one by one, and refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from akm_triton.meta import MAML, norms
from tests.meta.tasks import (
    ADAPT,
    SIZE,
    close,
    episodes,
    gradients,
    network,
    unstacked,
)


def groups() -> nn.Module:
    return nn.Sequential(nn.GroupNorm(2, 4), nn.Tanh())


def batch() -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False), nn.Tanh())


def frozen() -> nn.Module:
    return nn.BatchNorm2d(4).eval()


def rms() -> nn.Module:
    return nn.Sequential(nn.RMSNorm([SIZE]), nn.Tanh())


def layers() -> nn.Module:
    return nn.Sequential(nn.LayerNorm([SIZE]), nn.Tanh())


NORMS = pytest.mark.parametrize("norm", [groups, rms, frozen, batch, layers])


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("adapt", ADAPT)
@NORMS
def test_tasks_at_once_are_tasks_one_by_one(
    norm: Callable[[], nn.Module], adapt: str, checkpoint: bool
) -> None:
    found = []
    for once in (True, False):
        maml = MAML(
            network(norm()), inner_steps=2, adapt=ADAPT[adapt], learn_lr="tensor",
            vectorize=None if once else False, checkpoint=checkpoint and once,
        )  # fmt: skip
        result = maml(episodes() if once else unstacked(episodes()), F.cross_entropy)
        found.append((result, gradients(maml, result.loss)))
    (one, ours), (other, wanted) = found
    for what in ("loss", "losses", "accuracy", "inner_losses"):
        torch.testing.assert_close(getattr(one, what), getattr(other, what))
    assert one.inner_losses.shape == (3, 2) and (one.inner_losses[:, 0] != one.losses).all()
    close(ours, wanted, 1e-9)


@NORMS
def test_what_vmap_gets_wrong_is_refused(
    norm: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else is refused. Once PyTorch is right, this test fails: remove the refusal then."""
    maml = MAML(network(norm()), inner_steps=1)
    wanted = gradients(maml, maml(episodes(), F.cross_entropy).loss)
    maml.vectorize = True
    refused = norm in (batch, layers)
    if refused:
        with pytest.raises(ValueError, match=r"adapts 1.0.weight: .* wrong under vmap"):
            maml(episodes(), F.cross_entropy)
        monkeypatch.setattr(norms, "INPUT_STATISTICS", {})
    found = gradients(maml, maml(episodes(), F.cross_entropy).loss)
    error = max(float((found[name] - want).abs().max()) for name, want in wanted.items())
    assert error > 1e-6 if refused else error < 1e-12


class Functional(nn.Module):
    """A norm that is called as a function, as in many MAML networks."""

    def __init__(self, norm: Callable[..., Tensor]) -> None:
        super().__init__()
        self.norm = norm
        self.w = nn.Parameter(torch.linspace(0.5, 1.5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x, self.w).tanh()


FUNCTIONAL = {
    "batch_norm": lambda x, w: F.batch_norm(x, None, None, w, training=True),
    "torch.batch_norm": lambda x, w: torch.batch_norm(
        x, 1 + w, None, None, None, True, 0.1, 1e-5, False
    ),
    "instance_norm": lambda x, w: F.instance_norm(x, weight=w),
    "layer_norm": lambda x, w: F.layer_norm(x.movedim(1, -1), (4,), w).movedim(-1, 1),
}


@pytest.mark.parametrize("name", FUNCTIONAL)
def test_a_norm_without_a_module_goes_one_by_one(name: str) -> None:
    maml = MAML(network(Functional(FUNCTIONAL[name])), inner_steps=2)
    found = gradients(maml, maml(episodes(), F.cross_entropy).loss)
    maml.vectorize = False
    close(found, gradients(maml, maml(episodes(), F.cross_entropy).loss), 1e-12)
    maml.vectorize = True
    with pytest.raises(ValueError, match="wrong under vmap"):
        maml(episodes(), F.cross_entropy)


def test_running_statistics_are_refused_in_training_mode() -> None:
    model = network(nn.BatchNorm2d(4))
    maml = MAML(model, inner_steps=1)
    for ask in (maml, lambda e, f: maml.adapt(unstacked(e)[0][0], f)):
        with pytest.raises(ValueError, match=r"1 \(BatchNorm2d\) .*replace_all_batch_norm"):
            ask(episodes(), F.cross_entropy)
    torch.func.replace_all_batch_norm_modules_(model)
    maml(episodes(), F.cross_entropy).loss.backward()
