"""Pictures of what a network's AKM layers learned; they need matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from akm_triton.gaussian import gaussian_taps
from akm_triton.surgery.summary import layers_of, observe

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def frequency_response(model: nn.Module) -> Figure:
    r"""What each AKM layer lets through, from constant maps to the finest stripes.

    .. math:: \mathrm{sigmoid}(s)\,\bigl(k_0 + 2 \sum_n k_n \cos 2πnf\bigr)

    down or across a map, with its taps k and f from 0 to ½ cycle for each pixel of the map. A panel
    for each layer: the median of its channels, and the range of all.

    Args:
        model: with at least one AKM layer.

    Returns:
        A matplotlib figure: ``figure.savefig("response.png")``.

    Raises:
        TypeError, ValueError: ``model`` is no module, or has no AKM layer.

    Example:
        >>> from akm_triton import Modulation2d
        >>> figure = frequency_response(nn.Sequential(Modulation2d(8), Modulation2d(8)))
        >>> [axis.get_title() for axis in figure.axes]
        ['0', '1']
    """
    from matplotlib.figure import Figure

    layers = layers_of(model, required=True)
    columns = min(len(layers), 4)
    rows = -(-len(layers) // columns)
    figure = Figure(figsize=(0.5 + 2 * columns, 0.5 + 1.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    f = np.linspace(0, 0.5, 101)
    for axis, (name, layer) in zip(axes, layers, strict=False):
        sigma = layer.sigma.detach().double().cpu().flatten()  # of each axis, if they differ
        gate = layer.gate.detach().double().cpu() if "s" in layer.learned else torch.ones(1)
        taps = gaussian_taps(
            sigma, layer.max_radius, gaussian=layer.gaussian, truncate=layer.truncate
        )
        n = np.arange(layer.max_radius + 1)[:, None]
        waves = np.where(n > 0, 2, 1) * np.cos(2 * np.pi * n * f)
        gates = gate.repeat_interleave(len(sigma) // len(gate)) if len(gate) > 1 else gate
        gain = gates.numpy()[:, None] * (taps.numpy() @ waves)
        axis.fill_between(f, gain.min(0), gain.max(0), color="0.8", linewidth=0)
        axis.plot(f, np.median(gain, 0), color="black")
        axis.set_title(name, fontsize=9)
    for axis in axes[len(layers) :]:
        axis.remove()
    figure.supxlabel("cycles for each pixel of the map", fontsize=9)
    figure.supylabel("gain", fontsize=9)
    return figure


def receptive_field(model: nn.Module, images: Tensor) -> Figure:
    """Which pixels the middle of the last AKM layer's map looks at: the gradient by the images of
    its channels' sum there, in magnitude, averaged over the batch, the largest as 1.

    Luo et al., *Understanding the effective receptive field in deep convolutional neural networks*,
    2016.

    Args:
        model: with at least one AKM layer; left as it is, and run in eval mode.
        images: a batch (N, C, H, W) that the model takes, on its device.

    Returns:
        A matplotlib figure: ``figure.savefig("field.png")``.

    Raises:
        TypeError, ValueError: as for ``summary``; no AKM layer was called.

    Example:
        >>> import torch
        >>> from akm_triton import AKMConv2d
        >>> figure = receptive_field(AKMConv2d(3, 8, 3), torch.randn(2, 3, 32, 32))
        >>> figure.axes[0].images[0].get_array().shape
        (32, 32)
    """
    from matplotlib.figure import Figure

    images, run = observe(model, images)
    if not run.maps:
        raise ValueError("model has no AKM layer, or none that images go through")
    y, _, layer = run.maps[-1]
    middle = y[..., y.shape[2] // 2, y.shape[3] // 2].sum()
    (gradient,) = torch.autograd.grad(middle, images)
    field = gradient.abs().mean((0, 1)).double().cpu().numpy()
    figure = Figure(figsize=(4.5, 4), layout="constrained")
    axis = figure.subplots()
    picture = axis.imshow(field / field.max(), cmap="magma", interpolation="none")
    figure.colorbar(picture, ax=axis)
    axis.set_title(f"the middle of {run.learned[layer].name or 'the layer'}", fontsize=9)
    return figure
