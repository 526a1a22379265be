"""The network of the few-shot tasks, and which of its parameters the inner loop adapts."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

import akm_triton as akm
from akm_triton.meta import MAML, Reptile
from akm_triton.meta.learner import Learner
from akm_triton.meta.selection import Adapt

LAYERS = ("akm", "frozen", "plain")
NORMS = ("group", "batch", "none")
ALGORITHMS: dict[str, dict[str, Any]] = {
    "maml": {},
    "fomaml": {"order": 1},
    "meta-sgd": {"learn_lr": "element"},
    "lslr": {"learn_lr": "tensor"},
    "reptile": {},
}
ADAPT = ("all", "modulation", "head", "modulation+head")


def build(
    layer: str, norm: str, width: int, channels: int, size: int, way: int, max_radius: int = 7
) -> nn.Sequential:
    """Four blocks of convolution, norm, blur and gate, ReLU, pooling; then a linear classifier.

    Args:
        layer: ``"akm"`` learns σ and gate of each channel, ``"frozen"`` leaves them where they
            start, ``"plain"`` has none.
        norm: ``"group"`` sees each image alone; ``"batch"`` the whole of a support or query set.
    """

    def block(channels_in: int) -> nn.Sequential:
        blur = nn.Identity() if layer == "plain" else akm.Modulation2d(width, max_radius=max_radius)
        norms = {
            "group": lambda: nn.GroupNorm(min(8, width), width),
            "batch": lambda: nn.BatchNorm2d(width, track_running_stats=False),
            "none": nn.Identity,
        }
        conv = nn.Conv2d(channels_in, width, 3, padding=1)
        return nn.Sequential(conv, norms[norm](), blur, nn.ReLU(), nn.MaxPool2d(2))

    blocks = [block(channels if i == 0 else width) for i in range(4)]
    if layer == "frozen":
        for one in blocks:
            one[2].requires_grad_(False)
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(width * (size // 16) ** 2, way))


def learner(
    model: nn.Sequential, algorithm: str, adapt: str, inner_lr: float, modulation_lr: float,
    inner_steps: int,
) -> Learner:  # fmt: skip
    """The algorithm around the model; ``modulation_lr`` is the inner rate of r and s."""
    head = f"{len(model) - 1}."
    modulation = set(akm.modulation_names(model))
    choices: dict[str, Adapt] = {
        "all": "all",
        "modulation": "modulation",
        "head": lambda name: name.startswith(head),
        "modulation+head": lambda name: name.startswith(head) or name in modulation,
    }
    algorithm_class: type[MAML] | type[Reptile] = Reptile if algorithm == "reptile" else MAML
    return algorithm_class(
        model,
        inner_lr=lambda name: modulation_lr if name in modulation else inner_lr,
        inner_steps=inner_steps,
        adapt=choices[adapt],
        **ALGORITHMS[algorithm],
    )


def modulations(model: nn.Module) -> list[dict[str, list[float]]]:
    """σ (pixels) and gate of each channel of each layer."""
    layers = [module for module in model.modules() if isinstance(module, akm.Modulation2d)]
    return [{"sigma": _rounded(x.sigma), "gate": _rounded(x.gate)} for x in layers]


def _rounded(x: Tensor) -> list[float]:
    return [round(value, 5) for value in x.tolist()]
