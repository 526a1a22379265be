"""The compiled kernels for CPUs: their values against SciPy's, and how they come to be compiled."""

from __future__ import annotations

import ctypes
import errno
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import convolve1d
from torch import Tensor

import akm_triton as akm
from akm_triton import cache
from akm_triton.backend import build, cpu
from akm_triton.backend import torch as torch_backend
from reference import oracle
from tests import fuzz
from tests.common import BORDERS, FAMILIES, random

ROOT = Path(__file__).parents[1]
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Largest error relative to the same sum of absolute values; half precision rounds the result alone.
BOUND = {torch.float32: 1e-6, torch.float64: 1e-14, torch.float16: 2**-11, torch.bfloat16: 2**-8}
MODES = {
    "symmetric": "reflect", "zeros": "constant", "replicate": "nearest", "reflect": "mirror",
    "circular": "wrap",
}  # fmt: skip
# More than a vector of planes, or less; radii beyond the map, and maps of many batches of rows.
SHAPES = [
    ((1, 1, 1, 1), 3), ((2, 3, 1, 40), 2), ((1, 17, 7, 5), 15), ((3, 5, 14, 3), 7),
    ((2, 40, 6, 9), 1), ((1, 24, 33, 70), 3), ((1, 2, 90, 31), 15), ((5, 16, 8, 8), 4),
    ((1, 66, 5, 130), 31),
]  # fmt: skip


if cpu.why_not(torch.float32) is not None:
    pytest.skip(str(cpu.why_not(torch.float32)), allow_module_level=True)


def matrix(taps: NDArray[Any], size: int, border: str) -> NDArray[Any]:
    """T(taps) as SciPy has it: what it makes of each unit vector."""
    window = np.concatenate([taps[:0:-1], taps])
    return np.asarray(convolve1d(np.eye(size), window, axis=0, mode=MODES[border]))


class Exact:
    """z, g and taps in float64, and for each plane the matrices of its taps."""

    def __init__(self, z: Tensor, g: Tensor, t: Tensor, v: Tensor, border: str) -> None:
        n, c, self.h, self.w = z.shape
        self.z, self.g = (x.double().numpy() for x in (z, g))
        full = (2, n, c, t.shape[-1])
        self.t, self.v = (
            np.broadcast_to(
                x.double().numpy() if x.dim() == 4 else x.double().numpy()[:, None], full
            )
            for x in (t, v)
        )
        self.border, self.shape = border, t.shape

    def each(self, function: Any, absolute: bool) -> NDArray[Any]:
        """``function`` of (z, g) and matrices of t and v, plane by plane; or of absolute values."""
        size = abs if absolute else np.asarray
        planes = []
        for n, c in np.ndindex(*self.z.shape[:2]):
            matrices = [
                size(matrix(size(taps[n, c]), side, self.border))
                for pair in (self.t, self.v)
                for taps, side in zip(pair, (self.h, self.w), strict=True)
            ]
            planes.append(function(size(self.z[n, c]), size(self.g[n, c]), *matrices))
        return np.stack(planes).reshape(*self.z.shape[:2], *planes[0].shape)

    def tap_grads(self, absolute: bool) -> NDArray[Any]:
        """By the definition: F with the nth unit vector in the place of the taps."""
        units = np.eye(self.t.shape[-1])
        rows = [matrix(unit, self.h, self.border) for unit in units]
        columns = [matrix(unit, self.w, self.border) for unit in units]

        def grads(z: Any, g: Any, a: Any, b: Any, *_: Any) -> NDArray[Any]:
            return np.stack([
                [np.sum(g * (m @ z @ b.T)) for m in rows],
                [np.sum(g * (a @ z @ m.T)) for m in columns],
            ])  # fmt: skip

        found = np.moveaxis(self.each(grads, absolute), 2, 0)  # (2, N, C, R+1)
        if len(self.shape) == 3:
            found = found.sum(1)
        return found.sum(
            tuple(i for i, n in enumerate(self.shape) if n < found.shape[i]), keepdims=True
        )


def compare(found: Tensor, exact: NDArray[Any], size: NDArray[Any], unit: float) -> None:
    """``size`` is the same sum of absolute values."""
    assert tuple(found.shape) == exact.shape
    error = np.abs(found.double().numpy() - exact)
    assert (error <= unit * size.max() + 1e-30).all(), f"{(error / size.max()).max():.1e}"


LAYOUTS = ("nchw", "channels_last", "sliced", "transposed", "expanded")


