"""An added variance that is annealed, and the penalty on σ."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import akm_triton as akm
from akm_triton.meta import MAML
from reference import oracle
from tests.common import random
from tests.processes import in_two_processes


def network(**options: Any) -> nn.Sequential:
    model = nn.Sequential(
        akm.AKMConv2d(1, 3, 3, padding=1, **options), nn.ReLU(), akm.Modulation2d(3, **options)
    )
    for layer in (model[0], model[2]):
        nn.init.uniform_(layer.r, -1, 1)
    return model


def blurred(z: Tensor, sigma: list[float], radius: int) -> Tensor:
    taps = oracle.taps(np.array(sigma), radius, gaussian="discrete", truncate=None)
    return torch.from_numpy(oracle.blur(z.numpy(), taps, taps, "symmetric"))


@pytest.mark.parametrize("tau", [0.0, 0.7, 2.0])
def test_an_added_variance_is_another_blur(tau: float) -> None:
    layer = akm.Modulation2d(2, max_radius=20, dtype=torch.float64)
    with torch.no_grad():
        layer.r.copy_(torch.tensor([0.5, -1.2]))
        layer.s.fill_(40.0)
    akm.SigmaSchedule(layer, tau, 0.0, 10)
    z = random(1, 2, 12, 9)
    twice = blurred(blurred(z, [0.5, 1.2], 20), [tau, tau], 20)
    torch.testing.assert_close(layer(z), twice, rtol=0, atol=1e-7)


def test_it_goes_from_start_to_end_and_stays() -> None:
    model = nn.Sequential(akm.Modulation2d(1))
    schedule = akm.SigmaSchedule(model, start=2.0, end=1.0, steps=4)
    seen, buffer = [], model[0].added_variance
    for _ in range(6):
        seen.append((schedule.tau, float(model[0].added_variance)))
        schedule.step()
    taus = (2.0, 1.75, 1.5, 1.25, 1.0, 1.0)
    assert seen == [(tau, tau**2) for tau in taus]
    assert model[0].added_variance is buffer  # where a CUDA graph that was captured reads it


def test_at_zero_it_is_the_layer_with_all_its_derivatives() -> None:
    """At r = 0 too, where the root of r² has no derivative."""
    x = random(1, 2, 6, 6)
    layer = akm.Modulation2d(2, dtype=torch.float64)
    with torch.no_grad():
        layer.r.copy_(torch.tensor([0.0, -0.8]))
    results = []
    for scheduled in (False, True):
        if scheduled:
            akm.SigmaSchedule(layer, 1.0, 0.0, 1).step()
        y = layer(x)
        (first,) = torch.autograd.grad(y.square().sum(), layer.r, create_graph=True)
        (second,) = torch.autograd.grad(first[1], layer.r)
        results.append((y, first, second))
    for plain, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_has_a_gradient(dtype: torch.dtype) -> None:
    model = network()
    schedule = akm.SigmaSchedule(model, 1.0, 0.0, 1)
    nn.init.zeros_(model[0].r)
    model.to(dtype)
    for _ in range(2):
        model.zero_grad()
        model(torch.randn(1, 1, 6, 6, dtype=dtype)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        schedule.step()


def test_state_dicts_know_nothing_of_it() -> None:
    model = network()
    plain, x = copy.deepcopy(model), torch.randn(2, 1, 6, 6)
    schedule = akm.SigmaSchedule(model, 1.5, 0.0, 10)
    assert model.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(model.state_dict())
    assert not torch.allclose(model(x), plain(x))
    schedule.remove()
    assert torch.equal(model(x), plain(x))
    assert [*dict(model.named_buffers())] == []
    schedule.step()  # changes nothing any more
    akm.SigmaSchedule(model, 1.0, 0.0, 5)  # and another may come


def test_a_killed_run_continues() -> None:
    model, x = network(), torch.randn(2, 1, 6, 6)
    other = copy.deepcopy(model)
    schedule = akm.SigmaSchedule(model, 2.0, 0.5, 7)
    for _ in range(3):
        schedule.step()
    again = akm.SigmaSchedule(other, 1.0, 0.0, 1)
    again.load_state_dict(schedule.state_dict())
    for _ in range(2):
        assert torch.equal(other(x), model(x))
        schedule.step()
        again.step()
    assert again.state_dict() == {"start": 2.0, "end": 0.5, "steps": 7, "taken": 5}


def test_the_host_reads_nothing() -> None:
    """Tensors without data cannot be read."""
    model = network().to("meta")
    schedule = akm.SigmaSchedule(model, 1.0, 0.0, 3)
    schedule.step()
    assert model(torch.empty(1, 1, 6, 6, device="meta")).shape == (1, 3, 6, 6)


def test_a_compiled_model_is_compiled_once() -> None:
    graphs = 0

    def backend(graph: Any, inputs: Any) -> Any:
        nonlocal graphs
        graphs += 1
        return graph.forward

    model, x = network(), torch.randn(2, 1, 6, 6)
    schedule = akm.SigmaSchedule(model, 2.0, 0.0, 4)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    for _ in range(5):
        torch.testing.assert_close(compiled(x), model(x))
        schedule.step()
    assert graphs == 1


def test_meta_learning_goes_through_it() -> None:
    """Reference: a model whose r is that σ from the start, and does not adapt."""
    torch.manual_seed(1)
    model = nn.Sequential(network(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 2))
    wide = copy.deepcopy(model)
    with torch.no_grad():
        for layer in (wide[0][0], wide[0][2]):
            layer.r.copy_((layer.r**2 + 1.5**2).sqrt())
    akm.SigmaSchedule(model, 1.5, 0.0, 10)
    task = (torch.randn(4, 1, 6, 6), torch.tensor([0, 1, 0, 1]))
    results = []
    for one in (model, wide):
        maml = MAML(one, inner_lr=0.1, inner_steps=2, adapt=lambda name: not name.endswith(".r"))
        result = maml([(task, task)], F.cross_entropy)
        result.loss.backward()
        results.append((result.loss, one[0][0].weight.grad))
        assert one[0][0].r.grad.abs().max() > 0
    for ours, wanted in zip(*results, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(model=nn.ReLU()), ValueError, "model has no AKM layer"),
        (dict(model={}), TypeError, "model must be a Module, got dict"),
        (dict(start="1"), TypeError, "start must be a number, got '1'"),
        (dict(end=-1.0), ValueError, "end must be a number of pixels, 0 or more, got -1.0"),
        (dict(start=float("nan")), ValueError, "start must be a number of pixels.*got nan"),
        (dict(steps=0), ValueError, "steps must be at least 1, got 0"),
        (dict(steps=1.5), TypeError, "steps must be an int, got 1.5"),
    ],
    ids=str,
)
def test_refusals(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = dict(model=network(), start=1.0, end=0.0, steps=3) | change
    with pytest.raises(error, match=message):
        akm.SigmaSchedule(**arguments)


def test_two_schedules_are_refused_and_the_first_goes_on() -> None:
    model = network()
    akm.SigmaSchedule(model[2], 1.0, 0.0, 2)
    with pytest.raises(ValueError, match="layer '2' has a schedule already; remove it first"):
        akm.SigmaSchedule(model, 1.0, 0.0, 2)
    assert [*dict(model.named_buffers())] == ["2.added_variance"]


def trained(model: Any, images: Any) -> list[Tensor]:
    """With a schedule and a penalty: the loss, and the gradients by r and s."""
    schedule = akm.SigmaSchedule(model, 1.5, 0.0, 2)
    schedule.step()
    loss = model(images).square().mean() + 0.1 * akm.sigma_penalty(model)
    loss.backward()
    schedule.remove()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.dim() == 1)]


def twins() -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(2)
    return nn.Sequential(network(), akm.Modulation2d(3)), torch.randn(4, 1, 6, 6)


def _trained(rank: int, results: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard, distribute_module, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    model, images = twins()
    found = trained(distribute_module(model, mesh), distribute_tensor(images, mesh, [Shard(0)]))
    shards, images = twins()
    fully_shard(shards[0], mesh=mesh)  # the root keeps its parameters after a call, this does not
    loss, *grads = trained(fully_shard(shards, mesh=mesh), images[2 * rank : 2 * rank + 2])
    torch.distributed.all_reduce(loss)
    whole = [x.full_tensor() for x in (*found, *grads)]
    torch.save([*whole[: len(found)], loss / 2, *whole[len(found) :]], f"{results}{rank}")


def test_schedule_and_penalty_of_a_sharded_model(tmp_path: Path) -> None:
    """DTensors and FSDP2 in two processes against one process."""
    in_two_processes(_trained, str(tmp_path / "found"))
    wanted = trained(*twins())
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"found{rank}"), wanted * 2)


def test_the_penalty_is_the_mean_sigma() -> None:
    model = nn.Sequential(akm.Modulation2d(3), nn.ReLU(), akm.AKMConv2d(1, 5, 1, per="layer"))
    with torch.no_grad():
        model[0].r.copy_(torch.tensor([-1.0, 0.0, 3.0]))
        model[2].r.fill_(-2.0)
    penalty = akm.sigma_penalty(model)
    assert penalty.item() == 1.5
    penalty.backward()
    assert model[0].r.grad.tolist() == [-0.25, 0.0, 0.25] and model[2].r.grad.tolist() == [-0.25]
    with pytest.raises(ValueError, match="model has no AKM layer"):
        akm.sigma_penalty(nn.ReLU())
