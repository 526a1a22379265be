"""``akm_triton.tune``, which tunes on request; and ``AKM_AUTOTUNE=1``, which tunes each new
problem."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from akm_triton.functional import warmup
from akm_triton.launch import choice
from akm_triton.launch.device import Device
from akm_triton.launch.problem import Problem
from akm_triton.tracing import in_backward

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

    The plans go into the user's cache and are used from then on, by this process and by all later
    ones on the same kind of device with the same Triton and the same package. Without tuning a rule
    chooses. A candidate can win only if its results agree with plain PyTorch in float64.

    Args:
        work: a model, which is run forward and backward on ``inputs``; its parameters and their
            gradients stay as they are, its buffers change as in any forward. Or an iterable of
            shapes ``(N, C, H, W)`` of maps.
        inputs: of the model.
        order: of the highest derivative to tune for; 0 for the forward alone.
        seconds: about how long one problem, an op on maps of one shape, may take.
        again: also measure what the cache holds already.
        dtype, memory_format, device: of the maps, where shapes are given.
        verbose: print progress and a table of times before and after.
        options: of ``modulate``, where shapes are given: ``max_radius``, ``border``, ...

    Returns:
        A ``Tuned`` for each problem measured: ``problem``, ``plan``, ``seconds`` and
        ``rule_seconds`` a run, and every ``trial``. Empty where nothing runs on Triton.

    Raises:
        TypeError: ``work`` is neither a module nor shapes; inputs given with shapes, or options
            with a model.
        ValueError: ``order`` is negative or ``seconds`` is not positive; else as ``modulate``.
        RuntimeError: a CUDA graph is being captured or ``torch.compile`` is tracing.

    Example:
        >>> import akm_triton as akm
        >>> layer = akm.AKMConv2d(3, 8, 3)
        >>> akm.tune(layer, torch.zeros(2, 3, 16, 16), verbose=False)  # CPU tensors: no kernels
        []
    """
    if not isinstance(work, nn.Module | Iterable):
        raise TypeError(
            f"work must be a module or an iterable of shapes (N, C, H, W), got {work!r}"
        )
    if isinstance(order, bool) or not isinstance(order, int):
        raise TypeError(f"order must be an int, got {order!r}")
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
    with choice.record() as launched:
        if isinstance(work, nn.Module):
            _differentiate(work, inputs, order)
        else:
            for shape in work:
                if not isinstance(shape, Sequence) or len(shape) != 4:
                    raise ValueError(f"a shape must be (N, C, H, W), got {shape!r}")
                device = device or ("cuda" if torch.cuda.is_available() else "cpu")
                z = torch.zeros(*shape, dtype=dtype, device=device)
                r = torch.ones(shape[1], device=device)
                warmup(z.to(memory_format=memory_format), r, r, order=order, **options)
    if launched:
        return _tune(launched, seconds, again, verbose)
    if verbose:
        print("nothing to tune: none of this runs on Triton")
    return []


def _differentiate(model: nn.Module, inputs: tuple[Any, ...], order: int) -> None:
    """Run the model and so many orders of its derivatives; gradients stay as they were."""
    with torch.enable_grad():
        outputs = _tensors(model(*inputs))
        leaves: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        leaves += [x for x in _tensors(inputs) if x.requires_grad]
        for _ in range(order):
            outputs = [x for x in outputs if x.requires_grad]
            if not (outputs and leaves):
                return
            ones = [torch.ones_like(x) for x in outputs]
            grads = torch.autograd.grad(outputs, leaves, ones, create_graph=True, allow_unused=True)
            outputs = [x for x in grads if x is not None]


def _tensors(tree: Any) -> list[Tensor]:
    leaves, _ = torch.utils._pytree.tree_flatten(tree)
    return [x for x in leaves if isinstance(x, Tensor) and x.is_floating_point()]


def _tune(
    launched: dict[Problem, torch.device], seconds: float, again: bool, verbose: bool
) -> list[Tuned]:
    """Measured where they were launched, which of several equal GPUs is the one in use."""
    from akm_triton.tuning import tuner

    results: list[Tuned] = []
    for torch_device in dict.fromkeys(launched.values()):
        problems = [p for p, where in launched.items() if where == torch_device]
        bar = _bar(len(problems)) if verbose else None

        def report(tuned: Tuned, bar: Any = bar) -> None:
            if bar is not None:
                bar.set_postfix_str(tuned.problem.key)
                bar.update()

        results += tuner.tune(problems, torch_device, seconds=seconds, again=again, report=report)
        if bar is not None:
            bar.close()
    if verbose:
        print(render(results))
    return results


def _bar(total: int) -> Any:
    """tqdm's, where it is installed."""
    if find_spec("tqdm") is None:
        print(f"tuning {total} problems", file=sys.stderr)
        return None
    from tqdm import tqdm

    return tqdm(total=total, desc="tuning", unit="problem")


def render(results: Sequence[Tuned]) -> str:
    """A line for each problem: its time before and after."""
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
    if any(x.clock == "bytes" for x in results):
        lines.append("(no GPU: not times, but bytes asked for at 1 TB/s)")
    return "\n".join(lines)


# AKM_AUTOTUNE

_SWITCH = {"1": True, "true": True, "yes": True, "on": True,
           "": False, "0": False, "false": False, "no": False, "off": False}  # fmt: skip


def autotune_is_on() -> bool:
    """Whether ``AKM_AUTOTUNE`` asks for tuning; refuses what is neither yes nor no."""
    value = os.environ.get("AKM_AUTOTUNE", "")
    if value.lower() not in _SWITCH:
        raise ValueError(f"AKM_AUTOTUNE must be 1, true, yes or on, or unset, got {value!r}")
    return _SWITCH[value.lower()]


def autotune_seconds() -> float:
    """``AKM_AUTOTUNE_SECONDS``, about the longest that one problem may take."""
    value = os.environ.get("AKM_AUTOTUNE_SECONDS", "30")
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f"AKM_AUTOTUNE_SECONDS must be a positive number, got {value!r}")
    return seconds


def is_busy() -> bool:
    """Whether this is no time to launch, compile and wait: in a capture, a trace or a backward."""
    return (
        torch.compiler.is_compiling()
        or in_backward()
        or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())
    )


_waiting: dict[Problem, Device] = {}
_failed: set[tuple[Device, str]] = set()
"""What this process could not tune, by key: it is not tried again."""


def autotune(problem: Problem, device: Device, torch_device: torch.device, tracing: bool) -> None:
    """Tune the problem where the cache lacks it, and with it all that had to wait until now.

    Under torch.distributed the first process of a machine tunes what it meets itself. The others
    wait for nothing, since it may never meet what they do: they look into its file and go on.
    """
    if not _is_settled(problem, device):
        _waiting[problem] = device
    if not _waiting or tracing or is_busy():
        return
    from akm_triton.tuning import tuner

    ready = {p: d for p, d in _waiting.items() if d == device}
    for p in ready:
        del _waiting[p]
    if not tuner.leads():
        choice.reload(device)
        return
    tuner.tune(ready, torch_device, seconds=autotune_seconds())
    _failed.update((device, p.key) for p in ready if not _is_settled(p, device))


def _is_settled(problem: Problem, device: Device) -> bool:
    """Whether there is nothing left to try for it."""
    if choice.choose(problem, device).origin == "cache":
        return True
    return bool(_failed) and (device, problem.key) in _failed


if autotune_is_on():
    autotune_seconds()  # refuse a bad number now rather than in the middle of a training
    choice.observers.append(autotune)