def arranged(x: Tensor, layout: str) -> Tensor:
    """The same numbers, but for "expanded", lying in memory in another way."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        return torch.nn.functional.pad(x, (1, 2, 3, 4))[..., 3:-4, 1:-2]
    if layout == "transposed":
        return x.mT.contiguous().mT
    return x[:1, :, :1].expand(x.shape) if layout == "expanded" else x


@pytest.mark.sampled(("dtype", "border"), ("layout", "border"), ("case", "taps"))
@pytest.mark.parametrize("case", SHAPES, ids=str)
@pytest.mark.parametrize("taps", ["one", "channels", "samples"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_op_against_scipy(
    dtype: torch.dtype, border: str, layout: str, taps: str, case: tuple[tuple[int, ...], int]
) -> None:
    shape, radius = case
    n, c = shape[:2]
    exact_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    z, g = (arranged(random(*shape, seed=i, dtype=dtype), layout) for i in (1, 2))
    sizes = {"one": (2, 1), "channels": (2, c), "samples": (2, n, c)}[taps]
    t, v = (random(*sizes, radius + 1, seed=i, dtype=exact_dtype) for i in (3, 4))
    exact, unit = Exact(z, g, t, v, border), BOUND[dtype]
    maps = [
        (cpu.blur(z, t, border), lambda z, g, a, b, c, d: a @ z @ b.T),
        (cpu.blur(z, t, border, True), lambda z, g, a, b, c, d: a.T @ z @ b),
        (cpu.blur_pair(z, t, v, border), lambda z, g, a, b, c, d: a @ z @ d.T + c @ z @ b.T),
        (cpu.blur_pair(z, t, v, border, True), lambda z, g, a, b, c, d: a.T @ z @ d + c.T @ z @ b),
        (cpu.blur_backward(g, z, t, border)[0], lambda z, g, a, b, c, d: a.T @ g @ b),
    ]
    last = z.is_contiguous(memory_format=torch.channels_last)
    for y, wanted in maps:
        assert y.dtype == dtype
        assert y.is_contiguous(
            memory_format=torch.channels_last if last else torch.contiguous_format
        )
        compare(y, exact.each(wanted, False), exact.each(wanted, True), unit)
    for dt in (cpu.tap_grads(g, z, t, border), cpu.blur_backward(g, z, t, border)[1]):
        assert dt.dtype == exact_dtype
        compare(dt, exact.tap_grads(False), exact.tap_grads(True), BOUND[exact_dtype])


@pytest.mark.parametrize(
    ("layout", "shape", "radius"),
    [
        ("channels_last", (2, 21, 12, 11), 2), ("channels_last", (1, 100, 9, 40), 1),
        ("channels_last", (1, 9, 8, 150), 3), ("nchw", (2, 3, 9, 67), 2),
        ("nchw", (1, 1, 40, 130), 7),
    ],
)  # fmt: skip
@pytest.mark.parametrize("border", BORDERS)
def test_maps_that_stay_as_they_lie(
    border: str, layout: str, shape: tuple[int, ...], radius: int, threads: None
) -> None:
    """Vectors and rows that end within a vector, and the last pixels of the memory."""
    for dtype in (torch.float32, torch.float64):
        z = random(*shape, seed=1, dtype=dtype, layout=layout)
        t = random(2, shape[1], radius + 1, seed=2, dtype=dtype)
        exact = Exact(z, z, t, t, border)
        wanted = [exact.each(lambda z, g, a, b, *_: a @ z @ b.T, size) for size in (False, True)]
        compare(cpu.blur(z, t, border), *wanted, BOUND[dtype])


@pytest.mark.sampled(("case", "stride"), ("layout", "border"))
@pytest.mark.parametrize("case", SHAPES, ids=str)
@pytest.mark.parametrize("stride", [(2, 2), (1, 3), (5, 4), (99, 1)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_a_stride_keeps(
    dtype: torch.dtype, border: str, layout: str, stride: tuple[int, int],
    case: tuple[tuple[int, ...], int], monkeypatch: pytest.MonkeyPatch, threads: None,
) -> None:  # fmt: skip
    """SciPy's rows and columns, sliced."""
    no_pytorch(monkeypatch)
    shape, radius = case
    exact_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    z = arranged(random(*shape, seed=1, dtype=dtype), layout)
    t = random(2, shape[1], radius + 1, seed=2, dtype=exact_dtype)
    exact = Exact(z, z, t, t, border)

    def wanted(z: Any, g: Any, a: Any, b: Any, *_: Any) -> Any:
        return (a @ z @ b.T)[:: stride[0], :: stride[1]]

    y = cpu.blur(z, t, border, stride=stride)
    assert y.dtype == dtype
    compare(y, exact.each(wanted, False), exact.each(wanted, True), BOUND[dtype])


