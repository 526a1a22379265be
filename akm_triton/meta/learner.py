"""The inner loop, shared by every algorithm: functional steps of gradient descent on a support
set, of one task or of all tasks at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from akm_triton.meta.episodes import (
    Episode,
    Episodes,
    Examples,
    LossFunction,
    check_examples,
    gather,
    highest_label,
)
from akm_triton.meta.norms import Guard, WrongAtOnce, check_norms
from akm_triton.meta.recompute import recomputed
from akm_triton.meta.selection import (
    Adapt,
    InnerRate,
    adapted_names,
    inner_rates,
    rate_of_step,
)

Named = dict[str, Tensor]
Predict = Callable[[Named, Tensor], Any]


@dataclass(frozen=True)
class Result:
    """What a meta-batch of tasks gave."""

    loss: Tensor
    """What the outer step descends: a differentiable scalar."""
    losses: Tensor
    """Query loss of each task after its last step, ``(tasks,)``, detached."""
    accuracy: Tensor
    """Part of each query set classified right, ``(tasks,)``; NaN where the model does not put out
    ``(N, classes)`` for ``(N,)`` labels."""
    inner_losses: Tensor
    """Support loss before each inner step, ``(tasks, steps)``, detached."""


class Adapted:
    """A model with the parameters of one task: call it as the model itself, whose other parameters
    it shares."""

    def __init__(self, model: nn.Module, parameters: Named) -> None:
        self.model, self.parameters = model, parameters

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return functional_call(self.model, self.parameters, args, kwargs)


@dataclass(frozen=True)
class Trace:
    """Of a task, or of all with a first axis."""

    adapted: Named
    inner: Tensor
    """Support loss before each step, (…, steps), detached."""
    query: Tensor
    """Query loss after each step that was asked about, (…, asked)."""
    accuracy: Tensor
    """On the query set, after the last of these."""

    def rows(self, stacked: bool) -> Trace:
        """With a first axis for tasks, which one alone has not."""
        if stacked:
            return self
        adapted = {name: p[None] for name, p in self.adapted.items()}
        return Trace(adapted, self.inner[None], self.query[None], self.accuracy[None])


class Learner(nn.Module):
    """Options and inner loop of ``MAML`` and ``Reptile``, which say what to descend."""

    def __init__(
        self, model: nn.Module, inner_lr: InnerRate, inner_steps: int, order: int, adapt: Adapt,
        learn_lr: str | None, checkpoint: bool, vectorize: bool | None, check: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        if inner_steps < 1:
            raise ValueError(f"inner_steps must be at least 1, got {inner_steps}")
        if order not in (1, 2):
            raise ValueError(f"order must be 1 or 2, got {order}")
        self.model, self.inner_steps, self.order = model, inner_steps, order
        self.checkpoint, self.vectorize, self.check = checkpoint, vectorize, check
        self.names = adapted_names(model, adapt)
        self.rates = inner_rates(model, self.names, inner_lr, inner_steps, learn_lr)

    def adapt(self, support: Examples, loss_fn: LossFunction) -> Adapted:
        """The model after its inner steps on the support set of one new task.

        Nothing is kept for a gradient, and the model itself is left as it is.

        Args:
            support: (x, y), a row an example.
            loss_fn: (output, y) to a scalar.

        Raises:
            ValueError: an empty support set, or labels beyond what the model puts out.
            FloatingPointError: a loss that is not finite, with its step.
        """
        check_examples("the support set", support)
        check_norms(self.model)
        predict = self._predictor(highest_label(support) if self.check else None)
        with torch.no_grad():
            adapted, losses = self._solve(predict, loss_fn, support)
        if self.check:
            _check_finite(losses[None])
        return Adapted(self.model, {name: p.detach() for name, p in adapted.items()})

    def _solve(
        self, predict: Predict, loss_fn: LossFunction, support: Examples
    ) -> tuple[Named, Tensor]:
        """Adapted parameters, and the loss before each step, (steps,)."""
        adapted, others = self._split()
        losses = []
        for k in range(self.inner_steps):
            adapted, loss = _step(predict, loss_fn, 1, adapted, others, self._rates(k), *support)
            losses.append(loss)
        return adapted, torch.stack(losses)

    def _trace(self, episodes: Episodes, loss_fn: LossFunction, asked: tuple[int, ...]) -> Trace:
        """Descend on every task; after the steps in ``asked`` see the query set."""
        check_norms(self.model)
        tasks, stacked = gather(episodes, self.vectorize)
        try:
            traces = self._traces(tasks, stacked, loss_fn, asked)
        except WrongAtOnce as found:
            if self.vectorize:
                raise ValueError(
                    f"vectorize=True, but the inner loop moves {found}: the second derivative of "
                    "this norm is wrong under vmap. nn.GroupNorm is right, and so is one task at a "
                    "time"
                ) from None
            tasks, stacked = gather(episodes, False)
            traces = self._traces(tasks, stacked, loss_fn, asked)
        trace = traces[0] if len(traces) == 1 else _joined(traces)
        if self.check:
            _check_finite(trace.inner, trace.query.detach())
        return trace

    def _traces(
        self, tasks: list[Episode], stacked: bool, loss_fn: LossFunction, asked: tuple[int, ...]
    ) -> list[Trace]:
        sets = [part for episode in tasks for part in episode]
        highest = highest_label(*sets) if self.check else None
        predict = self._predictor(highest, guard=stacked and self.order == 2)
        return [
            self._descend(episode, loss_fn, predict, stacked, asked).rows(stacked)
            for episode in tasks
        ]

    def _split(self) -> tuple[Named, Named]:
        """The model's parameters: those that the inner loop moves, and the others."""
        others: Named = dict(self.model.named_parameters())
        return {name: others.pop(name) for name in self.names}, others

    def _rates(self, k: int) -> Named:
        pairs = zip(self.names, self.rates, strict=True)
        return {name: rate_of_step(rate, k) for name, rate in pairs}

    def _predictor(self, highest: int | None, guard: bool = False) -> Predict:
        """The model as a function; with ``guard`` its first run looks for wrong norms."""

        def predict(parameters: Named, x: Tensor) -> Any:
            nonlocal guard
            looking = self._guard(parameters) if guard else contextlib.nullcontext()
            guard = False
            with looking:
                y = functional_call(self.model, parameters, (x,))
            if highest is not None and _scores(y) and highest >= y.shape[1]:
                raise ValueError(
                    f"labels go up to {highest}, but the model puts out {y.shape[1]} classes; "
                    "check=False lets such labels pass"
                )
            return y

        return predict

    def _guard(self, parameters: Named) -> Guard:
        moved = {name: parameters[name] for name in self.names}
        others = [p for name, p in parameters.items() if name not in moved]
        return Guard([*others, *self.model.buffers()], moved)

    def _descend(
        self, episode: Episode, loss_fn: LossFunction, predict: Predict,
        stacked: bool, asked: tuple[int, ...],
    ) -> Trace:  # fmt: skip
        support, query = episode
        adapted, others = self._split()
        step = partial(_step, predict, loss_fn, self.order)
        judge = partial(_judge, predict, loss_fn)
        inner, losses = [], []
        for k in range(self.inner_steps):
            # the parameters are one for all tasks until the first step has told them apart
            run = _over_tasks(step, 0 if k else None) if stacked else step
            run = _recomputing(run) if self.checkpoint else run
            adapted, loss = run(adapted, others, self._rates(k), *support)
            inner.append(loss.detach())
            if k in asked:
                ask = _over_tasks(judge, 0) if stacked else judge
                loss, accuracy = ask(adapted, others, *query)
                losses.append(loss)
        return Trace(adapted, torch.stack(inner, -1), torch.stack(losses, -1), accuracy)


