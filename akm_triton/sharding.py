"""DTensor: each process runs an op on its own samples, and a gradient of taps that the samples
share is the sum over the processes.

``torch.distributed`` is not imported here before a DTensor has come.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from torch import Tensor, nn

from akm_triton.tracing import PLAIN_TYPES

_unknown: dict[Any, tuple[int, int]] = {}
"""The ops that DTensor does not know yet: their maps, and the axis of the samples in their taps."""


def declare(op: Any, maps: int, lead: int) -> None:
    """Let the op, whose first ``maps`` arguments are maps (N, …) and whose next ones are taps, with
    ``lead`` axes before (N, C, R+1) or before (1|C, R+1), run on DTensors once ``prepare`` has met
    one.

    An op of one map returns a map. An op of two returns the gradient of the taps, perhaps after a
    map; without taps, its last argument but one says whether that is of each sample. Without maps
    every process runs the whole op.
    """
    _unknown[op] = maps, lead


def prepare(x: Tensor) -> None:
    """Tell DTensor how the ops run on its shards, where x is the first that comes."""
    if _unknown and _is_distributed(x):
        _register()


def replicated(constant: Tensor, like: Tensor) -> Tensor:
    """The constant, whole in each process if ``like`` is a DTensor: those combine with no other
    tensors."""
    if not _is_distributed(like):
        return constant
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh  # type: ignore[attr-defined]
    return DTensor.from_local(constant, mesh, [Replicate()] * mesh.ndim, run_check=False)


def whole(x: Tensor) -> Tensor:
    """A DTensor's value, put together from all processes, which wait for each other here; any other
    tensor as it is."""
    return x.full_tensor() if _is_distributed(x) else x  # type: ignore[attr-defined]


def is_sharded(module: nn.Module) -> bool:
    """Whether its own parameters are DTensors, or it is one of FSDP, which may have them gathered
    just now."""
    return _gathers(module) or any(map(_is_distributed, module.parameters(recurse=False)))


def computes_on_shards(model: nn.Module) -> bool:
    """Whether its layers take DTensors and return them, as those of ``distribute_module`` do. To
    the layers of FSDP everything is plain."""
    modules = list(model.modules())
    return any(map(is_sharded, modules)) and not any(map(_gathers, modules))


def _gathers(module: nn.Module) -> bool:
    """Whether FSDP gathers the parameters of its layers before they are called."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, (fsdp.FSDPModule, fsdp.FullyShardedDataParallel))


def _is_distributed(x: Tensor) -> bool:
    if type(x) in PLAIN_TYPES:
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def _register() -> None:
    from torch.distributed.tensor.experimental import register_sharding

    while _unknown:
        op, (maps, lead) = _unknown.popitem()
        register_sharding(op)(functools.partial(_placements, maps, lead, len(op._schema.returns)))


def _placements(maps: int, lead: int, results: int, *args: Any) -> list[Any]:
    """Pairs of how the results and the arguments may be placed."""
    from torch.distributed.tensor import Partial, Replicate, Shard

    tensors = [x for x in args if hasattr(x, "ndim")]
    options = [None] * (len(args) - len(tensors))
    whole: Any = [Replicate()] * results, [Replicate()] * len(tensors) + options
    if maps == 0:
        return [whole]
    own = [x.ndim == 3 + lead for x in tensors[maps:]]  # taps of each sample
    taps = [Shard(lead) if mine else Replicate() for mine in own]
    out: list[Any] = [Shard(0)] * results
    if maps > 1:
        out[-1] = Shard(lead) if (own[0] if own else args[-2]) else Partial()
    return [whole, (out, [Shard(0)] * maps + taps + options)]
