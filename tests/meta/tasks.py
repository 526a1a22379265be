"""Small tasks, networks and helpers that the tests of meta-learning share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

import akm_triton as akm

SIZE, CLASSES, RATE = 6, 3, 0.3
OPTIONS: dict[str, Any] = dict(gaussian="discrete", border="reflect", max_radius=3)
ADAPT = {"all": "all", "modulation": "modulation", "predicate": lambda name: name != "3.weight"}


def network(norm: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    conv = akm.AKMConv2d(1, 4, 3, padding=1, **OPTIONS)
    nn.init.uniform_(conv.r, 0.4, 1.5)
    nn.init.normal_(conv.s)
    last = nn.Linear(4 * SIZE * SIZE, CLASSES)
    return nn.Sequential(conv, norm or nn.Tanh(), nn.Flatten(), last).double()


def episodes(tasks: int = 3, support: int = 3, query: int = 6) -> Any:
    generator = torch.Generator().manual_seed(1)

    def examples(count: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(tasks, count, 1, SIZE, SIZE, generator=generator, dtype=torch.float64)
        return x, torch.randint(CLASSES, (tasks, count), generator=generator)

    return examples(support), examples(query)


def unstacked(stacked: Any) -> list[Any]:
    (xs, ys), (xq, yq) = stacked
    return [((a, b), (c, d)) for a, b, c, d in zip(xs, ys, xq, yq, strict=True)]


def gradients(maml: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    named = {name: p for name, p in maml.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {k: g for k, g in zip(named, grads, strict=True) if g is not None}


def gradients_of(named: dict[str, Tensor], loss: Tensor) -> dict[str, Tensor]:
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def close(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    assert set(found) == set(wanted)
    for name, want in wanted.items():
        assert want.abs().max() > 0, name
        torch.testing.assert_close(found[name], want, rtol=tolerance, atol=tolerance, msg=name)


class Point(nn.Module):
    """x·w: with targets x·c, half the squared error is ½ x²(w − c)², a quadratic bowl at c."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.w


def half_square(out: Tensor, y: Tensor) -> Tensor:
    return (out - y).square().sum() / 2


class Observer(TorchDispatchMode):
    """Records the convolutions that are called, and the memory of tensors that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions: list[tuple[int, int]] = []  # samples, groups
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op is torch.ops.aten.convolution.default:
            self.convolutions.append((len(args[0]), args[8]))
        out = op(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor):
                storage = x.untyped_storage()
                self.storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return out

    @property
    def bytes_alive(self) -> int:
        return sum(size for ref, size in self.storages.values() if not ref.expired())
