"""The small networks of the experiments: classifiers, and segmenters of textures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import akm_triton as akm

DOWN = ("max", "max blur", "stride", "blur", "learned blur", "akm before", "akm after")


class FixedBlur(nn.Module):
    """The taps ¼ ½ ¼ along both axes, then every stride-th row and column: R. Zhang, *Making
    convolutional networks shift-invariant again*, ICML 2019."""

    taps: Tensor

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        row = torch.tensor([0.25, 0.5, 0.25])
        self.stride = stride
        self.register_buffer("taps", torch.outer(row, row).expand(channels, 1, 3, 3).clone())

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(x, self.taps, stride=self.stride, groups=len(self.taps))


class InputBlur(nn.Module):
    """A Gaussian of one σ, in pixels, that is not learned."""

    sigma: Tensor

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.register_buffer("sigma", torch.tensor(sigma))

    def forward(self, x: Tensor) -> Tensor:
        return akm.gaussian_blur(x, self.sigma, max_radius=5)


def fixed_sigma(layer: akm.Modulation2d, sigma: float | Sequence[float]) -> akm.Modulation2d:
    """The layer with σ set, in pixels, for good; the gate goes on learning."""
    with torch.no_grad():
        layer.r.copy_(torch.as_tensor(sigma))
    layer.r.requires_grad_(False)
    return layer


def blur_alone(layer: akm.Modulation2d) -> akm.Modulation2d:
    """The layer without gate and without a σ of its own: what a ``SigmaSchedule`` adds is all."""
    with torch.no_grad():
        layer.s.fill_(torch.inf)
    layer.s.requires_grad_(False)
    return fixed_sigma(layer, 0.0)


def classifier(
    channels: int,
    classes: int,
    *,
    convs: int = 1,
    widths: tuple[int, ...] = (8, 16, 32),
    kernel: int = 3,
    modulation: str = "none",
    sigma: Sequence[Sequence[float]] = (),
    down: str = "max",
    input_sigma: float = 0.0,
    dropout: float = 0.0,
    max_radius: int = 5,
) -> nn.Sequential:
    """Stages of convolution, norm, blur and gate, ReLU, each half as large as the one before; then
    the mean of each channel, and a linear layer.

    Args:
        convs: convolutions of a stage.
        kernel: width of the convolutions in all stages but the last, where it is 3.
        modulation: ``"none"``; ``"learned"``; ``"fixed"``, at ``sigma`` of each layer and channel;
            ``"scheduled"``, for a ``SigmaSchedule``.
        down: how maps are halved; one of ``DOWN``. ``"stride"`` and AKM ``"before"`` or ``"after"``
            it are in a stage's last convolution, the others after its ReLU.
        input_sigma: of a blur of the images, in pixels.
        dropout: the part of the channels that is left out after a stage.
    """
    layers: list[nn.Module] = [InputBlur(input_sigma)] if input_sigma else []
    found = iter(sigma)

    def modulate(width: int) -> list[nn.Module]:
        if modulation == "none":
            return []
        layer = akm.Modulation2d(width, max_radius=max_radius)
        if modulation == "fixed":
            return [fixed_sigma(layer, next(found))]
        return [blur_alone(layer) if modulation == "scheduled" else layer]

    inputs = channels
    for stage, width in enumerate(widths):
        size = kernel if stage < len(widths) - 1 else 3
        for number in range(convs):
            last = number == convs - 1
            conv = _conv(inputs, width, size, down if last else "max", max_radius)
            layers += [conv, nn.BatchNorm2d(width), *modulate(width), nn.ReLU()]
            inputs = width
        if down == "max":
            layers.append(nn.MaxPool2d(2))
        elif down == "max blur":
            layers += [nn.MaxPool2d(2, stride=1), FixedBlur(width, 2)]
        elif down == "blur":
            layers.append(FixedBlur(width, 2))
        elif down == "learned blur":
            layers.append(akm.BlurPool2d(width, 2, max_radius=max_radius))
        if dropout:
            layers.append(nn.Dropout2d(dropout))
    head = nn.Linear(widths[-1], classes)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def _conv(inputs: int, width: int, size: int, down: str, max_radius: int) -> nn.Module:
    options: dict[str, Any] = {"padding": size // 2, "bias": False}
    if down.startswith("akm"):
        return akm.AKMConv2d(
            inputs, width, size, stride=2, max_radius=max_radius,
            decimate=down.removeprefix("akm "), **options,
        )  # fmt: skip
    return nn.Conv2d(inputs, width, size, stride=2 if down == "stride" else 1, **options)
