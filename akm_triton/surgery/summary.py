"""What a network's AKM layers learned, as a table and as numbers to log."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from akm_triton.blurred import Blurred
from akm_triton.layers import WithWeight
from akm_triton.sharding import computes_on_shards, whole
from akm_triton.surgery.field import Blur, fields
from akm_triton.surgery.places import check_module

NARROW = 0.1
"""In pixels: a σ below it blurs next to nothing."""

HOMOGENEOUS = ("Relu", "LeakyRelu", "MaxPool", "AvgPool")
"""Nodes that a gate goes through as it is: f(gate · x) = gate · f(x)."""


@dataclass(frozen=True)
class LayerSummary:
    """One layer. σ is in pixels of the map that is blurred unless said otherwise."""

    name: str
    channels: int
    sigma: tuple[float, float, float]
    """Smallest, median, largest."""
    narrow: float
    """The share of σ below 0.1."""
    wide: float
    """The share of σ beyond ``max_radius / 3``, whose Gaussian the window cuts short: another
    ``max_radius`` would change the output."""
    gate: tuple[float, float] | None
    """Smallest, largest; a pool has none."""
    parameters: int
    sigma_input: float | None = None
    """The median in pixels of the images."""
    field: float | None = None
    """σ of all blurs of the network up to here and this one, in pixels of the images. Variances
    add; that of a layer is the mean over its channels."""
    flops: int | None = None
    """For one image: two for each product of the convolution, and of two passes of the blur with
    ``2 max_radius + 1`` taps, of what its stride keeps."""


@dataclass(frozen=True)
class Summary:
    """``print`` it for a table."""

    layers: tuple[LayerSummary, ...]
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        table = [HEADER, *map(_cells, self.layers)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in table
        ]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


HEADER = (
    "layer", "channels", "σ min", "median", "max", f"< {NARROW}", "> R/3", "gate min", "max",
    "parameters", "σ in input", "field", "Mflops",
)  # fmt: skip


def _cells(layer: LayerSummary) -> tuple[str, ...]:
    known = (layer.sigma_input, layer.field, layer.flops and layer.flops / 1e6)
    return (
        layer.name,
        str(layer.channels),
        *(f"{x:.2f}" for x in layer.sigma),
        *(f"{x:.0%}" for x in (layer.narrow, layer.wide)),
        *(("", "") if layer.gate is None else (f"{x:.2f}" for x in layer.gate)),
        f"{layer.parameters:,}",
        *("" if x is None else f"{x:.2f}" for x in known),
    )


def layers_of(model: nn.Module, *, required: bool = False) -> list[tuple[str, Any]]:
    """The AKM layers, each once, by name; ``required`` raises where there is none."""
    check_module(model)
    found = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, Blurred)]
    if required and not found:
        raise ValueError("model has no AKM layer")
    return found


def _learned(name: str, layer: Any) -> LayerSummary:
    """What the parameters say by themselves."""
    sigma = whole(layer.sigma.detach()).double().cpu()
    gate = whole(layer.gate.detach()).double().cpu() if "s" in layer.learned else None
    return LayerSummary(
        name=name,
        channels=layer.out_channels if isinstance(layer, WithWeight) else layer.channels,
        sigma=(float(sigma.min()), float(sigma.quantile(0.5)), float(sigma.max())),
        narrow=float((sigma < NARROW).double().mean()),
        wide=float((sigma > layer.max_radius / 3).double().mean()),
        gate=None if gate is None else (float(gate.min()), float(gate.max())),
        parameters=sum(p.numel() for p in layer.parameters()),
    )


def scalars(model: nn.Module) -> dict[str, float]:
    """What the AKM layers learned, as numbers to log.

    Returns:
        For each layer ``<name>.sigma/min``, ``/median`` and ``/max`` in pixels of its map, and
        ``<name>.gate/min`` and ``/max``; a pool has no gate. Reading them waits for the device, so
        do not log them at every step. Of a sharded model (FSDP2, DTensor) every process must ask,
        and gets the same.

    Raises:
        TypeError: ``model`` is no module.

    Example:
        >>> from akm_triton import Modulation2d
        >>> found = scalars(nn.Sequential(nn.Identity(), Modulation2d(8)))
        >>> {key: round(value, 2) for key, value in found.items()}  # doctest: +NORMALIZE_WHITESPACE
        {'1.sigma/min': 0.3, '1.sigma/median': 0.3, '1.sigma/max': 0.3,
         '1.gate/min': 0.88, '1.gate/max': 0.88}
    """
    found = {}
    for name, layer in layers_of(model):
        prefix, learned = f"{name}." if name else "", _learned(name, layer)
        for what, value in zip(("min", "median", "max"), learned.sigma, strict=True):
            found[f"{prefix}sigma/{what}"] = value
        for what, value in zip(("min", "max"), learned.gate or (), strict=False):
            found[f"{prefix}gate/{what}"] = value
    return found


def summary(model: nn.Module, images: Tensor | None = None) -> Summary:
    """A table of the AKM layers: σ, gate, size, and how far the network looks by them.

    Args:
        model: left as it is. Where it is sharded (FSDP2, DTensor), every process must call this.
        images: a batch (N, C, H, W) that the model takes, on its device; a DTensor, if its layers
            take those. With it the model is run, in eval mode, for what depends on the images: σ in
            their pixels, the field, flops, and the warnings.

    Returns:
        An object to print. ``layers`` has the numbers of each layer, ``warnings`` a line for each
        gate that goes into a batch or instance norm, directly or by way of ReLU and pools: the norm
        divides it out.

    Raises:
        TypeError: ``model`` is no module, or ``images`` no floating point tensor, or no DTensor.
        ValueError: ``images`` is no batch of images.

    Example:
        >>> import torch
        >>> from akm_triton import AKMConv2d
        >>> model = nn.Sequential(AKMConv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8))
        >>> found = summary(model, torch.randn(1, 3, 33, 33))
        >>> round(found.layers[0].sigma_input, 3)  # pixels of the images; 0.3 of the map
        0.6
        >>> found.warnings
        ('the norm 1 divides out the gate of 0: put Modulation2d behind the norm instead',)
    """
    if images is None:
        return Summary(tuple(_learned(name, layer) for name, layer in layers_of(model)))
    images, run = observe(model, images)
    return Summary(tuple(run.rows(images)), tuple(run.warnings))


def observe(model: nn.Module, images: Tensor) -> tuple[Tensor, Run]:
    """Call the model in eval mode; returns the images that its graph leads back to, and what the
    AKM layers did."""
    run = Run({layer: _learned(name, layer) for name, layer in layers_of(model)})
    _check(images, {layer.dims + 2 for layer in run.learned} or {4})
    images = images.detach().requires_grad_()
    # a call of DDP would wait for its backward
    called = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    with run.watching(model):
        try:
            called(images)
        except RuntimeError as error:
            if type(images) is Tensor and computes_on_shards(model):
                raise TypeError(
                    "images must be a DTensor where the model's parameters are, such as "
                    "distribute_tensor(images, mesh, [Replicate()])"
                ) from error
            raise
    return images, run


SHAPES = {3: "(N, C, L)", 4: "(N, C, H, W)", 5: "(N, C, D, H, W)"}


def _check(images: Tensor, ranks: set[int]) -> None:
    if not (isinstance(images, Tensor) and images.is_floating_point()):
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a floating point Tensor, got {got}")
    if images.dim() not in ranks or 0 in images.shape:
        wanted = " or ".join(SHAPES[rank] for rank in sorted(ranks))
        raise ValueError(f"images must be {wanted}, none of them 0, got {tuple(images.shape)}")


class Run:
    """What a call of the model shows of its AKM layers."""

    def __init__(self, learned: dict[Any, LayerSummary]) -> None:
        self.learned = learned
        self.warnings: list[str] = []
        self.maps: list[tuple[Tensor, Any, Any]] = []
        """Each map that an AKM layer returned, its node of the graph, and the layer."""
        self.flops: Counter[nn.Module] = Counter()
        """Of all images."""

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """The model in eval mode, and as it was afterwards."""
        training = [module for module in model.modules() if module.training]
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            if "torch._dynamo" in sys.modules:  # what it compiled shows neither calls nor nodes
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            for name, module in model.named_modules():
                if module in self.learned:
                    handle = module.register_forward_hook(self._after_layer, with_kwargs=True)
                elif isinstance(module, _NormBase):
                    handle = module.register_forward_pre_hook(partial(self._before_norm, name))
                else:
                    continue
                stack.callback(handle.remove)
            try:
                for module in training:
                    module.training = False
                yield
            finally:
                for module in training:
                    module.training = True

    def _after_layer(self, layer: nn.Module, args: Any, kwargs: Any, y: Tensor) -> None:
        self.flops[layer] += _flops(layer, next(iter((*args, *kwargs.values()))), y)
        self.maps.append((y, y.grad_fn, layer))  # the node of now: y may be changed in place

    def _before_norm(self, name: str, norm: nn.Module, args: Any) -> None:
        node = args[0].grad_fn if args else None
        while node is not None and node.name().startswith(HOMOGENEOUS):
            node = node.next_functions[0][0]
        for _, end, layer in self.maps:
            if end is node is not None and "s" in layer.learned:
                self.warnings.append(
                    f"the norm {name} divides out the gate of {self.learned[layer].name}: "
                    "put Modulation2d behind the norm instead"
                )

    def rows(self, images: Tensor) -> Iterator[LayerSummary]:
        found = fields(images, {node: _blur(x) for _, node, x in self.maps if node is not None})
        for layer, row in self.learned.items():
            if layer in self.flops:
                row = replace(row, flops=self.flops[layer] // len(images))
            ends = [found[node] for _, node, of in self.maps if of is layer and node in found]
            if ends:
                end = max(ends, key=lambda field: field.variance)
                pixel = end.jump / _blur(layer).stride  # of the map that is blurred
                row = replace(row, sigma_input=pixel * row.sigma[1], field=end.variance**0.5)
            yield row


def _blur(layer: Any) -> Blur:
    sigma = whole(layer.sigma.detach())
    down = sigma if layer.isotropic else sigma[..., 0]
    return Blur(float(down.square().mean()), layer.decimation[0])


def _flops(layer: Any, x: Tensor, y: Tensor) -> int:
    size, kept = layer.blurred_size(x), y.shape[-layer.dims :]
    planes = y.shape[: -layer.dims].numel()
    if layer.dims == 1:
        pixels = size[0]
    else:  # rows, then columns; then depth, of what these left
        pixels = kept[-2] * (size[-1] + kept[-1])
        if layer.dims == 3:
            pixels = size[0] * (pixels + kept[-2] * kept[-1])
    products = (2 * layer.max_radius + 1) * planes * pixels
    if isinstance(layer, WithWeight):
        # each pixel that is made, or of a transposed convolution each that is taken
        made = x.numel() if getattr(layer, "transposed", False) else planes * math.prod(size)
        products += layer.weight[0].numel() * made
    return 2 * products
