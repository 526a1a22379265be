"""Reptile: move towards where the inner loop leads."""

from __future__ import annotations

import torch
from torch import nn

from akm_triton.meta.episodes import Episodes, LossFunction
from akm_triton.meta.learner import Learner, Result
from akm_triton.meta.selection import Adapt, InnerRate


class Reptile(Learner):
    r"""Reptile: first-order meta-learning without a query loss.

    .. math:: ∇ = θ - \mathrm{mean}_\mathrm{tasks} φ_K

    with φ_K as for ``MAML``. This is the gradient of ``result.loss``, so the outer loop is the same
    as MAML's: ``torch.optim.SGD`` with rate ε gives the published update θ + ε (φ_K − θ). Only what
    the inner loop moves is learned. The query sets serve for ``losses`` and ``accuracy`` alone.

    Args:
        model, inner_lr, inner_steps, adapt, vectorize, check: as for ``MAML``.

    Source: Nichol, Achiam and Schulman 2018, arXiv:1803.02999.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Linear(2, 1)
        >>> reptile = Reptile(model, inner_lr=0.1, inner_steps=3)
        >>> optimizer = torch.optim.SGD(reptile.parameters(), lr=0.5)
        >>> x, y = torch.randn(4, 5, 2), torch.randn(4, 5, 1)  # 4 tasks
        >>> reptile(((x, y), (x, y)), nn.functional.mse_loss).loss.backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        inner_lr: InnerRate = 0.1,
        inner_steps: int = 5,
        adapt: Adapt = "all",
        vectorize: bool | None = None,
        check: bool = True,
    ) -> None:
        super().__init__(model, inner_lr, inner_steps, 1, adapt, None, False, vectorize, check)

    def forward(self, episodes: Episodes, loss_fn: LossFunction) -> Result:
        """As ``MAML.forward``; ``loss`` is ½ mean ‖θ − φ_K‖² with φ_K taken for constant."""
        with torch.no_grad():
            trace = self._trace(episodes, loss_fn, (self.inner_steps - 1,))
        start = dict(self.model.named_parameters())
        apart = [
            (start[k] - p).square().reshape(len(p), -1).sum(1) for k, p in trace.adapted.items()
        ]
        loss = torch.stack(apart).sum(0).mean() / 2
        return Result(loss, trace.query[:, -1], trace.accuracy, trace.inner)
