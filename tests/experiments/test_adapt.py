"""What adapting to a domain moves, and what it leaves."""

from pathlib import Path

import pytest
import torch
from torch import nn

from bench.experiments import adapt, data
from bench.experiments.networks import classifier
from bench.experiments.protocol import Place
from tests.experiments.fashion import write_fashion


def network(modulation: str = "learned") -> nn.Module:
    torch.manual_seed(0)
    return classifier(1, 10, modulation=modulation).eval()


# 8, 16 and 32 channels
COUNTS = {"nothing": 0, "r": 56, "r and s": 112, "affine": 112, "head": 330, "all": 6386}


@pytest.mark.parametrize("what", adapt.WHAT)
def test_what_is_chosen_moves_and_nothing_else(what: str) -> None:
    net = network()
    before = {name: p.clone() for name, p in net.named_parameters()}
    assert sum(p.numel() for p in adapt.chosen(net, what)) == COUNTS[what]
    x, y = torch.rand(20, 1, 28, 28), torch.arange(20) % 10
    moved = adapt.adapted(net, what, x, y, 0.1, 2)
    names = {name for name, p in moved.named_parameters() if not torch.equal(p, before[name])}
    changed = sum(before[name].numel() for name in names)
    assert changed == COUNTS[what]
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())


def test_norms_use_the_batch() -> None:
    net = network()
    x = 3 * torch.rand(20, 1, 28, 28) - 1
    by_batch = adapt.by_batch(net)
    assert torch.allclose(by_batch.eval()(x), network().train()(x), atol=1e-5)
    assert not torch.allclose(by_batch(x), net(x), atol=1e-2)


@pytest.mark.parametrize("labels", [False, True], ids=["entropy", "labels"])
def test_the_loss_falls(labels: bool) -> None:
    net = adapt.by_batch(network())
    x, y = torch.rand(20, 1, 28, 28), torch.arange(20) % 10

    def loss(model: nn.Module) -> float:
        if labels:
            return nn.functional.cross_entropy(model(x), y).item()
        return torch.distributions.Categorical(logits=model(x)).entropy().mean().item()

    after = adapt.adapted(net, "affine", x, y if labels else None, 0.01, 10)
    assert loss(after) < loss(net)


def test_kinds_and_images_of_selection_and_test_are_disjoint(tmp_path: Path) -> None:
    assert not set(adapt.SELECTION) & set(adapt.TEST) and len(adapt.TEST) == 9
    write_fashion(tmp_path, train=100)
    place = Place(torch.device("cpu"), {}, "fashion", tmp_path)
    x, y = data.training(place, 100, 3)
    assert torch.equal(x[:40], data.training(place, 40, 3)[0])  # what the network was trained on
    assert len({image.numpy().tobytes() for image in x}) == 100
    assert y[40:90].bincount().tolist() == [5] * 10
