"""ResNet-18 and ResNet-50 with their 3×3 convolutions replaced by any other layer.

K. He et al., *Deep residual learning for image recognition*, CVPR 2016; the stride of a bottleneck
is in its 3×3 convolution, as in torchvision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import akm_triton as akm
from reference import composition

Conv = Callable[..., nn.Module]
"""As ``nn.Conv2d``."""


class ComposedConv2d(akm.AKMConv2d):
    """The layer composed of PyTorch's operators: pad, two depthwise convolutions, a sigmoid."""

    def modulate(self, z: Tensor) -> Tensor:
        options: dict[str, Any] = {
            "gaussian": self.gaussian, "border": self.border, "truncate": self.truncate,
            "max_radius": self.max_radius,
        }  # fmt: skip
        return composition.modulate(z, self.r, self.s, **options)


class Block(nn.Module):
    """Two 3×3 convolutions, or a bottleneck of 1×1, 3×3, 1×1, beside a shortcut."""

    def __init__(
        self, conv3x3: Conv, inputs: int, width: int, stride: int, bottleneck: bool
    ) -> None:
        super().__init__()
        self.outputs = width * (4 if bottleneck else 1)

        def three(channels: int, step: int) -> nn.Module:
            return conv3x3(channels, width, 3, stride=step, padding=1, bias=False)

        if bottleneck:
            self.body = nn.Sequential(
                nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                three(width, stride), nn.BatchNorm2d(width), nn.ReLU(),
                nn.Conv2d(width, self.outputs, 1, bias=False), nn.BatchNorm2d(self.outputs),
            )  # fmt: skip
        else:
            self.body = nn.Sequential(
                three(inputs, stride), nn.BatchNorm2d(width), nn.ReLU(),
                three(width, 1), nn.BatchNorm2d(width),
            )  # fmt: skip
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != self.outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, self.outputs, 1, stride, bias=False),
                nn.BatchNorm2d(self.outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


DEPTHS = {"ResNet-18": (2, 2, 2, 2), "ResNet-50": (3, 4, 6, 3)}


def resnet(name: str, conv3x3: Conv, classes: int = 1000, width: int = 64) -> nn.Module:
    """(N, 3, H, W) to (N, classes)."""
    bottleneck = name == "ResNet-50"
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]  # fmt: skip
    channels = width
    for stage, depth in enumerate(DEPTHS[name]):
        for number in range(depth):
            stride = 2 if stage and number == 0 else 1
            block = Block(conv3x3, channels, width << stage, stride, bottleneck)
            layers.append(block)
            channels = block.outputs
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    return nn.Sequential(*layers, head)
