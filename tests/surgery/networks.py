"""Small networks of the kinds that people convert, and how far two outputs are apart."""

from __future__ import annotations

import copy
import functools
import sys
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """The basic block of a ResNet, its layers named as there."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c)
        self.downsample = nn.Sequential(nn.Conv2d(c, c, 1, bias=False), nn.BatchNorm2d(c))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        self.layer1 = Residual(16)
        self.layer2 = nn.Sequential(nn.MaxPool2d(2), Residual(16))
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(self.stem(x).relu())).mean((2, 3)))


class UNet(nn.Module):
    """GroupNorm, a skip connection, a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU())
        self.middle = nn.Sequential(
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.GroupNorm(4, 32), nn.SiLU()
        )
        self.up = nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.out = nn.Sequential(
            nn.Conv2d(32, 16, 3, padding=1, padding_mode="reflect"), nn.GroupNorm(16, 16),
            nn.SiLU(), nn.Conv2d(16, 4, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        return self.out(torch.cat([skip, self.up(self.middle(skip))], 1)).square().mean((2, 3))


class NormAct(nn.BatchNorm2d):
    """A norm with its activation inside, as timm has it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop = nn.Identity()
        self.act = nn.SiLU()

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))


class Squeeze(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(c, 16, 1)
        self.expand = nn.Conv2d(16, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(self.reduce(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return x * gate


class MobileNet(nn.Module):
    """Depthwise, norms with activations, squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 16, 3, padding=1, bias=False), NormAct(16)
        self.expand, self.bn1 = nn.Conv2d(16, 32, 1, bias=False), NormAct(32)
        self.depthwise = nn.Conv2d(32, 32, 5, stride=2, padding=2, groups=32, bias=False)
        self.bn2 = NormAct(32)
        self.se = Squeeze(32)
        self.project, self.bn3 = nn.Conv2d(32, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.expand(self.bn0(self.stem(x))))
        x = self.bn3(self.project(self.se(self.bn2(self.depthwise(x))))).relu()
        return self.fc(x.mean((2, 3)))


class ConvNeXt(nn.Module):
    """A depthwise convolution before a LayerNorm over the last axis."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 2, stride=2)
        self.depthwise = nn.Conv2d(16, 16, 7, padding=3, groups=16)
        self.norm = nn.LayerNorm(16)
        self.mlp = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return self.fc((x + y).mean((2, 3)))


NETWORKS = {"resnet": ResNet, "unet": UNet, "mobilenet": MobileNet, "convnext": ConvNeXt}


def network(name: str) -> nn.Module:
    """Of this name, in eval mode, with norms as if it had been trained."""
    return copy.deepcopy(_network(name))


@functools.cache
def _network(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = NETWORKS[name]()
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
        with torch.no_grad():
            for _ in range(20):
                model.train()(images())
    return model.eval()


def images(count: int = 4) -> Tensor:
    """Noise with the neighbours of a pixel much alike, as in photographs."""
    return F.interpolate(torch.randn(count, 3, 8, 8), scale_factor=4, mode="bilinear")


def apart(a: Tensor, b: Tensor) -> float:
    """Relative distance in the Euclidean norm."""
    return ((a - b).norm() / b.norm()).item()


def import_timm() -> Any:
    """timm, or the test is skipped. timm needs torchvision for image files alone; where that is not
    installed, something stands in for it, and is gone when timm is there."""
    parts = ("", ".datasets", ".ops", ".ops.misc", ".transforms", ".transforms.functional")
    stand_ins = {f"torchvision{part}": MagicMock() for part in parts}
    stand_ins["torchvision.ops.misc"].FrozenBatchNorm2d = type("FrozenBatchNorm2d", (), {})
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:
        sys.modules.update(stand_ins)
    try:
        return pytest.importorskip("timm")
    finally:
        for name, stand_in in stand_ins.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]
