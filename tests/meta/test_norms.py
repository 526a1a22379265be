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


def last(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, w: norm(x.movedim(1, -1), w).movedim(-1, 1)


aten, zeros = torch.ops.aten, torch.zeros(4, dtype=torch.float64)
FUNCTIONAL: dict[str, Callable[..., Tensor]] = {
    "batch_norm": lambda x, w: F.batch_norm(x, None, None, w, training=True),
    "torch.batch_norm": lambda x, w: torch.batch_norm(
        x, 1 + w, None, None, None, True, 0.1, 1e-5, False
    ),
    "torch.native_batch_norm": lambda x, w: torch.native_batch_norm(
        x, w, None, None, None, True, 0.1, 1e-5
    )[0],
    "aten.batch_norm.default": lambda x, w: aten.batch_norm.default(
        x, w, None, None, None, training=True, momentum=0.1, eps=1e-5, cudnn_enabled=False
    ),
    "aten._native_batch_norm_legit": lambda x, w: aten._native_batch_norm_legit(
        x, w, None, True, 0.1, 1e-5
    )[0],
    "aten._native_batch_norm_legit.no_stats": lambda x, w: aten._native_batch_norm_legit.no_stats(
        x, w, None, True, 0.1, 1e-5
    )[0],
    "_native_batch_norm_legit_functional": lambda x, w: aten._native_batch_norm_legit_functional(
        x, w, None, zeros, zeros, True, 0.1, 1e-5
    )[0],
    "_batch_norm_impl_index": lambda x, w: torch._batch_norm_impl_index(
        x, w, None, None, None, True, 0.1, 1e-5, False
    )[0],
    "instance_norm": lambda x, w: F.instance_norm(x, weight=w),
    "aten.instance_norm.default": lambda x, w: aten.instance_norm.default(
        x, w, None, None, None, True, 0.1, 1e-5, False
    ),
    "layer_norm": last(lambda x, w: F.layer_norm(x, (4,), w)),
    "torch.layer_norm": last(lambda x, w: torch.layer_norm(x, (4,), w, None, 1e-5, False)),
    "aten.layer_norm.default": last(lambda x, w: aten.layer_norm.default(x, [4], w)),
    "aten.layer_norm": last(lambda x, w: aten.layer_norm(x, [4], w)),
    "torch.native_layer_norm": last(
        lambda x, w: torch.native_layer_norm(x, (4,), w, None, 1e-5)[0]
    ),
    "aten.native_layer_norm.default": last(
        lambda x, w: aten.native_layer_norm.default(x, [4], w, None, 1e-5)[0]
    ),
}


@pytest.mark.parametrize("name", FUNCTIONAL)
def test_a_norm_without_a_module_goes_one_by_one(name: str) -> None:
    assert_goes_one_by_one(MAML(network(Functional(FUNCTIONAL[name])), inner_steps=2))


def assert_goes_one_by_one(maml: MAML) -> None:
    found = gradients(maml, maml(episodes(), F.cross_entropy).loss)
    maml.vectorize = False
    close(found, gradients(maml, maml(episodes(), F.cross_entropy).loss), 1e-12)
    maml.vectorize = True
    with pytest.raises(ValueError, match="wrong under vmap"):
        maml(episodes(), F.cross_entropy)


AS_IT_IS: dict[str, Callable[..., Tensor]] = {
    "batch_norm": lambda x, w: F.batch_norm(x, zeros, 1 + zeros, w),
    "batch_norm.default": lambda x, w: aten.batch_norm.default(
        x, w, None, zeros, 1 + zeros, False, 0.1, 1e-5, False
    ),
    "no_training": lambda x, w: aten._native_batch_norm_legit_no_training(
        x, w, None, zeros, 1 + zeros, 0.1, 1e-5
    )[0],
    "native_group_norm": lambda x, w: torch.native_group_norm(
        x, w, None, len(x), 4, SIZE * SIZE, 2, 1e-5
    )[0],
    "_fused_rms_norm": last(lambda x, w: aten._fused_rms_norm(x, [4], w, 1e-5)[0]),
}


@pytest.mark.parametrize("name", AS_IT_IS)
def test_a_norm_that_vmap_gets_right_goes_at_once(name: str) -> None:
    maml = MAML(network(Functional(AS_IT_IS[name])), inner_steps=2, vectorize=True)
    found = gradients(maml, maml(episodes(), F.cross_entropy).loss)
    maml.vectorize = False
    close(found, gradients(maml, maml(episodes(), F.cross_entropy).loss), 1e-12)


def test_an_exported_model_goes_one_by_one() -> None:
    model = nn.Sequential(network(layers()), nn.Identity())
    batch = torch.export.Dim("batch", min=2)
    x = torch.zeros(5, 1, SIZE, SIZE, dtype=torch.float64)
    program = torch.export.export(model, (x,), dynamic_shapes=(({0: batch}),), strict=False)
    assert_goes_one_by_one(MAML(program.module(), inner_steps=2))


class SometimesNorm(nn.Module):
    """A norm that only every other call uses, as with stochastic depth."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.uses = nn.LayerNorm([SIZE]), [False, True]

    def forward(self, x: Tensor) -> Tensor:
        self.uses.append(self.uses.pop(0))
        return (self.norm(x) if self.uses[0] else x).tanh()


def test_a_norm_that_the_first_call_leaves_out_is_found() -> None:
    maml = MAML(network(SometimesNorm()), inner_steps=3, vectorize=True)
    with pytest.raises(ValueError, match=r"adapts 1\.norm\.weight: .* wrong under vmap"):
        maml(episodes(), F.cross_entropy)


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_weight_norms_have_their_second_derivative(dim: int) -> None:
    """PyTorch's own is wrong. Once it is right, this test fails: remove WEIGHT_NORMS then."""
    v = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    shape = [n if i == dim else 1 for i, n in enumerate(v.shape)] if dim >= 0 else []
    g = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    ours = norms.WEIGHT_NORMS["_weight_norm"]
    torch.testing.assert_close(ours(v, g, dim), torch._weight_norm(v, g, dim))
    assert torch.autograd.gradgradcheck(lambda v, g: ours(v, g, dim), (v, g))
    if dim in (0, 2):  # which are computed in one kernel
        with pytest.raises(RuntimeError, match="Jacobian mismatch"):
            torch.autograd.gradgradcheck(lambda v, g: torch._weight_norm(v, g, dim), (v, g))


def test_running_statistics_are_refused_in_training_mode() -> None:
    model = network(nn.BatchNorm2d(4))
    maml = MAML(model, inner_steps=1)
    for ask in (maml, lambda e, f: maml.adapt(unstacked(e)[0][0], f)):
        with pytest.raises(ValueError, match=r"1 \(BatchNorm2d\) .*replace_all_batch_norm"):
            ask(episodes(), F.cross_entropy)
    torch.func.replace_all_batch_norm_modules_(model)
    maml(episodes(), F.cross_entropy).loss.backward()
