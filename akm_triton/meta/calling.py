"""The model as a function of its parameters, which leaves the model as it was.

``torch.func.functional_call`` puts tensors back name by name, so that a module under two names
keeps those it was called with; and what forward assigns, such as a buffer, it leaves behind.

A model is called by one thread at a time. A call within a call is fine.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

Parameters = dict[str, Tensor]
BATCH_STATISTICS = (_BatchNorm.forward, _InstanceNorm.forward)


def check_model(model: nn.Module) -> None:
    """Refuse a model that cannot be called with other parameters."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule | nn.DataParallel):
            raise TypeError(
                f"model: {_describe(name, module)} cannot be called with other parameters"
            )
    for name, x in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(x):
            raise ValueError(f"model: {name} has no shape yet; call the model once before")


class Call:
    """Calls ``model`` with other parameters, and with copies of its buffers in their place.

    The buffers must stay the same, so that steps and tasks do not influence one another.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.own: Parameters = dict(model.named_parameters())
        self.buffers: Parameters = dict(model.named_buffers())
        self.copies: dict[str, Tensor | None] = {k: x.clone() for k, x in self.buffers.items()}
        for name, module in model.named_modules():
            if type(module).forward in BATCH_STATISTICS and module.training:
                if _writes_statistics(module):
                    raise _refusal(model, [_join(name, "running_mean")])
                # without running statistics it computes the same, and writes nothing
                self.copies |= dict.fromkeys(_join(name, k) for k in module._buffers)

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor) -> Any:
        """The output for ``x``. Raises ValueError where forward changes a parameter or a buffer."""
        stand_ins: dict[Any, Tensor | None] = {self.own[k]: p for k, p in parameters.items()}
        stand_ins |= {buffer: self.copies[name] for name, buffer in self.buffers.items()}
        with _holding(self.model, stand_ins):
            before = _members(self.model)
            versions = {name: _version(member) for name, member in before.items()}
            out = self.model(x)
            after = _members(self.model)
        changed = [
            name
            for name in {**before, **after}
            if before.get(name) is not (member := after.get(name))
            or _version(member) != versions[name]
        ]
        if changed:
            raise _refusal(self.model, changed)
        return out

    def check_values(self) -> None:
        """Raise ValueError if a buffer was written past its version. Reads the device once."""
        changed = _different(self.buffers, self.copies)
        if changed:
            raise _refusal(self.model, changed)

    def explain(self, error: RuntimeError, x: Tensor) -> None:
        """Raise ValueError if ``error`` came of a forward that writes to a parameter or buffer,
        which PyTorch does not name. ``x`` is an input of the model."""
        try:
            twin = copy_with(self.model, {})
            with torch.no_grad():
                twin(x)
            after = {**dict(twin.named_parameters()), **dict(twin.named_buffers())}
            before = {**self.own, **self.buffers}
            changed = sorted(before.keys() ^ after.keys()) or _different(before, after)
        except Exception:
            return
        if changed:
            raise _refusal(self.model, changed) from error


def remember(model: nn.Module) -> Callable[[], None]:
    """A function that gives every module back the attributes that it has now."""
    kept = [
        (table, dict(table))
        for module in model.modules()
        for table in (vars(module), *_tables(module))
    ]

    def put_back() -> None:
        for table, items in kept:
            table.clear()
            table.update(items)

    return put_back


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Afterwards every module has the attributes that it had."""
    if torch.compiler.is_compiling():  # which cannot follow this
        yield
        return
    put_back = remember(model)
    try:
        yield
    finally:
        put_back()


def copy_with(model: nn.Module, parameters: Mapping[str, Tensor]) -> nn.Module:
    """A copy of ``model`` that has ``parameters`` in place of those of the same names."""
    own = dict(model.named_parameters())
    memo: dict[int, Any] = {
        id(own[name]): nn.Parameter(x, own[name].requires_grad) for name, x in parameters.items()
    }
    for module in model.modules():  # what forward has computed, which deepcopy would refuse
        computed = [x for x in vars(module).values() if isinstance(x, Tensor) and not x.is_leaf]
        memo |= {id(x): x.detach().clone() for x in computed}
    return copy.deepcopy(model, memo)


@contextmanager
def _holding(model: nn.Module, stand_ins: Mapping[Any, Tensor | None]) -> Iterator[None]:
    """In the block, ``model`` has ``stand_ins[x]`` in place of each parameter and buffer x."""
    slots = [
        (table, key, x)
        for module in model.modules()
        for table in _tables(module)
        for key, x in table.items()
        if x in stand_ins
    ]
    try:
        for table, key, x in slots:
            table[key] = stand_ins[x]
        yield
    finally:
        for table, key, x in slots:
            table[key] = x


def _tables(module: nn.Module) -> tuple[dict[str, Any], ...]:
    """The parameters, buffers and children of a module."""
    return module._parameters, module._buffers, module._modules


def _members(model: nn.Module) -> dict[str, Any]:
    """Parameters, buffers and modules by name."""
    return {
        _join(name, key): x
        for name, module in model.named_modules()
        for table in _tables(module)
        for key, x in table.items()
    }


def _version(member: Any) -> int:
    """Counts the writes to a tensor."""
    if torch.compiler.is_compiling():  # which knows none
        return 0
    counts = isinstance(member, Tensor) and not member.is_inference()
    return member._version if counts else 0


def _different(before: Mapping[str, Tensor], after: Mapping[str, Tensor | None]) -> list[str]:
    """The names of the tensors whose bits differ. Reads the device once."""
    pairs = [(name, x, after[name]) for name, x in before.items() if x.layout is torch.strided]
    kept = [(name, _bits(x), _bits(y)) for name, x, y in pairs if y is not None]
    flags = [(x != y).any() if x.shape == y.shape else torch.tensor(True) for _, x, y in kept]
    if not flags:
        return []
    found = torch.stack([flag.to(flags[0].device) for flag in flags]).tolist()
    return [name for (name, *_), differs in zip(kept, found, strict=True) if differs]


def _bits(x: Tensor) -> Tensor:
    """To compare numbers of any type, NaN among them."""
    return x.detach().resolve_conj().resolve_neg().reshape(-1).view(torch.uint8)


def _writes_statistics(module: nn.Module) -> bool:
    """Whether a norm of PyTorch in training mode updates its running statistics."""
    keeps = module.track_running_stats or isinstance(module, _InstanceNorm)
    return bool(keeps and module.running_mean is not None and module.momentum != 0)


def _refusal(model: nn.Module, changed: Sequence[str]) -> ValueError:
    path, _, key = changed[0].rpartition(".")
    module = dict(model.named_modules()).get(path, model)
    return ValueError(
        f"{_describe(path, module)} would mix tasks and inner steps: its forward changes {key}. "
        "The model is as it was. Batch norms and spectral norms change nothing in eval mode. "
        "Instead of a batch norm take nn.GroupNorm, which keeps no statistics; or "
        "torch.func.replace_all_batch_norm_modules_(model), after which each batch is normalised "
        "by its own and the query examples of a task influence one another"
    )


def _describe(name: str, module: nn.Module) -> str:
    return f"{name or 'the model'} ({type(module).__name__})"


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key
