"""Checkpoints of the plain network, loaded into the converted one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from akm_triton.layers import WithWeight
from akm_triton.surgery.places import Modulated, Place


def accept_plain(owner: nn.Module) -> RemovableHandle:
    """From now on ``owner``, a convolution or norm about to be converted, or the ``Modulated`` in
    the place of a norm, loads what a plain network saved as if it were converted afterwards."""
    return owner.register_load_state_dict_pre_hook(_from_plain)


def _from_plain(owner: Any, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    if isinstance(owner, WithWeight):
        place, affine, modulation = Place(owner, owner, owner), prefix, prefix
    elif isinstance(owner, Modulated):
        place = Place(owner.layer, owner.modulation, owner)
        affine, modulation = prefix + "layer.", prefix + "modulation."
        for key in [key for key in state_dict if key.startswith(prefix)]:
            if not key.startswith((affine, modulation)):
                state_dict[affine + key.removeprefix(prefix)] = state_dict.pop(key)
    else:
        place = Place(owner, owner.drop.modulation, owner.drop)
        affine, modulation = prefix, prefix + "drop.modulation."
    start, layer = place.holder.start, place.modulation
    own = {key: x for key, x in state_dict.items() if key.startswith(affine)}
    scaled = {affine + x for x in ("weight", "bias") if getattr(place.affine, x) is not None}
    if not own or scaled - own.keys() or state_dict.keys() & {modulation + "r", modulation + "s"}:
        return
    for key in scaled:
        state_dict[key] = own[key] / start.gate
    device = next((x.device for x in own.values() if isinstance(x, Tensor)), None)
    for name, like in ("r", layer.r), ("s", layer.s):
        value = torch.full(like.shape, getattr(start, name), dtype=like.dtype, device=device)
        state_dict[modulation + name] = value
