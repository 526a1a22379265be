"""What a training loop asks of a network: groups for its optimizer, and a penalty."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from akm_triton.blurred import modulation_names
from akm_triton.sharding import computes_on_shards, whole
from akm_triton.surgery.places import check_module
from akm_triton.surgery.summary import layers_of


def parameter_groups(
    model: nn.Module,
    *,
    lr: float | Tensor,
    weight_decay: float,
    modulation_lr: float | Tensor | None = None,
) -> list[dict[str, Any]]:
    """Two groups for an optimizer: r and s, without weight decay and at a rate of their own, and
    all other parameters.

    Adam moves a parameter by about ``lr`` a step whatever its gradient, so that σ travels at most
    about ``modulation_lr × steps`` pixels. Weight decay would pull σ to 0 and the gate to ½.

    Args:
        model: r and s are found by layer, as ``modulation_names`` does: a parametrised r counts. A
            shared parameter comes once; one with ``requires_grad=False`` is left out, so call this
            again once it is to be trained.
        lr, weight_decay: of the other parameters, all alike: norms and biases decay with the rest.
        modulation_lr: of r and s; ``None`` for 10 × ``lr``.

    Returns:
        ``[others, modulation]``, each a dict with ``params``, ``lr`` and ``weight_decay``. A group
        may be empty, which optimizers accept.

    Raises:
        TypeError: ``model`` is no module.

    Example:
        >>> import torch
        >>> from akm_triton import AKMConv2d
        >>> model = nn.Sequential(AKMConv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1))
        >>> groups = parameter_groups(model, lr=1e-3, weight_decay=0.05)
        >>> optimizer = torch.optim.AdamW(groups)
        >>> [(len(g["params"]), g["lr"], g["weight_decay"]) for g in groups]
        [(4, 0.001, 0.05), (2, 0.01, 0.0)]
    """
    check_module(model)
    names = set(modulation_names(model))
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [
        {
            "params": [p for name, p in trained if name not in names],
            "lr": lr,
            "weight_decay": weight_decay,
        },
        {
            "params": [p for name, p in trained if name in names],
            "lr": 10 * lr if modulation_lr is None else modulation_lr,
            "weight_decay": 0.0,
        },
    ]


def sigma_penalty(model: nn.Module) -> Tensor:
    """The mean σ in pixels, over all r of all AKM layers: add a multiple of it to the loss.

    Its gradient is as large for a small σ as for a large one, so a blur that is worth little goes
    to 0 instead of staying small.

    Of a sharded model every process must call this, and gets the same: a DTensor where the layers
    compute with DTensors, as the loss is one there; a plain tensor under FSDP2.

    Raises:
        TypeError, ValueError: ``model`` is no module, or has no AKM layer.

    Example:
        >>> from akm_triton import Modulation2d
        >>> model = nn.Sequential(Modulation2d(4), Modulation2d(12))
        >>> round(sigma_penalty(model).item(), 3)
        0.3
    """
    sigmas = [layer.sigma.flatten() for _, layer in layers_of(model, required=True)]
    if not computes_on_shards(model):
        sigmas = [whole(sigma) for sigma in sigmas]
    return torch.cat(sigmas).mean()
