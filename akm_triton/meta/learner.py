"""The inner loop that ``MAML`` and ``Reptile`` share: gradient steps on the support set of one
task, or of all tasks at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap
from torch.utils._pytree import tree_map

from akm_triton.meta.batches import mini_batches
from akm_triton.meta.calling import Call, Parameters, check_model, copy_with, unchanged
from akm_triton.meta.descent import Descent, read_descent
from akm_triton.meta.episodes import (
    Episode,
    Episodes,
    Examples,
    check_examples,
    gather,
    highest_label,
)
from akm_triton.meta.norms import NormGuard, VmapGradientError
from akm_triton.meta.options import read_flag, read_integer
from akm_triton.meta.recompute import recomputed
from akm_triton.meta.selection import Adapt, InnerRate, inner_rates, select_names

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""(output of the model, targets) → scalar."""
IGNORED = -100
"""The label that ``cross_entropy`` leaves out by default."""
Evaluate = Callable[[Parameters, Tensor, Tensor], tuple[Tensor, Any]]
"""(parameters, inputs, targets) → (loss, output of the model)."""


@dataclass(frozen=True)
class Result:
    """What ``MAML`` and ``Reptile`` return for a batch of tasks."""

    loss: Tensor
    """What the outer loop minimises: a differentiable scalar."""
    losses: Tensor
    """Query loss of each task after its last inner step, ``(tasks,)``, detached."""
    accuracy: Tensor
    """Fraction of each query set that is classified correctly, ``(tasks,)``. Labels of −100, which
    ``cross_entropy`` ignores, do not count. NaN where all do not, or unless the model outputs
    ``(N, classes)`` for ``(N,)`` labels."""
    inner_losses: Tensor
    """Support loss before each inner step, of the examples it sees, ``(tasks, steps)``,
    detached."""


class InnerRun(NamedTuple):
    """What the inner loop computes for one task or, with a first axis for tasks, for all."""

    adapted: Parameters
    support_losses: Tensor
    """Before each step, (…, steps), detached."""
    query_losses: Tensor
    """After those steps after which the query set is evaluated, (…, evaluations)."""
    accuracy: Tensor
    """On the query set, at the last evaluation."""