@pytest.mark.parametrize("truncate", [None, 2.5])
@pytest.mark.parametrize("radius", [1, 7, 31, 255])
@pytest.mark.parametrize("gaussian", FAMILIES)
def test_taps_and_their_gradient(gaussian: str, radius: int, truncate: float | None) -> None:
    """On both sides of where the series takes over, and where σ is no common number."""
    switch = 0.75 * max(radius, 10)
    r = [0, 1e-30, 1e-3, 0.3, 1, -2.5, radius, switch - 1e-3, switch + 1e-3, 1e4, 1e12, math.nan]
    sigma, s = np.array([*r, math.inf]), np.linspace(-9, 9, 13)
    window = True, radius, gaussian, truncate
    dt = random(2, 13, radius + 1)
    x, y = torch.from_numpy(sigma), torch.from_numpy(s)
    t = cpu.gated_taps(x, y, *window).numpy()
    dr, ds = (d.numpy() for d in cpu.gated_taps_grad(x, y, dt, *window))
    assert np.isnan(t[1, -2:]).all() and np.isnan(dr[-2:]).all()
    sigma, s, dt = sigma[:-2], s[:-2], dt[:, :-2]
    k = oracle.taps(sigma, radius, gaussian=gaussian, truncate=truncate)
    slope = oracle.taps_derivative(sigma, radius, gaussian=gaussian, truncate=truncate)
    gate = 1 / (1 + np.exp(-s))[:, None]
    da, db = dt.numpy()
    np.testing.assert_allclose(t[0, :-2], gate * k, rtol=0, atol=1e-13)
    np.testing.assert_allclose(t[1, :-2], k, rtol=0, atol=1e-13)
    wanted = ((gate * da + db) * slope).sum(-1)
    size = abs(slope).sum(-1) + 1e-13 / (abs(sigma) + 1e-30)
    assert (abs(dr[:-2] - wanted) <= 1e-12 * size + 1e-13 * abs(slope).max()).all()
    np.testing.assert_allclose(ds[:-2], (gate * (1 - gate) * da * k).sum(-1), rtol=0, atol=1e-13)


def test_random_calls() -> None:
    fuzz.run(seed=1000, count=60, backend="cpu")


