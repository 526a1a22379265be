"""``fold``: a trained network with as little left of modulation as its output allows."""

from __future__ import annotations

import numbers
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from akm_triton.gaussian import gaussian_taps
from akm_triton.layers import Modulation
from akm_triton.surgery.order import order
from akm_triton.surgery.places import (
    FOLDED,
    Place,
    check_module,
    check_simple,
    names,
    places,
    take_out,
)

OPEN = 40.0
"""An s whose gate is 1, in every dtype."""


def fold(model: nn.Module, *, tolerance: float = 0.0) -> nn.Module:
    r"""Move gates into weights, and drop the blurs that do next to nothing. For deployment.

    - The gate of an ``AKMConv2d`` goes into its weight and bias; that of modulation which
      ``convert`` placed after a norm, into the norm's. This is exact. The gate stays where there is
      no such weight or a ``forward`` uses it by itself too, and in a ``Modulation2d`` that was
      placed by hand.
    - A channel whose blur can be dropped within ``tolerance`` gets r = 0. A layer without any blur
      left is the plain ``nn.Conv2d`` or norm again, so that a network that folds wholly runs
      wherever the plain one does, and loads into it.
    - Other layers get the smallest ``max_radius`` within ``tolerance``.

    The bound: the taps that are cut have, beside the centre of the two-dimensional kernel, the
    share :math:`1 - (k_0 + 2\sum_{n=1}^{R'} k_n)^2` of its sum, :math:`1 - k_0^2` where nothing is
    left; of signals the power is 1, of volumes 3. The blur of channel c of a layer, with input z
    and gate g, changes by no more than

    .. math:: |Δy_{nc}| \le \max(\text{tolerance}, ε) \, g_c \, (\max z_{nc} - \min z_{nc}),

    where ε is that of the dtype, and 0 counts as a value of z for ``border="zeros"``. Layers
    further on see that change in their input.

    Args:
        model: in eval mode. It is changed in place: layers stay, their weights are new parameters.
            It can be neither reverted nor sensibly trained on.
        tolerance: 0 to 1, relative to the range of a map. σ of 0.01, 0.03, 0.05, 0.1 and 0.3 pixels
            are dropped at 2e-4, 1.8e-3, 5e-3, 2e-2 and 0.16.

    Returns:
        ``model``. Subclasses of the layers are left alone.

    Raises:
        TypeError: ``model`` is no module, ``tolerance`` no number.
        ValueError: a layer is in training mode, parametrized, pruned, sharded or under a schedule,
            or its r or s is not finite; ``tolerance`` is not in [0, 1). The model is then as it
            was.

    Example:
        >>> import torch
        >>> from akm_triton import AKMConv2d
        >>> model = nn.Sequential(AKMConv2d(3, 8, 3), nn.ReLU()).eval()
        >>> _ = nn.init.zeros_(model[0].r)
        >>> fold(model)
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
          (1): ReLU()
        )
    """
    check_module(model)
    if isinstance(tolerance, bool) or not isinstance(tolerance, numbers.Real):
        raise TypeError(f"tolerance must be a number, got {tolerance!r}")
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance must be at least 0 and below 1, got {tolerance}")
    named = names(model)
    found = places(model)
    placed = {place.modulation for place in found}
    # by hand: nothing is known that the gate could go into
    found += [Place(None, x, x) for x in named if isinstance(x, Modulation) and x not in placed]
    check_simple(found, named)
    found = [place for place in found if type(place.modulation) in FOLDED]
    read = order(model).read
    with torch.inference_mode(False), torch.no_grad():
        folded = [
            _folded(place, named[place.modulation][0], tolerance, place.affine in read)
            for place in found
        ]
    for each in folded:
        each.put_into(model)
    return model


class _Folded(NamedTuple):
    """What is to become of a layer."""

    place: Place
    parameters: dict[tuple[nn.Module, str], Tensor]
    """(module, name) → value."""
    max_radius: int
    """0: no blur."""
    gated: bool

    def put_into(self, model: nn.Module) -> None:
        for (module, name), value in self.parameters.items():
            trained = module.get_parameter(name).requires_grad
            setattr(module, name, nn.Parameter(value, requires_grad=trained))
        if self.max_radius == 0 and not self.gated:
            take_out(self.place, model)
        else:
            self.place.modulation.max_radius = max(self.max_radius, 1)
            self.place.forget()


def _folded(place: Place, name: str, tolerance: float, read: bool) -> _Folded:
    affine, layer, _ = place
    if layer.training or (affine is not None and affine.training):
        raise ValueError(f"{name or 'the model'} is in training mode; call model.eval() first")
    r, s = layer.r, layer.s
    if r.is_meta or not r.isfinite().all() or s.isnan().any():
        raise ValueError(f"{name or 'the model'}: r and s must be finite numbers")
    needed = _sufficient_radius(layer, tolerance)
    parameters = {(layer, "r"): torch.where(needed.to(r.device) == 0, 0, r)}
    gated = affine is None or affine.weight is None or read
    if not gated:
        parameters[layer, "s"] = torch.full_like(s, OPEN)
        for key in "weight", "bias":
            if (x := getattr(affine, key)) is not None:
                parameters[affine, key] = _gated(x, layer.gate, affine)
    return _Folded(place, parameters, int(needed.max()), gated)


def _gated(x: Tensor, gate: Tensor, affine: Any) -> Tensor:
    """A weight or bias times the gate of each channel that it makes."""
    behind = [1] * (x.dim() - 2)
    if x.dim() > 1 and getattr(affine, "transposed", False):  # (in, out / groups, …)
        gate = gate.expand(affine.out_channels).reshape(affine.groups, 1, -1, *behind)
        return (x.unflatten(0, (affine.groups, -1)) * gate).flatten(0, 1).to(x.dtype)
    gate = gate.expand(len(x)).reshape(-1, *[1] * (x.dim() - 1))
    return (x * gate).to(x.dtype)


def _sufficient_radius(layer: Any, tolerance: float) -> Tensor:
    """The least radius for each r; 0 where the blur can go."""
    taps = gaussian_taps(
        layer.r.cpu(), layer.max_radius, gaussian=layer.gaussian, truncate=layer.truncate
    )
    outward = taps.double().flip(-1).cumsum(-1).flip(-1)  # of each n: of that tap and all beyond
    beyond = 2 * nn.functional.pad(outward[..., 1:], (0, 1))
    share = 1 - (1 - beyond) ** layer.dims if layer.dims != 2 else beyond * (2 - beyond)
    return (share > max(tolerance, torch.finfo(taps.dtype).eps)).sum(-1)
