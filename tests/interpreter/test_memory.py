"""What the Triton path allocates, saves, launches and reads of the device: counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import akm_triton as akm
from akm_triton.backend import prepared
from akm_triton.backend import triton as triton_backend
from akm_triton.backend.launcher import Launcher
from akm_triton.launch.device import Device
from tests.modes import Watch


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The kernels that would be launched on an H200, by name; none is."""
    monkeypatch.setattr(prepared, "describe", lambda _: Device("sm_90", 132, 90, 232_448))
    log: list[str] = []

    def note(kernel: Any, *args: Any, NEED_DZ: bool = False, **constants: Any) -> None:
        log.append(kernel.fn.__name__ + ("(dz)" if NEED_DZ else ""))

    with triton_backend.launching(note):
        yield log


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_nothing_grows_with_the_map_but_y_dz_and_scratch(
    dtype: torch.dtype, layout: str, launches: list[str]
) -> None:
    """At 32×256×56×56; the launches are counted, not run. Launches of one axis each need a map of
    scratch, and two in a gradient, and for some there are many partial sums."""
    whole = layout == "nchw"  # a launch of tiles forward, and in half precision backward
    tiles = whole and dtype == torch.float16
    memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    z = torch.zeros(32, 256, 56, 56, dtype=dtype).contiguous(memory_format=memory)
    z.requires_grad_()
    r, s = (torch.ones(256, requires_grad=True) for _ in range(2))
    size = z.nbytes
    with Watch() as forward:
        y = akm.modulate(z, r, s, backend="triton")
    assert forward.bytes.count(size) == 1 + (not whole)  # y
    assert sum(x for x in forward.bytes if x != size) < size / 100
    blurs = ["blur_kernel"] if whole else ["down_blur_kernel"] * 2
    assert launches == ["gated_taps_kernel", *blurs]
    launches.clear()

    g = torch.zeros_like(z)
    with Watch() as backward:
        y.backward(g)
    assert backward.bytes.count(size) == 1 + 2 * (not tiles)  # dz
    assert sum(x for x in backward.bytes if x != size) < size / (100 if tiles else 3)
    assert launches.count("gated_taps_grad_kernel") == 1
    if tiles:
        assert launches == ["grad_kernel(dz)", "gated_taps_grad_kernel"]
        assert backward.ops.count("aten.sum") <= 1  # of partial gradients, where there are any


def test_second_order_costs_at_most_three_times_the_first(launches: list[str]) -> None:
    """Maps read and written by the derivative of all gradients along a direction, against those of
    forward and backward, in half precision where one launch computes all gradients."""
    maps = {"blur_kernel": 2, "grad_kernel": 2, "grad_kernel(dz)": 3}
    z = torch.zeros(32, 64, 28, 28, dtype=torch.float16, requires_grad=True)
    r, s = (torch.ones(64, requires_grad=True) for _ in range(2))
    g = torch.zeros_like(z, requires_grad=True)

    def cost(watch: Watch) -> tuple[int, int]:
        """(maps read and written, launches)"""
        made = [op for op, size in watch.made if size == z.nbytes]
        assert set(made) <= {"aten.empty_like", "aten.add"}
        traffic = sum(maps.get(x, 0) for x in launches) + 3 * made.count("aten.add")
        count = len(launches) + sum(watch.ops.count(op) for op in ("aten.add", "aten.sum"))
        launches.clear()
        return traffic, count

    with Watch() as first:
        y = akm.modulate(z, r, s, backend="triton")
        grads = torch.autograd.grad(y, (z, r, s), g, create_graph=True)
    assert cost(first) == (5, 5)
    directions = [torch.zeros_like(x) for x in grads]
    with Watch() as second:
        torch.autograd.grad(grads, (g, z, r, s), directions)
    assert launches.count("blur_kernel") == 3 and launches.count("grad_kernel") == 2
    assert cost(second) == (13, 13)


@pytest.mark.sampled
@pytest.mark.parametrize(("radius", "maps"), [(3, 2), (31, 5)])
@pytest.mark.parametrize("view", ["slice", "expanded", "transposed"])
def test_views_and_the_gradient_of_a_sum_are_not_copied(
    view: str, radius: int, maps: int, launches: list[str]
) -> None:
    """y, dz and the scratch of launches of one axis each: one map forward, two backward."""
    base = torch.zeros(16, 16, 56, 56, requires_grad=True)
    z = {
        "slice": base[:, ::2],
        "expanded": base[:1, :8].expand(16, -1, -1, -1),
        "transposed": base[:, :8].mT,
    }[view]
    size = z.numel() * z.element_size()
    r, s = (torch.ones(8, requires_grad=True) for _ in range(2))
    with Watch() as watch:
        y = akm.modulate(z, r, s, max_radius=radius, backend="triton")
        torch.autograd.grad(y.sum(), (z, r, s))
    assert watch.bytes.count(size) == maps
    assert sum(x for x in watch.bytes if x != size) < size / 10


