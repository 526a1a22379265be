"""MAML and its relatives: minimise the query loss by differentiating through the inner loop."""

from __future__ import annotations

from torch import nn

from akm_triton.meta.episodes import Episodes
from akm_triton.meta.learner import Learner, LossFunction, Result
from akm_triton.meta.options import read_numbers
from akm_triton.meta.selection import Adapt, InnerRate, Numbers


class MAML(Learner):
    r"""Model-agnostic meta-learning: learn parameters from which a few gradient steps on a support
    set lead to a small loss on the query set.

    .. math:: φ_0 = θ, \quad φ_{k+1} = φ_k - α_k ∇_φ L(φ_k; support), \quad
              \min_θ \mathrm{mean}_\mathrm{tasks} L(φ_K; query)

    Works on any module whose forward changes no parameter and no buffer. It is left as it was,
    except that ``result.loss.backward()`` adds to ``.grad``, and is called by one thread at a time.
    Tasks of the same shapes go through it all at once, by ``vmap``. With ``adapt="modulation"`` all
    tasks share the weights of the convolutions, which therefore stay ordinary convolutions of one
    large batch; r and s get one value for each sample.

    Args:
        model: outputs ``(N, classes)`` for labels, or whatever ``loss_fn`` takes. A model that
            ``vmap`` cannot run, such as one with ``nn.LSTM`` or with a branch on a tensor's value,
            needs ``vectorize=False``.
        inner_lr: the learning rate α of the inner loop: a number, a sequence, array or tensor with
            one for each step, or a function of a parameter's name that returns either.
        inner_steps: K, the number of inner steps.
        order: 2 differentiates through the inner gradients; 1 treats them as constants (first-order
            MAML), which saves much of the memory and time.
        adapt: which parameters the inner loop adapts: ``"all"``, ``"modulation"`` (r and s of the
            AKM layers, 2C numbers for each layer, or the parameters that they are computed from)
            or a predicate on parameter names. Parameters that do not require a gradient at
            construction stay fixed. The outer loop learns all others, whether adapted or not.
        inner_momentum: μ of the inner loop, 0 ≤ μ < 1, as in ``torch.optim.SGD``: each step moves
            along v ← μ v + g in place of the gradient g, and v starts at the first g.
        inner_max_norm: None, or a bound on the norm of each task's gradient, of all adapted numbers
            together: g · min(1, bound / ‖g‖). The outer loop differentiates through the bound, too.
        inner_batch: None for the whole support set in each step, or the number of examples that a
            step sees: in random order, of each task its own, and no example twice before all came
            once. ``torch.manual_seed`` repeats the order.
        learn_lr: None; ``"tensor"`` learns one rate for each parameter tensor (and each step, where
            ``inner_lr`` has one for each step); ``"element"`` one for each number (Meta-SGD). The
            rates are among ``self.parameters()``.
        step_weights: the weight of the query loss after each of the K steps: a sequence, array or
            tensor of K numbers. None uses the loss after the last step alone. May be assigned anew
            between calls, for instance to anneal the weights.
        checkpoint: keep only the parameters between inner steps, and compute the steps again in the
            backward pass: memory of one step instead of K, for one more forward pass. The loss can
            then be differentiated once, and parameters of ``loss_fn`` get their gradient by
            ``backward()`` only.
        vectorize: True takes all tasks at once, False one after the other. None takes them at once
            where their shapes agree and PyTorch's gradient is right. It is wrong at order 2 where
            the inner loop adapts the weight of a batch, instance or layer norm that computes its
            statistics from its input.
        check: compare the labels with the number of outputs where these are ``(N, classes)``, and
            refuse losses that are not finite. Costs two reads from the device for each call, and
            one more if the model has buffers, whose values must be the same at the end.

    Normalisation: with batch statistics a query prediction depends on the other examples of the
    query set (transductive evaluation). Running statistics would mix tasks and steps, so a norm
    that updates them is refused. ``nn.GroupNorm`` has neither problem.

    Source: Finn, Abbeel and Levine 2017, arXiv:1703.03400; adapting a part of the network, Raghu et
    al. 2019, arXiv:1909.09157; Meta-SGD, Li et al. 2017, arXiv:1707.09835; rates for each step and
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
        inner_momentum: float = 0.0,
        inner_max_norm: float | None = None,
        inner_batch: int | None = None,
        learn_lr: str | None = None,
        step_weights: Numbers | None = None,
        checkpoint: bool = False,
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
            order=order,
            learn_lr=learn_lr,
            checkpoint=checkpoint,
            vectorize=vectorize,
            check=check,
        )
        self.step_weights = (
            None if step_weights is None else read_numbers("step_weights", step_weights)
        )
        self._step_weights()

    def forward(self, episodes: Episodes, loss_fn: LossFunction) -> Result:
        """Adapt to every task and evaluate its query set.

        Args:
            episodes: a sequence of ``((x, y), (x_query, y_query))``, with one task alone as
                ``[episode]``; or the same four tensors with a first axis for tasks.
            loss_fn: (output, y) to a scalar.

        Returns:
            ``loss``, the mean query loss, which is differentiable; and what each task gave.

        Raises:
            ValueError: there are no tasks, a set is empty, shapes do not fit, a label exceeds the
                number of outputs, ``step_weights`` has another length than the inner loop, or the
                model's forward changes a parameter, a buffer or a module.
            FloatingPointError: a loss is not finite; the message names the task and the inner step.
        """
        weights = self._step_weights()
        run = self._run(episodes, loss_fn, query_after=list(weights))
        loss = (run.query_losses @ run.query_losses.new_tensor(list(weights.values()))).mean()
        losses = run.query_losses.detach()[:, -1]
        return Result(loss, losses, run.accuracy, run.support_losses)

    def _step_weights(self) -> dict[int, float]:
        """The weight of each step after which the query set is evaluated: all that have a weight,
        and the last."""
        last = self.inner_steps - 1
        if self.step_weights is None:
            return {last: 1.0}
        weights = read_numbers("step_weights", self.step_weights)  # may have been assigned anew
        if len(weights) != self.inner_steps:
            raise ValueError(f"step_weights needs {self.inner_steps} numbers, got {len(weights)}")
        return {k: weight for k, weight in enumerate(weights) if weight or k == last}
