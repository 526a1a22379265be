"""Reptile: move the parameters towards those that the inner loop reaches."""

from __future__ import annotations

import torch
from torch import nn

from akm_triton.meta.episodes import Episodes
from akm_triton.meta.learner import Learner, LossFunction, Result
from akm_triton.meta.outer import waits_for_every_gradient
from akm_triton.meta.selection import Adapt, InnerRate


class Reptile(Learner):
    r"""Reptile: first-order meta-learning without a query loss.

    .. math:: ∇ = θ - \mathrm{mean}_\mathrm{tasks} φ_K

    with φ_K as for ``MAML``. This is the gradient of ``result.loss``, so the outer loop is the same
    as MAML's: ``torch.optim.SGD`` with rate ε gives the published update θ + ε (φ_K − θ). Only the
    parameters that the inner loop adapts are learned. The query sets are used for evaluation only:
    ``losses`` and ``accuracy`` come from them.

    ``DistributedDataParallel`` needs ``find_unused_parameters=True`` where ``adapt`` leaves some
    parameters out.

    Args:
        model, inner_lr, inner_steps, adapt, inner_momentum, inner_max_norm, inner_batch, vectorize,
            check: as for ``MAML``.

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
        inner_momentum: float = 0.0,
        inner_max_norm: float | None = None,
        inner_batch: int | None = None,
        vectorize: bool | None = None,
        check: bool = True,
    ) -> None:
        super().__init__(
            model,
            inner_lr=inner_lr,
            inner_steps=inner_steps,
            adapt=adapt,
            inner_momentum=inner_momentum,
            inner_max_norm=inner_max_norm,
            inner_batch=inner_batch,
            vectorize=vectorize,
            check=check,
        )

    def forward(self, episodes: Episodes, loss_fn: LossFunction) -> Result:
        """As ``MAML.forward``; ``loss`` is ½ mean ‖θ − φ_K‖², in which φ_K is a constant."""
        theta = dict(self.model.named_parameters())
        idle = [k for k, p in theta.items() if p.requires_grad and k not in self.adapted_names]
        if idle and waits_for_every_gradient():
            raise ValueError(
                f"{idle[0]} gets no gradient, because the inner loop does not adapt it, but "
                "DistributedDataParallel waits for one. Construct it with "
                "find_unused_parameters=True alone, or use average_gradients in its place"
            )
        with torch.no_grad():
            run = self._run(episodes, loss_fn, query_after=[self.inner_steps - 1])
        distances = [
            (theta[name] - phi).square().reshape(len(phi), -1).sum(1)  # (tasks,)
            for name, phi in run.adapted.items()
        ]
        loss = torch.stack(distances).sum(0).mean() / 2
        return Result(loss, run.query_losses[:, -1], run.accuracy, run.support_losses)