class Learner(nn.Module):
    """Options and inner loop of ``MAML`` and ``Reptile``; each of them adds what the outer loop
    minimises."""

    def __init__(
        self,
        model: nn.Module,
        *,
        inner_lr: InnerRate,
        inner_steps: int,
        adapt: Adapt,
        inner_momentum: float,
        inner_max_norm: float | None,
        inner_batch: int | None,
        order: int = 1,
        learn_lr: str | None = None,
        checkpoint: bool = False,
        vectorize: bool | None,
        check: bool,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
        check_model(model)
        self.model = model
        self.inner_steps = read_integer("inner_steps", inner_steps)
        if self.inner_steps < 1:
            raise ValueError(f"inner_steps must be at least 1, got {inner_steps}")
        self.descent = read_descent(inner_momentum, inner_max_norm)
        self.inner_batch = None if inner_batch is None else read_integer("inner_batch", inner_batch)
        if self.inner_batch is not None and self.inner_batch < 1:
            raise ValueError(f"inner_batch must be None or at least 1, got {inner_batch}")
        self.order = read_integer("order", order)
        if self.order not in (1, 2):
            raise ValueError(f"order must be 1 or 2, got {order}")
        self.checkpoint = read_flag("checkpoint", checkpoint)
        self.vectorize = None if vectorize is None else read_flag("vectorize", vectorize)
        self.check = read_flag("check", check)
        self.adapted_names = select_names(model, adapt)
        self.rates = inner_rates(model, self.adapted_names, inner_lr, self.inner_steps, learn_lr)

    def adapt(self, support: Examples, loss_fn: LossFunction) -> nn.Module:
        """Adapt to one new task, and return a copy of the model with the adapted parameters.

        The copy shares nothing with the model: whatever is done to one, the other stays as it is.

        Args:
            support: (x, y), one row for each example.
            loss_fn: (output, y) to a scalar.

        Raises:
            ValueError: the support set is empty, a label exceeds the number of outputs, or the
                model's forward changes its buffers.
            FloatingPointError: a loss is not finite; the message names the inner step.
        """
        check_examples("the support set", support)
        highest = highest_label([support]) if self.check else None
        with torch.no_grad(), self._calls(support[0]) as call:
            evaluate = self._evaluator(call, loss_fn, highest)
            losses = []
            for step in self._inner_steps(evaluate, support):
                losses.append(step[1])
        if self.check:
            _check_finite(torch.stack(losses)[None])
        return copy_with(self.model, step[0])

    def _run(
        self, episodes: Episodes, loss_fn: LossFunction, query_after: Sequence[int]
    ) -> InnerRun:
        """Adapt to every task, and evaluate its query set after the steps ``query_after``. All
        results have a first axis for tasks."""
        tasks, stacked = gather(episodes, self.vectorize)
        highest = highest_label(chain(*([stacked] if stacked else tasks))) if self.check else None
        with self._calls(tasks[0][0][0]) as call:
            if stacked:
                evaluate = self._evaluator(call, loss_fn, highest, at_once=True)
                try:
                    run = self._run_episode(evaluate, stacked, query_after, at_once=True)
                except VmapGradientError as weight:
                    if self.vectorize:
                        raise ValueError(
                            f"vectorize=True, but the inner loop adapts {weight}: the second "
                            "derivative of this norm is wrong under vmap. Use nn.GroupNorm; or "
                            "vectorize=None, with which such tasks go one by one"
                        ) from None
                    stacked = None
            if not stacked:
                evaluate = self._evaluator(call, loss_fn, highest)
                runs = [self._run_episode(evaluate, task, query_after) for task in tasks]
                run = tree_map(lambda *x: torch.stack(x), *runs)
        if self.check:
            _check_finite(run.support_losses, run.query_losses.detach())
        return run

    @contextmanager
    def _calls(self, x: Tensor) -> Iterator[Call]:
        """The model to be called on inputs like ``x``; its buffers must be the same at the end."""
        call = Call(self.model)
        try:
            yield call
        except RuntimeError as error:
            call.explain(error, x)
            raise
        if self.check:
            call.check_values()

    def _run_episode(
        self, evaluate: Evaluate, episode: Episode, query_after: Sequence[int],
        at_once: bool = False,
    ) -> InnerRun:  # fmt: skip
        """The inner loop on one task or, with ``at_once``, on all tasks of a stacked episode."""
        support, query = episode
        _, shared = self._split()
        on_query: Callable[..., tuple[Tensor, Tensor]] = partial(_evaluate_query, evaluate)
        if at_once:
            on_query = vmap(on_query, in_dims=(0, None, 0, 0), randomness="different")
        support_losses, query_losses = [], []
        for k, (adapted, loss) in enumerate(self._inner_steps(evaluate, support, at_once)):
            support_losses.append(loss)
            if k in query_after:
                loss, accuracy = on_query(adapted, shared, *query)
                query_losses.append(loss)
        return InnerRun(
            adapted, torch.stack(support_losses, -1), torch.stack(query_losses, -1), accuracy
        )

    def _inner_steps(
        self, evaluate: Evaluate, support: Examples, at_once: bool = False
    ) -> Iterator[tuple[Parameters, Tensor]]:
        """After each step: the adapted parameters, and the support loss before it, detached."""
        adapted, shared = self._split()
        velocity: Parameters = {}
        batches = mini_batches(support, self.inner_batch, self.inner_steps, at_once)
        for k, batch in enumerate(batches):
            step: Callable[..., tuple[Parameters, Parameters, Tensor]] = partial(
                _step, evaluate, self.order, self.descent
            )
            if at_once:
                # all tasks have the same parameters until the first step tells them apart
                in_dims = (0 if k else None, 0 if k else None, None, None, 0, 0)
                step = vmap(step, in_dims=in_dims, randomness="different")
            if self.checkpoint:
                step = partial(recomputed, step)
            adapted, velocity, loss = step(adapted, velocity, shared, self._rates(k), *batch)
            yield adapted, loss.detach()

    def _split(self) -> tuple[Parameters, Parameters]:
        """The model's parameters: those that the inner loop adapts, and those all tasks share."""
        shared: Parameters = dict(self.model.named_parameters())
        # copies, because a forward under no_grad could write to them
        return {name: shared.pop(name).clone() for name in self.adapted_names}, shared

    def _rates(self, k: int) -> Parameters:
        """The rate of each adapted parameter in step ``k``."""
        pairs = zip(self.adapted_names, self.rates, strict=True)
        return {name: rate[k if len(rate) > 1 else 0] for name, rate in pairs}

    def _evaluator(
        self, call: Call, loss_fn: LossFunction, highest: int | None, at_once: bool = False
    ) -> Evaluate:
        """The loss as a function of parameters; labels up to ``highest`` must have an output each.
        Raises where ``vmap`` would differentiate a norm wrongly, if it is called ``at_once``."""

        def evaluate(parameters: Parameters, x: Tensor, y: Tensor) -> tuple[Tensor, Any]:
            watch: AbstractContextManager[Any] = nullcontext()
            if self.order == 2:
                buffers = [x for x in call.copies.values() if x is not None]
                watch = NormGuard(parameters, self.adapted_names, buffers, at_once)
            with unchanged(self.model):  # after the loss, which may read what forward has kept
                with watch:
                    out = call(parameters, x)
                if highest is not None and _is_scores(out) and highest >= out.shape[1]:
                    raise ValueError(
                        f"labels go up to {highest}, but the model outputs {out.shape[1]} "
                        "classes; check=False turns this check off"
                    )
                return loss_fn(out, y), out

        return evaluate


def _step(
    evaluate: Evaluate, order: int, descent: Descent,
    adapted: Parameters, velocity: Parameters, shared: Parameters, rates: Parameters,
    x: Tensor, y: Tensor,
) -> tuple[Parameters, Parameters, Tensor]:  # fmt: skip
    """One step of gradient descent: parameters, velocities, and the loss before it."""

    def loss(adapted: Parameters) -> Tensor:
        return evaluate({**shared, **adapted}, x, y)[0]

    # at order 1 the gradients are constants to the outer loop
    with torch.set_grad_enabled(torch.is_grad_enabled() and order == 2):
        grads, value = grad_and_value(loss)(adapted)
    return *descent.step(adapted, velocity, grads, rates), value


def _evaluate_query(
    evaluate: Evaluate, adapted: Parameters, shared: Parameters, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Query loss and accuracy."""
    loss, out = evaluate({**shared, **adapted}, x, y)
    if not _is_scores(out) or y.dim() != 1 or y.is_floating_point():
        return loss, loss.detach() * torch.nan
    scored = y != IGNORED
    hits = (out.detach().argmax(1) == y) & scored
    wide = torch.promote_types(out.dtype, torch.float32)  # float16 ends at 65504
    return loss, (hits.sum().to(wide) / scored.sum()).to(out.dtype)


def _is_scores(out: Any) -> bool:
    """Whether the output of a model is scores of classes, (N, classes)."""
    return isinstance(out, Tensor) and out.dim() == 2 and out.shape[1] > 1


def _check_finite(support_losses: Tensor, query_losses: Tensor | None = None) -> None:
    """Refuse infinity and NaN in losses (tasks, steps). Reads the device once."""
    losses = support_losses
    if query_losses is not None:
        losses = torch.cat([support_losses, query_losses], 1)
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        task, k = bad[0].tolist()
        on_support = k < support_losses.shape[1]
        place = f"before inner step {k + 1}" if on_support else "on the query set"
        advice = "; a smaller inner_lr may help" if k else ", before any inner step"
        raise FloatingPointError(
            f"task {task}: the loss {place} is {float(losses[task, k])}{advice}"
        )
