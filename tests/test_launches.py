"""Launches through Triton's own launcher, into a driver that launches nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import akm_triton as akm
from akm_triton.backend import triton as triton_backend
from akm_triton.launch import choice
from akm_triton.launch.device import H200
from akm_triton.launch.plan import to_json
from akm_triton.launch.problem import Problem
from bench import launch as bench_launch
from bench import stub

pytestmark = pytest.mark.skipif(stub.why_not() is not None, reason=str(stub.why_not()))


def inputs(*shape: int, dtype: torch.dtype = torch.float16) -> list[Tensor]:
    return [torch.randn(shape).to(dtype), torch.ones(shape[1]), torch.zeros(shape[1])]


def trained(z: Tensor, r: Tensor, s: Tensor, **options: Any) -> None:
    """One step, forward and backward, of every launch in ordinary training."""
    leaves = [x.detach().requires_grad_() for x in (z, r, s)]
    y = akm.modulate(*leaves, backend="triton", **options)
    torch.autograd.grad(y, leaves, torch.ones_like(y))


@pytest.fixture
def launches() -> Iterator[list[stub.Launch]]:
    found: list[stub.Launch] = []
    with stub.driver(H200, found.append):
        yield found


@pytest.fixture
def ordinary(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that were launched by Triton's ordinary way."""
    from akm_triton.backend.launcher import Launcher

    choice.prepared.clear()
    found, launch = [], Launcher._ordinary

    def noted(self: Launcher, tensors: tuple[Tensor, ...]) -> None:
        found.append(self.kernel.__name__)
        launch(self, tensors)

    monkeypatch.setattr(Launcher, "_ordinary", noted)
    return found


STEP = ["gated_taps_kernel", "blur_kernel", "grad_kernel", "gated_taps_grad_kernel"]


def test_a_launch_is_handed_over_as_the_driver_gets_it(launches: list[stub.Launch]) -> None:
    z, r, s = inputs(3, 4, 14, 14)
    y = akm.modulate(z, r, s, backend="triton")
    taps, blur = launches
    assert (taps.kernel.name, taps.grid) == ("gated_taps_kernel", (4, 1, 1))
    assert taps.parameters[:2] == (r.data_ptr(), s.data_ptr())
    assert blur.kernel.name == "blur_kernel" and ".target sm_90a" in blur.kernel.ptx
    assert blur.block == (32 * blur.kernel.num_warps, 1, 1)
    assert blur.shared == blur.kernel.shared > 0
    assert blur.parameters[0] == z.data_ptr() and blur.parameters[2] == y.data_ptr()
    assert blur.parameters[4:8:3] == taps.parameters[2:4]  # a and b
    assert len(blur.kernel.types) == len(blur.parameters)


def test_a_callback_that_fails_fails_the_launch() -> None:
    def fail(launch: stub.Launch) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), stub.driver(H200, fail):
        akm.modulate(*inputs(1, 1, 14, 14), backend="triton")
    with pytest.raises(ValueError, match="needs CUDA tensors"):
        akm.modulate(*inputs(1, 1, 14, 14), backend="triton")


def described(launches: list[stub.Launch]) -> list[Any]:
    """Everything of the launches, with addresses by the order in which they appear, or as distances
    from the one before within a launch."""
    known: dict[int, int] = {}
    found = []
    for launch in launches:
        parameters: list[Any] = []
        for kind, value in zip(launch.kernel.types, launch.parameters, strict=True):
            if kind == "u64" and value:
                parameters.append(("address", known.setdefault(value, len(known))))
            else:
                parameters.append(value)
        found.append((*launch._replace(parameters=()), parameters))
    return found


def test_one_axis_is_prepared_for_the_dtypes_of_both_maps(
    launches: list[stub.Launch], ordinary: list[str]
) -> None:
    """A cotangent may be of another dtype than the map."""
    z = inputs(3, 4, 14, 14)[0]
    for g in (z.float(), z, z.float(), z):
        triton_backend.axis_grads(g, z, 3, 2, "symmetric", False)
    assert [x.kernel.ptx for x in launches[:2]] == [x.kernel.ptx for x in launches[2:]]
    assert launches[0].kernel.ptx != launches[1].kernel.ptx and len(ordinary) == 2