def test_no_batch_is_no_work() -> None:
    z, t = torch.empty(0, 3, 6, 5), torch.ones(2, 3, 4)
    assert cpu.blur(z, t, "zeros").shape == z.shape
    dz, dt = cpu.blur_backward(z, z, t, "zeros")
    assert dz.shape == z.shape and torch.equal(dt, torch.zeros(2, 3, 4))


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every map is worth two threads."""
    before = torch.get_num_threads()
    monkeypatch.setattr(cpu, "GRAIN", 1)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize(
    "shape", [(3, 40, 9, 8), (1, 40, 40, 6), (1, 5, 61, 7), (1, 1, 33, 9)], ids=str
)
@pytest.mark.parametrize("border", BORDERS)
def test_threads_change_no_bit_of_a_map(
    border: str, shape: tuple[int, ...], layout: str, threads: None
) -> None:
    """Among others or alone, by one thread or two, a plane is computed in one order; the sums of
    its gradients are split where there are fewer planes than threads."""
    z, g = (random(*shape, seed=i, dtype=torch.float32, layout=layout) for i in (1, 2))
    t = random(2, shape[1], 5, seed=3, dtype=torch.float32)
    found = cpu.blur(z, t, border), *cpu.blur_backward(g, z, t, border)
    torch.set_num_threads(1)
    alone = cpu.blur(z, t, border), *cpu.blur_backward(g, z, t, border)
    assert torch.equal(found[0], alone[0]) and torch.equal(found[1], alone[1])
    torch.testing.assert_close(
        found[2], alone[2], rtol=1e-5, atol=1e-5 * float(alone[2].abs().max())
    )
    plane = cpu.blur(z[-1:, -1:], t[:, -1:], border)
    assert torch.equal(plane, alone[0][-1:, -1:].contiguous())


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_taps_too_small_to_be_seen_are_left_out(layout: str) -> None:
    """Subnormal numbers take processors a hundred times as long: none is computed with."""
    z = arranged(torch.ones(1, 20, 40, 40), layout)
    t = torch.tensor([1.0, 1e-20, 1e-22, 1e-40]).expand(2, 1, 4)
    pulse = z * (torch.arange(40) == 20)
    left, all_of_them = (cpu.blur(pulse, x, "zeros") for x in (t[..., :2], t))
    assert torch.equal(left, all_of_them)
    assert (cpu.blur_backward(z, z, t, "zeros")[1] > 1000).all()  # and yet they have gradients
    t = torch.tensor([1.0, 1e-40, math.nan]).expand(2, 1, 3)
    assert cpu.blur(z, t, "zeros").isnan().all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_what_is_not_finite_stays_in_its_plane(layout: str, value: float) -> None:
    z = random(2, 20, 9, 8, dtype=torch.float32, layout=layout)
    t = random(2, 20, 5, seed=1, dtype=torch.float32)
    wanted, exact = cpu.blur(z, t, "reflect"), cpu.blur_backward(z, z, t, "reflect")[1]
    z[1, 7, 4, 4] = value
    y, dt = cpu.blur(z, t, "reflect"), cpu.blur_backward(z, z, t, "reflect")[1]
    hit = torch.zeros(2, 20, dtype=torch.bool)
    hit[1, 7] = True
    assert torch.equal(y[~hit], wanted[~hit]) and not y[1, 7, 4, 4].isfinite()
    assert torch.equal(dt[:, ~hit[1]], exact[:, ~hit[1]]) and not dt[:, 7].isfinite().any()


def test_eight_threads_of_python() -> None:
    z, t = random(2, 20, 30, 31, dtype=torch.float32), random(2, 20, 8, dtype=torch.float32)
    wanted, found = cpu.blur_backward(z, z, t, "symmetric"), [None] * 8

    def call(i: int) -> None:
        for _ in range(20):
            found[i] = cpu.blur_backward(z, z, t, "symmetric")

    workers = [threading.Thread(target=call, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for pair in found:
        assert pair is not None
        assert torch.equal(pair[0], wanted[0]) and torch.equal(pair[1], wanted[1])


def test_in_a_fork(threads: None) -> None:
    """As in the workers of a DataLoader, which have one thread each."""
    z, t = random(4, 20, 30, 31, dtype=torch.float32), random(2, 20, 8, dtype=torch.float32)
    wanted = cpu.blur(z, t, "zeros")
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        os._exit(0 if torch.equal(cpu.blur(z, t, "zeros"), wanted) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def no_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise AssertionError("the PyTorch path")

    for name in ("blur", "blur_pair", "tap_grads", "blur_backward"):
        monkeypatch.setattr(torch_backend, name, refuse)


def test_cpu_tensors_take_this_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every derivative and vmap of the layer."""
    no_pytorch(monkeypatch)
    layer = akm.AKMConv2d(2, 3, 3, border="replicate", max_radius=3).double()
    x = random(1, 2, 6, 5).requires_grad_()
    assert torch.autograd.gradcheck(layer, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(layer, x)
    torch.func.vmap(layer)(random(2, 1, 2, 6, 5))
    with torch.no_grad():
        layer(x)


@pytest.mark.parametrize("asked", ["argument", "environment"])
def test_a_backend_that_is_asked_for(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    z, options = random(1, 2, 6, 5), dict[str, Any]()
    if asked == "argument":
        options = dict(backend="cpu")
    else:
        monkeypatch.setenv("AKM_BACKEND", "cpu")
    wanted = akm.gaussian_blur(z, 1.0, backend="torch")
    no_pytorch(monkeypatch)
    torch.testing.assert_close(akm.gaussian_blur(z, 1.0, **options), wanted)
    with pytest.raises(ValueError, match="backend 'cpu' needs CPU tensors, got z on meta"):
        akm.gaussian_blur(z.to("meta"), 1.0, **options)
    monkeypatch.setenv("AKM_BACKEND", "torch")
    with pytest.raises(AssertionError, match="the PyTorch path"):
        akm.gaussian_blur(z, 1.0)


# How the library comes to be. A script stands for the compiler; it copies what the real one made.


BUILT = cpu._load(torch.float32)
COMPILER = """#!/bin/sh
echo "$@" >> {folder}/calls
for word; do [ "$before" = -o ] && out=$word; before=$word; done
{does}
"""
COPIES = 'cp {folder}/built.so "$out"'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nothing is loaded, and the cache is empty."""
    assert isinstance(BUILT, cpu._Library)
    shutil.copy(BUILT.path, tmp_path / "built.so")
    monkeypatch.setenv("AKM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("AKM_BACKEND", raising=False)
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    cpu._load.cache_clear()
    cache.warn_once.cache_clear()


def compiler(folder: Path, does: str, monkeypatch: pytest.MonkeyPatch, name: str = "c++") -> None:
    script = folder / name
    script.write_text(COMPILER.format(folder=folder, does=does.format(folder=folder)))
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []


def libraries(folder: Path) -> list[Path]:
    return sorted((folder / "cache").glob("*.so"))


def falls_back(reason: str) -> None:
    """The PyTorch path serves, and the reason is given once."""
    z = random(1, 2, 6, 5, dtype=torch.float32)
    with pytest.warns(UserWarning, match=reason) as said:
        y = akm.gaussian_blur(z, 1.0)
        akm.gaussian_blur(z, 2.0)
    assert len(said) == 1 and "AKM_BACKEND=torch" in str(said[0].message)
    assert torch.equal(y, akm.gaussian_blur(z, 1.0, backend="torch"))
    with pytest.raises(RuntimeError, match=reason):
        akm.gaussian_blur(z, 1.0, backend="cpu")


def test_compiled_once_and_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    compiler(folder, COPIES, monkeypatch)
    for _ in range(2):  # the second time as a process that comes later
        assert cpu.why_not(torch.float32) is None
        forget()
    assert len(calls(folder)) == len(libraries(folder)) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("akm_triton: compiling its CPU kernels with")


def test_another_compiler_makes_another_library(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        compiler(folder, COPIES, monkeypatch, name)
        assert cpu.why_not(torch.float32) is None
        forget()
    assert len(calls(folder)) == len(libraries(folder)) == 2


def test_flags_that_a_compiler_refuses_are_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses = 'case "$*" in *-march=native*) exit 1;; esac; '
    compiler(folder, refuses + COPIES, monkeypatch)
    assert cpu.why_not(torch.float32) is None
    tried = [["-march=native" in call, "-fopenmp" in call] for call in calls(folder)]
    assert tried == [[True, True], [True, False], [False, True]]


def test_a_damaged_library_is_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(folder, COPIES, monkeypatch)
    assert cpu.why_not(torch.float32) is None
    (path,) = libraries(folder)
    other = folder / "other"  # the system finds what it has loaded by its path
    other.mkdir()
    (other / path.name).write_bytes(b"nothing")
    monkeypatch.setenv("AKM_CACHE_DIR", str(other))
    forget()
    assert cpu.why_not(torch.float32) is None
    assert len(calls(folder)) == 2


@pytest.mark.parametrize("named", [None, "no-such-compiler -O1"])
def test_no_compiler(named: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder / "nowhere"))
    monkeypatch.delenv("CXX", raising=False)
    if named:
        monkeypatch.setenv("CXX", named)
    falls_back("there is no C\\+\\+ compiler")


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("echo it is full of errors >&2; exit 1", "did not compile ops.cpp: it is full of errors"),
        ("exit 0", "did not compile ops.cpp: no output"),
        ('echo nothing > "$out"', "invalid ELF header|file too short|not a mach-o"),
    ],
    ids=["refuses", "makes nothing", "makes no library"],
)
def test_a_compiler_that_fails(
    does: str, reason: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler(folder, does, monkeypatch)
    falls_back(reason)


def test_a_library_that_computes_wrongly(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(folder, COPIES, monkeypatch)
    made = cpu.build.load

    def wrong(*args: Any) -> Any:
        library = made(*args)
        library.akm_blur = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 0)
        return library

    monkeypatch.setattr(build, "load", wrong)
    falls_back("compute wrongly")


def test_a_cache_that_cannot_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(folder, COPIES, monkeypatch)
    (folder / "cache").write_text("a file")
    falls_back("Not a directory|File exists")
    assert calls(folder) == []


def test_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    compiler(folder, COPIES, monkeypatch)
    monkeypatch.setattr(build, "replace_bytes", full)
    falls_back("No space left")
    assert libraries(folder) == []


LOAD = "from akm_triton.backend import cpu; import torch; assert not cpu.why_not(torch.float32)"


def test_two_processes_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(folder, "sleep 1; " + COPIES, monkeypatch)
    both = [subprocess.Popen([sys.executable, "-c", LOAD], cwd=ROOT) for _ in range(2)]
    assert [process.wait(240) for process in both] == [0, 0]
    assert len(calls(folder)) == len(libraries(folder)) == 1


def test_a_process_that_is_killed_while_it_compiles(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(folder / "started")
    compiler(folder, 'echo > {folder}/started; printf half > "$out"; sleep 600', monkeypatch)
    process = subprocess.Popen([sys.executable, "-c", LOAD], cwd=ROOT, start_new_session=True)
    (folder / "started").read_text()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert libraries(folder) == []
    compiler(folder, COPIES, monkeypatch)
    assert cpu.why_not(torch.float32) is None
