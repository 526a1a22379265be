"""Which parameters the inner loop moves, and how fast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from akm_triton.layers import AKMConv2d, Modulation2d

Adapt = str | Callable[[str], bool]
InnerRate = float | Sequence[float] | Callable[[str], float | Sequence[float]]
LEARNED = ("tensor", "element")


def modulation_names(model: nn.Module) -> list[str]:
    """The names of every r and s of the model."""
    layers = [(k, m) for k, m in model.named_modules() if isinstance(m, AKMConv2d | Modulation2d)]
    return [f"{name}.{key}" if name else key for name, _ in layers for key in ("r", "s")]


def adapted_names(model: nn.Module, adapt: Adapt) -> list[str]:
    """The trainable parameters that ``adapt`` names, in the model's order."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    if callable(adapt):
        chosen, what = {name for name in names if adapt(name)}, "the predicate"
    elif adapt == "all":
        chosen, what = set(names), "'all'"
    elif adapt == "modulation":
        chosen, what = set(modulation_names(model)) & set(names), "'modulation'"
    else:
        raise ValueError(
            f"adapt must be 'all', 'modulation' or a predicate on names, got {adapt!r}"
        )
    if not chosen:
        some = ", ".join(names[:4]) or "none"
        raise ValueError(f"adapt: {what} matches no trainable parameter; the model has {some} …")
    return [name for name in names if name in chosen]


def inner_rates(
    model: nn.Module, names: list[str], inner_lr: InnerRate, steps: int, learn_lr: str | None
) -> nn.ParameterList:
    """A parameter for each name: rates of shape (1 or steps,) or, by element, (…, *its shape)."""
    if learn_lr is not None and learn_lr not in LEARNED:
        raise ValueError(f"learn_lr must be None or one of {LEARNED}, got {learn_lr!r}")
    parameters, made = dict(model.named_parameters()), []
    for name in names:
        rate: Any = inner_lr(name) if callable(inner_lr) else inner_lr
        rate = rate.tolist() if hasattr(rate, "tolist") else rate  # a tensor, or an array
        if isinstance(rate, str) or not isinstance(rate, Sequence | float | int):
            raise TypeError(f"inner_lr must be a number or a sequence of them, got {rate!r}")
        each = [float(x) for x in rate] if isinstance(rate, Sequence) else [float(rate)]
        if len(each) not in (1, steps):
            raise ValueError(f"inner_lr needs one rate or {steps}, one a step, got {len(each)}")
        p = parameters[name]
        value = torch.tensor(each, dtype=p.dtype, device=p.device)
        if not value.isfinite().all():
            raise ValueError(f"inner_lr must be finite, got {rate} for {name}")
        if learn_lr == "element":
            value = value.reshape(-1, *[1] * p.dim()).repeat(1, *p.shape)
        made.append(nn.Parameter(value, requires_grad=learn_lr is not None))
    return nn.ParameterList(made)


def rate_of_step(rates: Tensor, step: int) -> Tensor:
    return rates[step if len(rates) > 1 else 0]
