"""``akm_triton.tune``: what a user asks for, and ``AKM_AUTOTUNE=1``, which asks by itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from akm_triton.functional import warmup
from akm_triton.internals import in_backward
from akm_triton.launch import choice
from akm_triton.launch.problem import Device, Problem

if TYPE_CHECKING:
    from akm_triton.tuning.tuner import Tuned

Shape = Sequence[int]


def tune(
    work: nn.Module | Iterable[Shape],
    *inputs: Any,
    order: int = 1,
    seconds: float = 30.0,
    again: bool = False,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
    device: torch.device | str | None = None,
    verbose: bool = True,
    **options: Any,
) -> list[Tuned]:
    r"""Measure the launches that a model, or maps of some shapes, need, and keep the fastest.

    What is found is kept in the user's cache and used from then on, by this process and by all
    later ones on such a device with this Triton and this package. Without tuning a rule serves.
    Every candidate's results are compared with plain PyTorch's in float64 before it may win.

    Args:
        work: a model, which is run on ``inputs`` and differentiated, though not changed but for
            what its forward changes; or shapes ``(N, C, H, W)`` of maps.
        inputs: of the model.
        order: of the highest derivative to tune for; 0 for the forward alone.
        seconds: about the longest that one problem, an op on maps of one shape, may take.
        again: also measure what the cache holds already.
        dtype, memory_format, device: of the maps, where shapes are given.
        verbose: print progress and a table of times before and after.
        options: of ``modulate``, where shapes are given: ``max_radius``, ``border``, ...

    Returns:
        A ``Tuned`` for each problem measured: ``problem``, ``plan``, ``seconds`` and
        ``rule_seconds`` a run, and every ``trial``. Empty where nothing runs on Triton.

    Raises:
        TypeError: inputs beside shapes, or options beside a model.
        ValueError: ``order`` is negative or ``seconds`` is not positive; else as ``modulate``.
        RuntimeError: a CUDA graph is being captured or ``torch.compile`` is tracing.

    Example:
        >>> import akm_triton as akm
        >>> layer = akm.AKMConv2d(3, 8, 3)
        >>> akm.tune(layer, torch.zeros(2, 3, 16, 16), verbose=False)  # CPU tensors: no kernels
        []
    """
    if order < 0:
        raise ValueError(f"order must not be negative, got {order}")
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds}")
    if isinstance(work, nn.Module) and options:
        raise TypeError(f"options {sorted(options)} go with shapes; a model has its own")
    if not isinstance(work, nn.Module) and inputs:
        raise TypeError(f"inputs go with a model, got {type(work).__name__}")
    if is_busy():
        raise RuntimeError("tune launches and waits: call it before a capture, trace or backward")
    with choice.recorded() as met:
        if isinstance(work, nn.Module):
            _differentiate(work, inputs, order)
        else:
            for shape in work:
                if len(shape) != 4:
                    raise ValueError(f"a shape must be (N, C, H, W), got {tuple(shape)}")
                where = device or ("cuda" if torch.cuda.is_available() else "cpu")
                z = torch.zeros(*shape, dtype=dtype, device=where)
                r = torch.ones(shape[1], device=where)
                warmup(z.to(memory_format=memory_format), r, r, order=order, **options)
    if met:
        return _tuned(met, seconds, again, verbose)
    if verbose:
        print("nothing to tune: nothing here runs on Triton")
    return []


def _differentiate(model: nn.Module, inputs: tuple[Any, ...], order: int) -> None:
    """Run the model and so many orders of its derivatives; gradients stay as they were."""
    with torch.enable_grad():
        found = _tensors(model(*inputs))
        leaves: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        leaves += [x for x in _tensors(inputs) if x.requires_grad]
        for _ in range(order):
            found = [x for x in found if x.requires_grad]
            if not (found and leaves):
                return
            ones = [torch.ones_like(x) for x in found]
            grads = torch.autograd.grad(found, leaves, ones, create_graph=True, allow_unused=True)
            found = [x for x in grads if x is not None]


def _tensors(found: Any) -> list[Tensor]:
    leaves, _ = torch.utils._pytree.tree_flatten(found)
    return [x for x in leaves if isinstance(x, Tensor) and x.is_floating_point()]


def _tuned(met: dict[Problem, Device], seconds: float, again: bool, verbose: bool) -> list[Tuned]:
    from akm_triton.backend import triton as fused
    from akm_triton.tuning import tuner

    where = {fused.describe(x): x for x in _devices()}
    results: list[Tuned] = []
    for device, place in where.items():
        mine = {p: d for p, d in met.items() if d == device}
        bar = _bar(len(mine)) if verbose and mine else None

        def report(tuned: Tuned, bar: Any = bar) -> None:
            if bar is not None:
                bar.set_postfix_str(tuned.problem.key)
                bar.update()

        results += tuner.tune(mine, place, seconds=seconds, again=again, report=report)
        if bar is not None:
            bar.close()
    if verbose:
        print(table(results))
    return results


def _devices() -> list[torch.device]:
    gpus = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    return [*gpus, torch.device("cpu")]


def _bar(total: int) -> Any:
    """tqdm's, where it is installed."""
    if find_spec("tqdm") is None:
        print(f"tuning {total} problems", file=sys.stderr)
        return None
    from tqdm import tqdm

    return tqdm(total=total, desc="tuning", unit="problem")


def table(results: Sequence[Tuned]) -> str:
    """Times before and after, a problem a line."""
    if not results:
        return "nothing to tune: the cache holds it all"
    width = max(len(x.problem.key) for x in results)
    lines = [f"{'problem':{width}}  {'rule µs':>9}  {'tuned µs':>9}  {'rule/tuned':>10}"]
    for x in results:
        ratio = x.rule_seconds / x.seconds
        lines.append(
            f"{x.problem.key:{width}}  {1e6 * x.rule_seconds:9.1f}  {1e6 * x.seconds:9.1f}  "
            f"{ratio:9.2f}×"
        )
    if any(x.clock == "model" for x in results):
        lines.append("(no GPU: times are a model's)")
    return "\n".join(lines)


# AKM_AUTOTUNE=1


def is_busy() -> bool:
    """Whether now is no time to launch, compile and wait: in a capture, a trace or a backward."""
    return (
        torch.compiler.is_compiling()
        or in_backward()
        or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())
    )


_waiting: dict[Problem, Device] = {}


def tune_when_met(problem: Problem, device: Device, where: torch.device, tracing: bool) -> None:
    """Tune the problem where the cache lacks it, and what could not be tuned when it was met."""
    from akm_triton.tuning import tuner

    if problem.key not in choice.cached(device):
        _waiting[problem] = device
    if not _waiting or tracing or is_busy():
        return
    ready = {p: d for p, d in _waiting.items() if d == device}
    for p in ready:
        del _waiting[p]
    tuner.tune(ready, where, seconds=float(os.environ.get("AKM_AUTOTUNE_SECONDS", "30")))


if os.environ.get("AKM_AUTOTUNE") == "1":
    choice.observers.append(tune_when_met)
