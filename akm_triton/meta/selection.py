"""Which parameters the inner loop adapts, and at which learning rates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from akm_triton.blurred import modulation_names
from akm_triton.meta.options import read_numbers

Adapt = str | Callable[[str], bool]
Numbers = float | Sequence[float] | Tensor
InnerRate = Numbers | Callable[[str], Numbers]
LEARNED_RATES = ("tensor", "element")


def select_names(model: nn.Module, adapt: Adapt) -> list[str]:
    """The names of the trainable parameters that ``adapt`` selects, in the model's order."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    if callable(adapt):
        selected = [name for name in names if adapt(name)]
    elif isinstance(adapt, str) and adapt == "all":
        selected = names
    elif isinstance(adapt, str) and adapt == "modulation":
        selected = [name for name in modulation_names(model) if name in names]
    else:
        raise ValueError(
            f"adapt must be 'all', 'modulation' or a predicate on names, got {adapt!r}"
        )
    if not selected:
        option = "the predicate" if callable(adapt) else repr(adapt)
        first = ", ".join(names[:4]) or "none"
        raise ValueError(f"adapt: {option} matches no trainable parameter; the model has {first} …")
    return selected


def inner_rates(
    model: nn.Module, names: list[str], inner_lr: InnerRate, steps: int, learn_lr: str | None
) -> nn.ParameterList:
    """The rates of each parameter in ``names``: of shape ``(1,)`` or ``(steps,)``; where each
    element has a rate of its own, ``(1, *shape)`` or ``(steps, *shape)``."""
    if learn_lr is not None and learn_lr not in LEARNED_RATES:
        raise ValueError(f"learn_lr must be None or one of {LEARNED_RATES}, got {learn_lr!r}")
    parameters: dict[str, Any] = dict(model.named_parameters())
    rates = nn.ParameterList()
    for name in names:
        p = parameters[name]
        given = read_numbers("inner_lr", inner_lr(name) if callable(inner_lr) else inner_lr)
        if len(given) not in (1, steps):
            raise ValueError(f"inner_lr needs one rate or {steps}, one a step, got {len(given)}")
        rate = torch.tensor(given, dtype=p.dtype, device=p.device)
        if not rate.isfinite().all():
            raise ValueError(f"inner_lr must be finite in {p.dtype}, got {given} for {name}")
        if learn_lr == "element":
            rate = rate.reshape(-1, *[1] * p.dim()).repeat(1, *p.shape)
        rates.append(nn.Parameter(rate, requires_grad=learn_lr is not None))
    return rates
