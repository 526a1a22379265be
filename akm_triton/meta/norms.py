"""Norms that an inner loop cannot have, and those it cannot have for all tasks at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# function of torch or torch.nn.functional → whether its statistics are the data's: the sixth
# argument, of this name and default; without, they always are
OF_THE_DATA: dict[str, tuple[str, bool] | None] = {
    "layer_norm": None,
    "batch_norm": ("training", False),
    "instance_norm": ("use_input_stats", True),
}


class WrongAtOnce(Exception):
    """PyTorch would give a wrong second derivative under ``vmap``."""


class Guard(TorchFunctionMode):
    """Raises ``WrongAtOnce`` where a norm by the data's own statistics has a weight that the inner
    loop may have moved: for its gradient PyTorch takes mean and deviation, under ``vmap``, as
    constants (2.13; tests/test_meta.py tells).

    Args:
        fixed: tensors that no inner loop moves.
        moved: those that it does, by name.
    """

    def __init__(self, fixed: Iterable[Tensor], moved: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.fixed = list(fixed)
        self.moved = moved

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in OF_THE_DATA and _by_the_data(name, args, kwargs):
            fixed = {id(x) for x in self.fixed}
            for x in (*args[1:], *kwargs.values()):
                if isinstance(x, Tensor) and id(x) not in fixed:
                    found = [key for key, p in self.moved.items() if p is x]
                    raise WrongAtOnce(found[0] if found else f"the weight of a {name}")
        return func(*args, **kwargs)


def _by_the_data(name: str, args: Any, kwargs: Any) -> bool:
    switch = OF_THE_DATA[name]
    if switch is None:
        return True
    key, default = switch
    return bool(args[5] if len(args) > 5 else kwargs.get(key, default))


def check_norms(model: nn.Module) -> None:
    """Refuse running statistics in training mode."""
    for name, module in model.named_modules():
        if module.training and getattr(module, "running_mean", None) is not None:
            raise ValueError(
                f"{name or 'the model'} ({type(module).__name__}) would mix its running statistics "
                "over tasks and inner steps. nn.GroupNorm keeps none; "
                "torch.func.replace_all_batch_norm_modules_(model) takes those of each batch, by "
                "which the query examples of a task see one another; in eval mode they stay fixed"
            )
