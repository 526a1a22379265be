"""Two checks of a model's normalisation layers: running statistics are refused in training mode,
and norms whose second derivative PyTorch gets wrong under ``vmap`` are found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# Functions of torch and torch.nn.functional that take mean and deviation from their input. The
# sixth argument, of this name and default, says whether they do; None: they always do.
INPUT_STATISTICS: dict[str, tuple[str, bool] | None] = {
    "layer_norm": None,
    "batch_norm": ("training", False),
    "instance_norm": ("use_input_stats", True),
}


class VmapGradientError(Exception):
    """PyTorch would compute a wrong second derivative under ``vmap``; the message names the weight
    that causes it."""


class NormGuard(TorchFunctionMode):
    """Raises ``VmapGradientError`` where a norm that takes statistics from its input has a weight
    that the inner loop adapts.

    Under ``vmap`` PyTorch 2.13 treats mean and deviation as constants when it differentiates the
    gradient of that weight. tests/meta/test_norms.py fails once this is mended.

    Args:
        model: its buffers are never adapted.
        parameters: the model's, as it is called with them.
        adapted_names: those that the inner loop adapts.
    """

    def __init__(
        self, model: nn.Module, parameters: Mapping[str, Tensor], adapted_names: Sequence[str]
    ) -> None:
        super().__init__()
        self.name_of = {id(p): name for name, p in parameters.items()}
        adapted = {id(parameters[name]) for name in adapted_names}
        self.fixed = {*self.name_of, *map(id, model.buffers())} - adapted

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        norm = getattr(func, "__name__", "")
        if norm in INPUT_STATISTICS and _uses_input_statistics(norm, args, kwargs):
            for x in (*args[1:], *kwargs.values()):
                if isinstance(x, Tensor) and id(x) not in self.fixed:
                    raise VmapGradientError(self.name_of.get(id(x), f"the weight of a {norm}"))
        return func(*args, **kwargs)


def _uses_input_statistics(norm: str, args: Any, kwargs: Any) -> bool:
    option = INPUT_STATISTICS[norm]
    if option is None:
        return True
    name, default = option
    return bool(args[5] if len(args) > 5 else kwargs.get(name, default))


def check_norms(model: nn.Module) -> None:
    """Refuse running statistics in training mode."""
    for name, module in model.named_modules():
        if module.training and getattr(module, "running_mean", None) is not None:
            raise ValueError(
                f"{name or 'the model'} ({type(module).__name__}) would mix its running statistics "
                "over tasks and inner steps. Use nn.GroupNorm, which keeps none; or "
                "torch.func.replace_all_batch_norm_modules_(model), after which each batch is "
                "normalised by its own statistics and the query examples of a task influence one "
                "another; or eval mode, in which the statistics stay as they are"
            )
