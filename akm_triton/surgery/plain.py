"""Checkpoints of the plain network, loaded into the converted one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from akm_triton.layers import AKMConv2d
from akm_triton.surgery.places import Modulated, slot


def accept_plain(owner: nn.Module) -> RemovableHandle:
    """From now on ``owner``, a convolution or norm about to be converted, or the ``Modulated`` in
    the place of a norm, loads what a plain network saved as if it were converted afterwards."""
    return owner.register_load_state_dict_pre_hook(_from_plain)


def _from_plain(owner: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    affine = modulation = prefix
    holder: Any = owner
    if isinstance(owner, Modulated):
        affine, modulation = prefix + "layer.", prefix + "modulation."
        for key in [key for key in state_dict if key.startswith(prefix)]:
            if not key.startswith((affine, modulation)):
                state_dict[affine + key.removeprefix(prefix)] = state_dict.pop(key)
    elif not isinstance(owner, AKMConv2d):
        modulation, holder = prefix + "drop.modulation.", slot(owner)
    own = [key for key in state_dict if key.startswith(prefix)]
    if not own or modulation + "r" in own or modulation + "s" in own:
        return
    start = holder.start
    for name in ("weight", "bias"):
        if affine + name in own:
            state_dict[affine + name] = state_dict[affine + name] / start.gate
    layer = holder if isinstance(holder, AKMConv2d) else holder.modulation
    for name in ("r", "s"):
        like = getattr(layer, name)
        value = torch.full(like.shape, getattr(start, name), dtype=like.dtype)
        state_dict[modulation + name] = value.to(state_dict[own[0]].device)
