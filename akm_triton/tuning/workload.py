"""Tensors to measure a problem on, and the results it should have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from akm_triton import backend
from akm_triton.gaussian import gaussian_taps
from akm_triton.launch.plan import Plan
from akm_triton.launch.problem import Problem
from akm_triton.tuning.compiler import KernelCall

torch_backend, triton_backend = backend.get("torch"), backend.get("triton")

# Of the largest value: candidates differ by rounding alone.
TOLERANCE = {2: 2e-2, 4: 1e-4}
ELEMENTS = 1 << 24  # compared at a time, in float64


class Workload:
    """An op on random maps. ``copies`` of them take turns, so that none is found in a cache."""

    def __init__(
        self, problem: Problem, device: torch.device, copies: int = 1,
        dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        self.problem, self.device, self.copies = problem, device, copies
        draw = torch.Generator(device).manual_seed(0)  # the user's random numbers stay
        dtype = dtype or (torch.float16 if problem.is_16bit else torch.float32)
        memory = torch.channels_last if problem.channels_last else torch.contiguous_format
        shape = (problem.n, problem.c, problem.h, problem.w)

        def maps() -> Tensor:
            x = torch.randn(shape, generator=draw, device=device, dtype=torch.float32)
            return x.to(dtype, memory_format=memory)

        self.z = [maps() for _ in range(copies)]
        self.g = [maps() for _ in range(copies)] if "da" in problem.outputs else self.z
        channels = (problem.n, problem.c) if problem.per_sample else (problem.c,)
        sigma = torch.rand(channels, generator=draw, device=device) * problem.radius / 2 + 0.3
        k = gaussian_taps(sigma, problem.radius)
        along = torch.randn(k.shape, generator=draw, device=device) * k
        t, v = torch.stack([0.7 * k, k]), torch.stack([along, k])
        self.taps: Any = (t, v) if problem.pair else (t,)

    def run(self, plan: Plan | None = None, turn: int = 0) -> tuple[Tensor, ...]:
        """The results by this plan, or by the one that is launched by default."""
        z, g, p = self.z[turn % self.copies], self.g[turn % self.copies], self.problem
        if p.op == "tap_grads":
            return (triton_backend.tap_grads(g, z, *self.taps, p.border, plan),)
        if p.op == "blur_backward":
            return triton_backend.blur_backward(g, z, *self.taps, p.border, plan)
        if p.pair:
            return (triton_backend.blur_pair(z, *self.taps, p.border, p.adjoint, plan),)
        return (triton_backend.blur(z, *self.taps, p.border, p.adjoint, plan, p.stride),)

    def launches(self, plan: Plan) -> list[KernelCall]:
        """What ``run`` would launch."""
        calls: list[KernelCall] = []
        with triton_backend.launching(lambda *a, **k: calls.append(KernelCall(*a, **k))):
            self.run(plan)
        return calls

    def error(self, results: tuple[Tensor, ...]) -> float:
        """The largest error of the first copy's results, over their largest value: against plain
        PyTorch in float64, which shares no code with the kernels."""
        p, worst = self.problem, 0.0
        grads: Tensor | None = None
        count = max(1, ELEMENTS // (p.c * p.h * p.w))
        for start in range(0, p.n, count):
            images = slice(start, start + count)
            z, g = self.z[0][images].double(), self.g[0][images].double()
            own_taps: Any = [(t[:, images] if p.per_sample else t).double() for t in self.taps]
            if "da" in p.outputs:
                taps = torch_backend.tap_grads(g, z, *own_taps, p.border)
                if p.per_sample:
                    worst = max(worst, _distance(results[-1][:, images], taps))
                else:
                    grads = taps if grads is None else grads + taps
                want = (
                    torch_backend.blur(g, *own_taps, p.border, True) if "dz" in p.outputs else None
                )
            elif p.pair:
                want = torch_backend.blur_pair(z, *own_taps, p.border, p.adjoint)
            else:
                want = torch_backend.blur(z, *own_taps, p.border, p.adjoint, p.stride)
            if want is not None:
                worst = max(worst, _distance(results[0][images], want))
        return worst if grads is None else max(worst, _distance(results[-1], grads))


def _distance(result: Tensor, wanted: Tensor) -> float:
    """NaN counts as infinitely far."""
    distance = (result.double() - wanted).abs().amax() / wanted.abs().amax().clamp(min=1e-30)
    return float(torch.nan_to_num(distance, nan=torch.inf))
