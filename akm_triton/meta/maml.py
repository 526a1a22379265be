"""MAML and its relatives: descend the query loss through the inner loop."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from akm_triton.meta.episodes import Episodes, LossFunction
from akm_triton.meta.learner import Learner, Result
from akm_triton.meta.selection import Adapt, InnerRate


class MAML(Learner):
    r"""Model-agnostic meta-learning: parameters from which a few steps on a support set lead to a
    small loss on the query set.

    .. math:: φ_0 = θ, \quad φ_{k+1} = φ_k - α_k ∇_φ L(φ_k; support), \quad
              \min_θ \mathrm{mean}_\mathrm{tasks} L(φ_K; query)

    Works on any module: it is called with ``torch.func.functional_call``, and nothing in it is
    changed but the ``.grad`` that ``result.loss.backward()`` adds. Tasks of the same shapes go
    through it all at once by ``vmap``. Where ``adapt="modulation"``, the convolutions keep one
    weight for all tasks and stay ordinary convolutions of one large batch, and r and s become
    parameters of each sample.

    Args:
        model: outputs ``(N, classes)`` for labels, or whatever ``loss_fn`` takes. What ``vmap`` has
            no rule for, such as ``nn.LSTM`` or a branch by a tensor's value, needs
            ``vectorize=False``.
        inner_lr: α: a number, a sequence of one a step, or a function of a parameter's name that
            gives either.
        inner_steps: K.
        order: 2 differentiates through the inner gradients; 1 takes them for constants
            (first-order MAML), at a good part of the memory and time.
        adapt: what the inner loop moves: ``"all"``, ``"modulation"`` (r and s of AKM layers, 2C
            numbers a layer) or a predicate on parameter names. Parameters that do not require a
            gradient at construction stay fixed. The outer loop learns the others too.
        learn_lr: None; ``"tensor"``, a rate for each parameter tensor (and step, where ``inner_lr``
            gives one a step); ``"element"``, one for each number (Meta-SGD). The rates are among
            ``self.parameters()``.
        step_weights: weights of the query losses after each of the K steps, None for the last
            alone. May be assigned anew between calls, to anneal them.
        checkpoint: keep only the parameters between inner steps and compute the rest again in the
            backward: memory of one step instead of K, for one more pass. The loss is then
            differentiable once, and what ``loss_fn`` itself learns gets its gradient by
            ``backward()`` alone.
        vectorize: True for all tasks at once, False for one after the other, None for the former
            where their shapes agree and PyTorch gets it right: at order 2 it does not where the
            inner loop moves the weight of a batch, instance or layer norm by the data's own
            statistics.
        check: compare labels with the number of outputs where these are ``(N, classes)``, and look
            at every loss; costs two reads from the device a call.

    Normalisation: batch statistics within an inner loop are those of the support or the query set,
    so that a query prediction depends on the other queries (transductive evaluation). Running
    statistics would mix tasks and steps: in training mode a model with them is refused. Use a norm
    without, such as ``nn.GroupNorm``.

    Source: Finn, Abbeel and Levine 2017, arXiv:1703.03400; adapting a part of the network, Raghu et
    al. 2019, arXiv:1909.09157; Meta-SGD, Li et al. 2017, arXiv:1707.09835; rates of each step and
    step weights, Antoniou et al. 2018, arXiv:1810.09502.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from akm_triton import AKMConv2d
        >>> model = nn.Sequential(AKMConv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> maml = MAML(model, inner_lr=0.1, inner_steps=2, adapt="modulation")
        >>> optimizer = torch.optim.Adam(maml.parameters(), lr=1e-3)
        >>> support = torch.randn(4, 3, 1, 8, 8), torch.arange(3).repeat(4, 1)  # 4 tasks
        >>> query = torch.randn(4, 6, 1, 8, 8), torch.arange(3).repeat(4, 2)
        >>> result = maml((support, query), nn.functional.cross_entropy)
        >>> result.loss.backward()
        >>> optimizer.step()
        >>> result.accuracy.shape
        torch.Size([4])
        >>> adapted = maml.adapt((support[0][0], support[1][0]), nn.functional.cross_entropy)
        >>> adapted(query[0][0]).shape
        torch.Size([6, 3])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        inner_lr: InnerRate = 0.1,
        inner_steps: int = 5,
        order: int = 2,
        adapt: Adapt = "all",
        learn_lr: str | None = None,
        step_weights: Sequence[float] | None = None,
        checkpoint: bool = False,
        vectorize: bool | None = None,
        check: bool = True,
    ) -> None:
        super().__init__(
            model, inner_lr, inner_steps, order, adapt, learn_lr, checkpoint, vectorize, check
        )
        self.step_weights = step_weights

    def forward(self, episodes: Episodes, loss_fn: LossFunction) -> Result:
        """Adapt to every task and judge by its query set.

        Args:
            episodes: a sequence of ``((x, y), (x_query, y_query))``, one alone as ``[episode]``, or
                the same four tensors with a first axis for the tasks.
            loss_fn: (output, y) to a scalar.

        Returns:
            ``loss``: the mean query loss, differentiable; and what each task gave.

        Raises:
            ValueError: no tasks, an empty set, shapes that do not fit, labels beyond what the model
                puts out, or a model in training mode with running statistics.
            FloatingPointError: a loss that is not finite, with its task and step.
        """
        last = self.inner_steps - 1
        weights = dict(enumerate(self.step_weights)) if self.step_weights else {last: 1.0}
        if self.step_weights and len(weights) != self.inner_steps:
            raise ValueError(f"step_weights needs {self.inner_steps} numbers, got {len(weights)}")
        asked = tuple(k for k, weight in weights.items() if weight or k == last)
        trace = self._trace(episodes, loss_fn, asked)
        wanted = trace.query.new_tensor([weights[k] for k in asked])
        losses = trace.query.detach()[:, -1]
        return Result((trace.query @ wanted).mean(), losses, trace.accuracy, trace.inner)