def test_no_order_computes_what_nobody_asks_for(launches: list[str]) -> None:
    """Maps that need no gradient: two orders of r and s take no blur but the forward."""
    z, g = torch.zeros(2, 3, 12, 12), torch.zeros(2, 3, 12, 12)
    r, s = (torch.ones(3, requires_grad=True) for _ in range(2))
    y = akm.modulate(z, r, s, backend="triton")
    first = torch.autograd.grad(y, (r, s), g, create_graph=True)
    forward = ["gated_taps_kernel", "blur_kernel"]
    # to be differentiated again, the taps are computed again
    assert launches == [*forward, "gated_taps_kernel", "grad_kernel", "gated_taps_grad_kernel"]
    launches.clear()
    torch.autograd.grad(first, (r, s), [torch.ones_like(x) for x in first])
    assert launches == ["gated_taps_grad_grad_kernel", "grad_kernel", "gated_taps_grad_kernel"]


def test_backward_keeps_z_and_the_tables() -> None:
    z = torch.randn(2, 3, 8, 8, requires_grad=True)
    r, s = (torch.ones(3, requires_grad=True) for _ in range(2))
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        akm.modulate(z, r, s, backend="triton")
    assert sorted(x.numel() for x in saved) == sorted([z.numel(), 2 * 3 * 16, 3, 3])


@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")  # the interpreter's own maximum
@pytest.mark.parametrize(
    "shape", [(2, 3, 8, 8), pytest.param((1, 2, 40, 70), marks=pytest.mark.whole)]
)
def test_no_launch_depends_on_data(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels, grids, strides and tiles of two orders are the same whatever σ is, NaN included:
    a CUDA graph replays them right."""
    launch, log = Launcher.__call__, []

    def logged(self: Launcher, *tensors: Tensor) -> None:
        shapes = [x.shape for x in tensors]
        constants = {k: x.shape if isinstance(x, Tensor) else x for k, x in self.constants.items()}
        log.append((self.kernel.__name__, self.programs, self.arguments, shapes, constants))
        launch(self, *tensors)

    monkeypatch.setattr(Launcher, "__call__", logged)
    seen = []
    for sigma in (0.0, 0.3, 9.0, float("nan")):
        r = torch.full(shape[1:2], sigma, requires_grad=True)
        s = torch.ones(shape[1], requires_grad=True)
        z = torch.randn(shape, requires_grad=True)
        with Watch():
            y = akm.modulate(z, r, s, backend="triton")
            first = torch.autograd.grad(y.square().sum(), (z, r, s), create_graph=True)
            torch.autograd.grad(sum(x.square().sum() for x in first), (z, r, s))
        seen.append(log.copy())
        log.clear()
    assert len(seen[0]) > 10 and all(launches == seen[0] for launches in seen)


def test_offsets_beyond_31_bits() -> None:
    """Rows 2²⁶ apart: the last lies 2.6 · 10⁹ elements from the first."""
    storage = torch.empty(3 * 2**30, dtype=torch.float16)  # hardly touched, hardly there
    z = storage.as_strided((1, 1, 40, 8), (0, 0, 2**26, 1))
    z.copy_(torch.randn(1, 1, 40, 8))
    table = torch.rand(1, 4)
    y = triton_backend.blur(z, torch.stack([table, table]), "symmetric", False)
    assert torch.equal(
        y, triton_backend.blur(z.contiguous(), torch.stack([table, table]), "symmetric", False)
    )


def test_columns_beyond_31_bits() -> None:
    """Columns 2²⁶ apart, along which one axis is blurred alone, and its gradients."""
    storage = torch.empty(3 * 2**30, dtype=torch.float16)
    z = storage.as_strided((1, 1, 8, 40), (0, 0, 1, 2**26))
    z.copy_(torch.randn(1, 1, 8, 40))
    for f in (
        lambda x: triton_backend.blur_axis(x, torch.ones(1, 4), 3, "symmetric", False),
        lambda x: triton_backend.axis_grads(x, x, 3, 3, "symmetric", False),
    ):
        assert torch.equal(f(z), f(z.contiguous()))
