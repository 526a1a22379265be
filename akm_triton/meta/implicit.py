"""Implicit MAML: the meta-gradient from where the inner loop ends, whatever way it took."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad

from akm_triton.meta.episodes import Episodes, Examples, LossFunction, gather, highest_label
from akm_triton.meta.learner import (
    Learner,
    Named,
    Predict,
    Result,
    _check_finite,
    _judge,
)
from akm_triton.meta.norms import check_norms
from akm_triton.meta.selection import Adapt, InnerRate


class ImplicitMAML(Learner):
    r"""Implicit MAML: the inner loop seeks a minimum near θ, and the implicit function theorem
    gives its derivative by θ, without keeping a single step.

    .. math:: φ^* = \arg\min_φ L(φ; support) + \tfrac{λ}{2} ‖φ - θ‖², \qquad
              \frac{dφ^*}{dθ} = \Bigl(1 + \tfrac{1}{λ} ∇²_φ L\Bigr)^{-1}

    The gradient is as right as φ* is near that minimum: it needs enough inner steps, with
    ``inner_lr`` below 2 / (λ + the largest curvature). Memory does not grow with the steps. Tasks
    go one after the other. Needs TorchOpt (``pip install torchopt``), which solves the linear
    system by conjugate gradients.

    Args:
        model, inner_lr, inner_steps, adapt, check: as for ``MAML``.
        proximal: λ, the pull towards θ.
        solver_steps: of the conjugate gradients.

    Raises:
        ImportError: TorchOpt is not installed.

    Source: Rajeswaran et al. 2019, arXiv:1909.04630.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        inner_lr: InnerRate = 0.1,
        inner_steps: int = 20,
        proximal: float = 1.0,
        solver_steps: int = 10,
        adapt: Adapt = "all",
        check: bool = True,
    ) -> None:
        super().__init__(model, inner_lr, inner_steps, 1, adapt, None, False, False, check)
        if not proximal > 0:
            raise ValueError(f"proximal must be positive, got {proximal}")
        try:
            from torchopt import linear_solve
            from torchopt.diff import implicit
        except ImportError as error:
            raise ImportError("ImplicitMAML needs TorchOpt; pip install torchopt") from error
        self.proximal, self._implicit = proximal, implicit
        self._solver = linear_solve.solve_normal_cg(maxiter=solver_steps, atol=0)

    def forward(self, episodes: Episodes, loss_fn: LossFunction) -> Result:
        """As ``MAML.forward``."""
        tasks, _ = gather(episodes, False)
        check_norms(self.model)
        sets = [part for episode in tasks for part in episode]
        predict = self._predictor(highest_label(*sets) if self.check else None)
        start, others = self._split()
        found = []
        for support, query in tasks:
            adapted, inner = self._implicit_solution(predict, loss_fn, support, start, others)
            found.append((*_judge(predict, loss_fn, adapted, others, *query), inner))
        losses, accuracy, inner = (torch.stack(each) for each in zip(*found, strict=True))
        if self.check:
            _check_finite(inner, losses.detach()[:, None])
        return Result(losses.mean(), losses.detach(), accuracy, inner)

    def _implicit_solution(
        self, predict: Predict, loss_fn: LossFunction, support: Examples, start: Named,
        others: Named,
    ) -> tuple[Named, Tensor]:  # fmt: skip
        """φ*, differentiable by ``start`` and ``others``."""
        losses: list[Tensor] = []

        def slope(adapted: Any, start: Any, others: Any) -> tuple[Tensor, ...]:
            """Of what φ* minimises: zero there."""
            theta = dict(zip(self.names, start, strict=True))
            rest = dict(zip(rest_names, others, strict=True))

            def objective(phi: Named) -> Tensor:
                return loss_fn(predict({**rest, **phi}, support[0]), support[1]) + self._pull(
                    phi, theta
                )

            return tuple(grad(objective)(dict(zip(self.names, adapted, strict=True))).values())

        def solve(adapted: Any, start: Any, others: Any) -> tuple[Tensor, ...]:
            with torch.no_grad():
                phi, each = self._solve(predict, loss_fn, support)
            losses.append(each)
            return tuple(phi[name].detach().requires_grad_() for name in self.names)

        rest_names = list(others)
        rooted = self._implicit.custom_root(slope, argnums=(1, 2), solve=self._solver)(solve)
        initial = tuple(p.detach() for p in start.values())
        adapted = rooted(initial, tuple(start.values()), tuple(others.values()))
        return dict(zip(self.names, adapted, strict=True)), losses[0]

    def _solve(
        self, predict: Predict, loss_fn: LossFunction, support: Examples
    ) -> tuple[Named, Tensor]:
        theta, others = self._split()
        adapted, losses = theta, []

        def objective(phi: Named) -> tuple[Tensor, Tensor]:
            loss = loss_fn(predict({**others, **phi}, support[0]), support[1])
            return loss + self._pull(phi, theta), loss

        for k in range(self.inner_steps):
            grads, loss = grad(objective, has_aux=True)(adapted)
            rates = self._rates(k)
            adapted = {name: p - rates[name] * grads[name] for name, p in adapted.items()}
            losses.append(loss)
        return adapted, torch.stack(losses)

    def _pull(self, phi: Named, theta: Named) -> Tensor:
        each = [(p - theta[name]).square().sum() for name, p in phi.items()]
        return self.proximal / 2 * torch.stack(each).sum()
