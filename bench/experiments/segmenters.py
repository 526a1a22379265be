"""Small networks that name the texture of each pixel; they differ in how far they look."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import akm_triton as akm
from bench.experiments.networks import fixed_sigma

WIDTH = 12
MAX_RADIUS = 15


def segmenter(
    classes: int, middle: Callable[[int], nn.Module], after_first: bool = False
) -> nn.Sequential:
    """Two 3×3 convolutions, each with norm and ReLU, then a 1×1 convolution.

    Args:
        middle: what comes before the second ReLU; given the number of channels.
        after_first: before the first ReLU too.
    """

    def block(inputs: int, *more: nn.Module) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, WIDTH, 3, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(WIDTH), *more, nn.ReLU()]

    first = [middle(WIDTH)] if after_first else []
    head = nn.Conv2d(WIDTH, classes, 1)
    return nn.Sequential(*block(1, *first), *block(WIDTH, middle(WIDTH)), head)


def akm_layer(channels: int) -> akm.Modulation2d:
    return akm.Modulation2d(channels, max_radius=MAX_RADIUS)


def by_hand(sigma: float) -> Callable[[int], nn.Module]:
    """σ set, in pixels; the gate is learned as AKM's is."""
    return lambda channels: fixed_sigma(akm_layer(channels), sigma)


def octaves(channels: int) -> nn.Module:
    """σ from ¼ to 8 px over the channels at the start, a factor between one and the next."""
    layer = akm_layer(channels)
    with torch.no_grad():
        layer.r.copy_(2 ** torch.linspace(-2, 3, channels))
    return layer


def twice(channels: int) -> nn.Module:
    """Two AKM layers, with a 1×1 convolution, norm and ReLU between."""
    mix = nn.Conv2d(channels, channels, 1, bias=False)
    norm = nn.BatchNorm2d(channels)
    return nn.Sequential(akm_layer(channels), nn.ReLU(), mix, norm, akm_layer(channels))


def differences(channels: int) -> nn.Module:
    """A depthwise 3×3 convolution of what is blurred: together they can be any derivative of a
    Gaussian up to the second."""
    conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    return nn.Sequential(akm_layer(channels), conv)


def conditioned(channels: int) -> nn.Module:
    return akm.ConditionedModulation2d(channels, max_radius=MAX_RADIUS)


def depthwise(channels: int) -> nn.Module:
    return nn.Conv2d(channels, channels, 9, padding=4, groups=channels)


def dilated(channels: int) -> nn.Module:
    """One more convolution, 3×3 with holes of four pixels."""
    conv = nn.Conv2d(channels, channels, 3, padding=4, dilation=4)
    return nn.Sequential(nn.ReLU(), conv)


class UNet(nn.Module):
    """Three scales, with skips: O. Ronneberger et al., *U-Net*, MICCAI 2015, as small as the
    others."""

    def __init__(self, classes: int, width: int = 7) -> None:
        super().__init__()

        def block(inputs: int) -> nn.Sequential:
            conv = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())

        self.down = nn.ModuleList([block(1), block(width), block(width)])
        self.up = nn.ModuleList([block(2 * width), block(2 * width)])
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for number, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if number else x)
            skips.append(x)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0), skip], 1))
        y: Tensor = self.head(x)
        return y