def _joined(traces: list[Trace]) -> Trace:
    names = traces[0].adapted
    return Trace(
        {name: torch.cat([trace.adapted[name] for trace in traces]) for name in names},
        torch.cat([trace.inner for trace in traces]),
        torch.cat([trace.query for trace in traces]),
        torch.cat([trace.accuracy for trace in traces]),
    )


def _step(
    predict: Predict, loss_fn: LossFunction, order: int,
    adapted: Named, others: Named, rates: Named, x: Tensor, y: Tensor,
) -> tuple[Named, Tensor]:  # fmt: skip
    def loss(parameters: Named) -> Tensor:
        return loss_fn(predict({**others, **parameters}, x), y)

    with torch.set_grad_enabled(torch.is_grad_enabled() and order == 2):
        grads, value = grad_and_value(loss)(adapted)
    return {name: p - rates[name] * grads[name] for name, p in adapted.items()}, value


def _judge(
    predict: Predict, loss_fn: LossFunction,
    adapted: Named, others: Named, x: Tensor, y: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Query loss, and the part classified right."""
    out = predict({**others, **adapted}, x)
    loss = loss_fn(out, y)
    if not _scores(out) or y.dim() != 1 or y.is_floating_point():
        return loss, loss.detach() * torch.nan
    return loss, (out.detach().argmax(1) == y).to(out.dtype).mean()


def _scores(out: Any) -> bool:
    """Whether a model put out scores of classes, (N, classes)."""
    return isinstance(out, Tensor) and out.dim() == 2 and out.shape[1] > 1


def _over_tasks(function: Callable[..., Any], adapted: int | None) -> Callable[..., Any]:
    """``function(adapted, *shared, x, y)`` on every task at once."""

    def run(*args: Any) -> Any:
        in_dims = (adapted, *[None] * (len(args) - 3), 0, 0)
        return vmap(function, in_dims, randomness="different")(*args)

    return run


def _recomputing(
    step: Callable[..., tuple[Named, Tensor]],
) -> Callable[..., tuple[Named, Tensor]]:
    def run(*args: Any) -> tuple[Named, Tensor]:
        trees = [arg if isinstance(arg, dict) else {"": arg} for arg in args]

        def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
            each = iter(tensors)
            again = [{name: next(each) for name in tree} for tree in trees]
            pairs = zip(args, again, strict=True)
            adapted, loss = step(*(new if isinstance(arg, dict) else new[""] for arg, new in pairs))
            return *adapted.values(), loss

        *values, loss = recomputed(flat, *(x for tree in trees for x in tree.values()))
        return dict(zip(args[0], values, strict=True)), loss

    return run


def _check_finite(inner: Tensor, query: Tensor | None = None) -> None:
    """Tensors (tasks, steps); reads the device once."""
    values = inner if query is None else torch.cat([inner, query], 1)
    bad = (~values.isfinite()).nonzero()
    if len(bad):
        task, place = bad[0].tolist()
        where = f"before inner step {place + 1}" if place < inner.shape[1] else "on the query set"
        advice = "; a smaller inner_lr may help" if place else ", before any step was taken"
        raise FloatingPointError(
            f"task {task}: the loss {where} is {float(values[task, place])}{advice}"
        )