@pytest.mark.parametrize("kind", ["nchw", "channels_last", "sliced", "per sample"])
def test_the_short_way_launches_what_the_ordinary_way_does(
    kind: str, launches: list[stub.Launch], ordinary: list[str]
) -> None:
    options: dict[str, Any] = dict(border="reflect", max_radius=7) if kind == "sliced" else {}
    z, r, s = inputs(3, 8, 14, 24)
    if kind == "channels_last":
        z = z.contiguous(memory_format=torch.channels_last)
    elif kind == "sliced":
        z, r, s = z[:, ::2], r[::2], s[::2]
    elif kind == "per sample":
        r, s = r.expand(3, 8), s.expand(3, 8)
    trained(z, r, s, **options)
    first = launches.copy()
    assert len(ordinary) == len(first) >= 4
    launches.clear()
    ordinary.clear()
    trained(z, r, s, **options)
    assert ordinary == [] and described(launches) == described(first)
    launches.clear()
    other = torch.empty_strided(z.shape, z.stride(), dtype=z.dtype)
    y = akm.modulate(other, r, s, backend="triton", **options)
    parameters = launches[1].parameters
    assert ordinary == [] and (parameters[0], parameters[2]) == (other.data_ptr(), y.data_ptr())


def test_less_aligned_tensors_go_the_ordinary_way(
    launches: list[stub.Launch], ordinary: list[str]
) -> None:
    z, r, s = inputs(2, 4, 14, 24)
    memory = torch.empty(z.numel() + 8, dtype=z.dtype)
    for start, expected in (
        (0, ["gated_taps_kernel", "blur_kernel"]),
        (1, ["blur_kernel"]),
        (8, []),
    ):
        z = memory[start : start + z.numel()].view(z.shape)
        akm.modulate(z, r, s, backend="triton")
        assert ordinary == expected and launches[-1].parameters[0] == z.data_ptr()
        ordinary.clear()
    aligned, misaligned, again = (x.kernel for x in launches[1::2])
    assert aligned is again is not misaligned


def test_who_listens_to_launches_hears_them(ordinary: list[str]) -> None:
    from triton import knobs

    heard: list[str] = []

    def listen(metadata: Any) -> None:
        heard.append(metadata.get()["name"])

    example = inputs(2, 4, 14, 24)
    with stub.driver(H200):
        trained(*example)
        for hook in (knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook):
            hook.add(listen)
            try:
                trained(*example)
            finally:
                hook.remove(listen)
            assert heard == STEP
            heard.clear()
        ordinary.clear()
        trained(*example)
    assert heard == ordinary == []


def test_on_an_unknown_triton_every_launch_is_ordinary(
    launches: list[stub.Launch], ordinary: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from akm_triton.backend import launcher

    monkeypatch.setattr(launcher, "TRIED", False)
    for _ in range(2):
        trained(*inputs(1, 3, 14, 24))
    assert ordinary == [launch.kernel.name for launch in launches] == 2 * STEP


def test_a_batch_of_any_size_runs_the_same_kernels(launches: list[stub.Launch]) -> None:
    """Compiled once each, and found by what compiles ahead."""
    import triton

    from akm_triton.backend import triton as triton_backend
    from akm_triton.tuning.compiler import KernelCall, compile_call

    for n in (1, 2, 16, 17, 256):
        trained(*inputs(n, 8, 14, 14))
    kernels = {id(launch.kernel): launch.kernel for launch in launches}
    assert [kernel.name for kernel in kernels.values()] == STEP
    calls: list[KernelCall] = []
    with triton_backend.launching(lambda *x, **y: calls.append(KernelCall(*x, **y)), H200):
        trained(*inputs(1, 8, 14, 14))
    if triton.__version__ < "3.7":
        return  # there the key has more in it
    ahead = [compile_call(call, H200.capability).hash for call in calls]
    assert ahead == [kernel.hash for kernel in kernels.values()]


def test_a_new_plan_is_launched_at_once(
    launches: list[stub.Launch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AKM_CACHE_DIR", str(tmp_path))
    example = inputs(2, 8, 14, 14)
    problem = Problem("blur", 2, 8, 14, 14, 15, "symmetric", 2, False)
    try:
        akm.modulate(*example, backend="triton")
        (launch,) = choice.choose(problem, H200).plan
        warps = 2 * launch.config.num_warps
        changed = replace(launch.config, num_warps=warps, registers=104)
        plan = (replace(launch, config=changed),)
        choice.commit(H200, {problem.key: {"plan": to_json(plan)}})
        akm.modulate(*example, backend="triton")
    finally:
        choice.forget()
    before, after = launches[1::2]
    assert after.block[0] == 2 * before.block[0]
    assert ".maxnreg 104" in after.kernel.ptx


# by Triton 3.9, of the kernel that is launched the plain way
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION is unset:UserWarning")
def test_bench_launch_measures_every_call(tmp_path: Path) -> None:
    bench_launch.main(["--quick", "--out", str(tmp_path)])
    (path,) = tmp_path.glob("*/launch.json")
    rows = {row["call"]: row for row in json.loads(path.read_text())["rows"]}
    assert len(rows) == 5
    for row in rows.values():
        assert row["status"] == "ok" and 0 < row["p20"] <= row["p50"] <= row["p80"] < 1
    assert rows[bench_launch.IDENTITY]["of_identity"] == 1
