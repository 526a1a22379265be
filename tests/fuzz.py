"""Random calls of ``modulate`` and ``gaussian_blur``, values and first derivatives, against the
oracle: any shape, layout, dtype and option, σ from 0 to 1e20, half precision up to its largest
number, and fresh memory full of NaN.

    python -m tests.fuzz --count 5000
    TRITON_INTERPRET=1 python -m tests.fuzz --count 500 --backend triton

A failure names the seed of its case: ``--seed N --count 1`` repeats it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

import akm_triton as akm
from reference import oracle
from tests.common import BORDERS, FAMILIES

Array = NDArray[np.float64]

LAYOUTS = ("nchw", "channels_last", "sliced", "transposed", "expanded", "constant", "offset")
SIGMAS = (0.0, 1e-30, 1e-4, 0.01, 0.3, 1e3, 1e6, 1e10, 1e15, 1e19, 1e20)
DTYPES = {
    "torch": (torch.float16, torch.bfloat16, torch.float32, torch.float64),
    "cpu": (torch.float16, torch.bfloat16, torch.float32, torch.float64),
    "triton": (torch.float16, torch.bfloat16, torch.float32),
}
# Largest error of a result, relative to the same sum of absolute values. Half precision rounds the
# taps of both axes, the map between them and the result.
BOUND = {
    torch.float16: 4 * 2**-11, torch.bfloat16: 4 * 2**-8, torch.float32: 4e-6,
    torch.float64: 1e-12,
}  # fmt: skip


@dataclass
class Case:
    z: Tensor
    g: Tensor
    r: Tensor
    s: Tensor | None
    options: dict[str, Any]

    def __str__(self) -> str:
        maps = f"z {tuple(self.z.shape)} {self.z.dtype} strides {self.z.stride()}"
        return f"{maps}, r {self.r.tolist()}, s {self.s}, {self.options}"


def draw(seed: int, backend: str) -> Case:
    random = np.random.default_rng(seed)

    def any_of(values: Any) -> Any:
        return values[random.integers(len(values))]

    n, c = random.integers(1, 4), any_of((1, 2, 3, 5, 9))
    longest = 90 if backend != "triton" else any_of((12, 12, 40, 90))
    h, w = (int(longest ** random.uniform()) for _ in range(2))
    dtype = any_of(DTYPES[backend])
    radius = int(any_of((1, 2, 3, 5, 7, 15, 15, 31)))
    shapes = ((), (1,), (c,), (n, c))
    r = torch.as_tensor(_sigmas(random, any_of(shapes), radius))
    s = torch.as_tensor(random.normal(0, any_of((1, 3, 30)), any_of(shapes)))
    parameters = torch.float64 if dtype == torch.float64 else torch.float32
    return Case(
        z=_map(random, (n, c, h, w), dtype, any_of(LAYOUTS)),
        g=_map(random, (n, c, h, w), dtype, any_of(LAYOUTS)),
        r=r.to(parameters),
        s=any_of((s.to(parameters), s.to(parameters), None)),
        options=dict(
            gaussian=any_of(FAMILIES), border=any_of(BORDERS), max_radius=radius,
            truncate=any_of((None, None, 3.0, random.uniform(0.5, 5), math.inf)),
        ),
    )  # fmt: skip


def _sigmas(random: np.random.Generator, shape: tuple[int, ...], radius: int) -> Array:
    special = np.array([*SIGMAS, radius, 2 * radius, 6 * radius, 0.75 * max(radius, 10)])
    common = random.uniform(0, radius, shape)
    sigma = np.where(random.uniform(size=shape) < 0.5, random.choice(special, shape), common)
    return sigma * random.choice([-1.0, 1.0], shape)


def _map(
    random: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype, layout: str
) -> Tensor:
    """A map of any magnitude; in half precision up to the largest number."""
    n, c, h, w = shape
    larger = {
        "sliced": (n, c + 2, h + 3, w + 1), "transposed": (n, c, w, h), "expanded": (1, c, h, w),
        "constant": (1, 1, 1, 1),
    }.get(layout, shape)  # fmt: skip
    values = random.uniform(-1, 1, larger)
    largest = torch.finfo(dtype).max if dtype == torch.float16 else 1e12
    size = largest if random.uniform() < 0.3 else 10.0 ** random.uniform(-3, 3)
    if random.uniform() < 0.1:
        values = np.sign(values[:1, :1, :1, :1]) + np.zeros(larger)
    x = torch.from_numpy(values * size).to(dtype)
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        return x[:, 1 : c + 1, 2 : h + 2, :w]
    if layout == "transposed":
        return x.mT
    if layout == "offset":  # no wide access is aligned
        return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(shape)
    return x.expand(shape)


@contextmanager
def poisoned() -> Iterator[None]:
    """Fresh memory is NaN, so that what a kernel leaves unwritten shows."""
    makers = {name: getattr(torch, name) for name in ("empty", "empty_like")}

    def poison(name: str) -> Any:
        return lambda *args, **options: makers[name](*args, **options).fill_(math.nan)

    with mock.patch.multiple(torch, **{name: poison(name) for name in makers}):
        yield


def check(case: Case, backend: str) -> None:
    """Compute the case and compare.

    Raises:
        AssertionError: a result is wrong; says which, and by how much.
    """
    inputs = [x.detach().requires_grad_() for x in (case.z, case.r, case.s) if x is not None]
    with poisoned():
        if case.s is None:
            y = akm.gaussian_blur(inputs[0], inputs[1], backend=backend, **case.options)
        else:
            y = akm.modulate(*inputs, backend=backend, **case.options)
        found = [y.detach(), *torch.autograd.grad(y, inputs, case.g)]
    for name, mine, (wanted, bound) in zip(
        "y dz dr ds".split(), found, _wanted(case), strict=False
    ):
        assert mine.dtype == (case.z if name in ("y", "dz") else case.r).dtype, name
        assert mine.shape == wanted.shape, name
        fits = np.abs(wanted) < torch.finfo(mine.dtype).max
        error = np.where(fits, np.abs(mine.double().numpy() - wanted), 0)
        assert (error <= bound).all(), f"{name} is off by {(error / bound).max():.2g} bounds"


def _wanted(case: Case) -> Iterator[tuple[Array, Array]]:
    """y, dz, dr and ds of the oracle, each with the largest error that rounding explains."""
    dtype, options = case.z.dtype, case.options
    unit, eps = BOUND[dtype], torch.finfo(case.r.dtype).eps
    tiny = 4 * torch.finfo(dtype).tiny * torch.finfo(dtype).eps  # between the smallest numbers
    z, g = case.z.double().numpy(), case.g.double().numpy()
    n, c = z.shape[:2]
    border, radius = options["border"], options["max_radius"]
    shape = (n, c)
    r = np.broadcast_to(case.r.double().numpy(), shape)
    truncate = None if options["truncate"] == math.inf else options["truncate"]
    window = dict(gaussian=options["gaussian"], truncate=truncate)
    k = oracle.taps(r, radius, **window)
    slope = oracle.taps_derivative(r, radius, **window)
    s = np.zeros(shape) if case.s is None else np.broadcast_to(case.s.double().numpy(), shape)
    gate = np.ones(shape) if case.s is None else 1 / (1 + np.exp(-s))
    # an exponential is as exact as its argument: to |s| times the rounding of s
    unit_map = (unit + abs(s) * eps)[..., None, None]

    def plane_max(x: Array) -> Array:
        return x.max((-1, -2), keepdims=True)

    a = gate[..., None] * k
    for x, adjoint in ((z, False), (g, True)):
        size = plane_max(oracle.blur(abs(x), a, k, border, adjoint=adjoint))
        # of a box the centre tap is 1 less all others; a gate may be too small for its dtype
        taps = 4 * (eps * gate + torch.finfo(case.r.dtype).tiny)[..., None, None]
        taps = taps * plane_max(abs(x))
        yield oracle.blur(x, a, k, border, adjoint=adjoint), unit_map * size + taps + tiny
    da, db = oracle.tap_grads(g, z, a, k, border)
    size_a, size_b = oracle.tap_grads(abs(g), abs(z), a, k, border)
    # what half precision loses of the maps between the products, in Tᵀ up to 16 times as large
    lost = 16 * tiny * (abs(z).sum((-1, -2)) + abs(g).sum((-1, -2)))[..., None]
    size = (gate[..., None] * size_a + size_b + lost / unit).sum(-1)
    # where the cut leaves one tap its slope is zero, but the difference of two numbers of this size
    rounding = 16 * eps / (abs(r) + 1 / np.maximum(abs(r), 1e-30))
    bound = size * (4 * unit * abs(slope).max(-1) + rounding)
    dr = ((gate[..., None] * da + db) * slope).sum(-1)
    yield oracle.sum_to(dr, case.r.shape), oracle.sum_to(bound + 1e-30, case.r.shape)
    if case.s is not None:
        rise = gate * (1 - gate)
        size = ((size_a + lost / unit) * k).sum(-1)
        bound = unit * size * rise + eps * size
        ds = rise * (da * k).sum(-1)
        yield oracle.sum_to(ds, case.s.shape), oracle.sum_to(bound, case.s.shape)


def run(seed: int, count: int, backend: str, progress: bool = False) -> None:
    for number in tqdm(range(seed, seed + count), disable=not progress):
        case = draw(number, backend)
        try:
            check(case, backend)
        except AssertionError as error:
            raise AssertionError(f"seed {number}: {error}; {case}") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--backend", choices=DTYPES, default="torch")
    args = parser.parse_args()
    run(args.seed, args.count, args.backend, progress=True)
    print(f"{args.count} cases of the {args.backend} backend: no failure")


if __name__ == "__main__":
    main()
