"""The ops on CPU tensors in C++ (``cpp/``), compiled at first use.

z is (N, C, H, W) with any strides; the taps t = [a, b] are (2, 1|C, R+1) or (2, N, C, R+1), centre
tap first. Results are as z in dtype and memory format; half precision is computed in float32. As
many threads as PyTorch may use take part where there is enough work for them.

What is no plain tensor, such as one of a graph that is traced, goes the way of ``torch.py``.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from akm_triton.backend import build
from akm_triton.backend import torch as torch_backend
from akm_triton.backend.layout import (
    Stride,
    along,
    channels_last,
    empty_like,
    format_as,
    is_channels_last,
    tap_strides,
)
from akm_triton.borders import BORDERS
from akm_triton.cache import warn_once
from akm_triton.tracing import PLAIN_TYPES, outside_transforms

SOURCE = Path(__file__).parent / "cpp" / "ops.cpp"
GRAIN = 32768
"""Pixels that are worth a thread, and at most those whose gradients of taps are one sum."""

_Job = ctypes.c_ssize_t * 17
_Numbers = ctypes.Array[ctypes.c_ssize_t]
_NUMBERS = {torch.float32: "float", torch.float64: "double"}


class _Window(ctypes.Structure):
    _fields_ = (
        ("radius", ctypes.c_ssize_t), ("discrete", ctypes.c_ssize_t), ("gated", ctypes.c_ssize_t),
        ("truncate", ctypes.c_double),
    )  # fmt: skip


class _Library(NamedTuple):
    path: str
    lanes: int
    """Planes in a vector."""
    blur: Any
    gradients: Any
    blur_rows: Any
    gradients_of_rows: Any
    taps: Any
    taps_gradients: Any
    modulate: Any
    modulate_gradients: Any


def why_not(dtype: torch.dtype) -> str | None:
    """What keeps maps of this dtype from being computed here; None where nothing does. Compiles, if
    that was never done."""
    found = _load(_computed_in(dtype))
    return found if isinstance(found, str) else None


def serves(dtype: torch.dtype) -> bool:
    """Whether maps of this dtype are computed here; if not, says why, once."""
    reason = why_not(dtype)
    if reason is not None:
        warn_once(
            f"{reason}. CPU tensors take the PyTorch path, which is slower; AKM_BACKEND=torch "
            "chooses it without this warning"
        )
    return reason is None


def _computed_in(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@functools.cache
def _load(dtype: torch.dtype) -> _Library | str:
    """The library for this dtype, or why there is none."""
    number = _NUMBERS[dtype]
    try:
        made = build.load(SOURCE, f"cpu-{number}", f"-DNUMBER={number}")
        library = _Library(
            made._name, made.akm_lanes(), made.akm_blur, made.akm_gradients, made.akm_blur_rows,
            made.akm_gradients_of_rows, made.akm_taps, made.akm_taps_gradients, made.akm_modulate,
            made.akm_modulate_gradients,
        )  # fmt: skip
    except (build.Unavailable, AttributeError) as error:
        return f"akm_triton's CPU kernels are not there: {error}"
    pointer, size = ctypes.c_void_p, ctypes.c_ssize_t
    library.blur.argtypes = [_Job, *[pointer] * 4, size, ctypes.c_int]
    library.gradients.argtypes = [_Job, *[pointer] * 5, size, ctypes.c_int]
    library.blur_rows.argtypes = [_Job, *[pointer] * 3, ctypes.c_int]
    library.gradients_of_rows.argtypes = [_Job, *[pointer] * 5, ctypes.c_int, ctypes.c_int]
    library.taps.argtypes = [ctypes.POINTER(_Window), *[pointer] * 3, size]
    library.taps_gradients.argtypes = [ctypes.POINTER(_Window), *[pointer] * 5, size]
    told = [_Job, ctypes.POINTER(_Window)]
    library.modulate.argtypes = [*told, *[pointer] * 5, size, ctypes.c_int]
    library.modulate_gradients.argtypes = [*told, *[pointer] * 8, size, ctypes.c_int]
    wrong = f"akm_triton's CPU kernels in {library.path} compute wrongly"
    return library if _is_right(library, dtype) else wrong


def _is_right(library: _Library, dtype: torch.dtype) -> bool:
    """Whether it computes a small case to the bit: a compiler may have made anything."""
    z, g = (np.arange(float(n), n + 60.0).reshape(1, 3, 5, 4) for n in (1, 7))
    t = np.arange(12.0).reshape(2, 1, 6)  # up to beyond the map

    def moved(x: Any, n: int, axis: int) -> Any:
        return x if n == 0 else np.roll(x, n, axis) + np.roll(x, -n, axis)

    def blurred(x: Any, taps: Any, axis: int) -> Any:
        return sum(tap * moved(x, n, axis) for n, tap in enumerate(taps))

    (a, b), taps = t[:, 0], range(t.shape[-1])
    u, v = blurred(z, b, 3), blurred(g, a, 2)
    of_a, of_b = ([np.sum(x * moved(y, n, i)) for n in taps] for x, y, i in ((g, u, 2), (v, z, 3)))
    with outside_transforms():
        maps, other, table = (torch.from_numpy(x).to(dtype) for x in (z, g, t))
        y = _blur(library, maps, table, None, "circular", False)
        dz, dt = _gradients(library, other, maps, table, "circular", True)
        row = _blur_rows(library, maps, table[1], 3, "circular", False)
        dx, db = _gradients_of_rows(library, other, maps, table[1], 5, 3, "circular", False)
        of_row = [np.sum(g * moved(z, n, 3)) for n in taps]
        return (
            np.array_equal(row.numpy(), u)
            and np.array_equal(dx.numpy(), blurred(g, b, 3))
            and np.array_equal(db.numpy().sum(0), of_row)
            and np.array_equal(y.numpy(), blurred(u, a, 2))
            and np.array_equal(dz.numpy(), blurred(v, b, 3))
            and np.array_equal(dt.numpy()[:, 0], [of_a, of_b])
        )


# The ops.


def blur(
    z: Tensor, t: Tensor, border: str, adjoint: bool = False, stride: Stride = (1, 1)
) -> Tensor:
    """y = T(a) z T(b)ᵀ, or with ``adjoint`` T(a)ᵀ z T(b); of its rows and columns those that
    ``stride`` keeps; the others are not computed."""
    library = None if adjoint and stride != (1, 1) else _library_for(z, t)
    if library is None:
        return torch_backend.blur(z, t, border, adjoint, stride)
    return _blur(library, z, t, None, border, adjoint, stride)


def blur_pair(z: Tensor, t: Tensor, v: Tensor, border: str, adjoint: bool = False) -> Tensor:
    """T(a) z T(d)ᵀ + T(c) z T(b)ᵀ, or its adjoint, with v = [c, d]."""
    library = _library_for(z, t, v)
    if library is None:
        return torch_backend.blur_pair(z, t, v, border, adjoint)
    return _blur(library, z, t, v, border, adjoint)


def tap_grads(g: Tensor, z: Tensor, t: Tensor, border: str) -> Tensor:
    """[∂F/∂a, ∂F/∂b] of F = ⟨g, T(a) z T(b)ᵀ⟩, shaped as t."""
    library = _library_for(g, z, t)
    if library is None:
        return torch_backend.tap_grads(g, z, t, border)
    return _gradients(library, g, z, t, border, False)[1]


def blur_backward(g: Tensor, z: Tensor, t: Tensor, border: str) -> tuple[Tensor, Tensor]:
    """(∂F/∂z, [∂F/∂a, ∂F/∂b]) of F = ⟨g, T(a) z T(b)ᵀ⟩, with ∂F/∂z = T(a)ᵀ g T(b)."""
    library = _library_for(g, z, t)
    if library is None:
        return torch_backend.blur_backward(g, z, t, border)
    return _gradients(library, g, z, t, border, True)


# Along one axis, 2 or 3, of z; a is (1|C, R+1) or (N, C, R+1).


def blur_axis(
    z: Tensor, a: Tensor, axis: int, border: str, adjoint: bool = False, stride: int = 1
) -> Tensor:
    """T(a), or with ``adjoint`` T(a)ᵀ, along one axis; of this what ``stride`` keeps."""
    library = None if adjoint and stride > 1 else _library_for(z, a)
    if library is None:
        return torch_backend.blur_axis(z, a, axis, border, adjoint, stride)
    return _blur_rows(library, z, a, axis, border, adjoint, stride)


def axis_grads(
    g: Tensor, z: Tensor, radius: int, axis: int, border: str, by_sample: bool
) -> Tensor:
    """∂F/∂a of F = ⟨g, T(a) z⟩ for each channel, (C, R+1), or of each sample too, (N, C, R+1)."""
    library = _library_for(g, z)
    if library is None:
        return torch_backend.axis_grads(g, z, radius, axis, border, by_sample)
    return _gradients_of_rows(library, g, z, None, radius, axis, border, by_sample)[1]


def axis_backward(g: Tensor, z: Tensor, a: Tensor, axis: int, border: str) -> tuple[Tensor, Tensor]:
    """(∂F/∂z, ∂F/∂a), the latter shaped as a."""
    library = _library_for(g, z, a)
    if library is None:
        return torch_backend.axis_backward(g, z, a, axis, border)
    options = a.shape[-1] - 1, axis, border, a.dim() == 3
    dz, grads = _gradients_of_rows(library, g, z, a, *options)
    return dz, grads.sum_to_size(a.shape).to(a.dtype)


# σ and s, and the map; for plain tensors alone. r and s are of one shape, in the dtype of the
# computation.


def modulate(
    z: Tensor, r: Tensor, s: Tensor, border: str,
    gated: bool, max_radius: int, gaussian: str, truncate: float | None, stride: Stride,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(y, t): ``gated_taps`` and then ``blur``."""
    library = _loaded(r.dtype)
    x, last = _packed(z, z, library)
    r, s, y = r.contiguous(), s.contiguous(), empty_like(x, stride)
    t = r.new_empty((2, *r.shape, max_radius + 1))
    job, threads = _job(library, x.shape, last, t.shape[1:], border, False, stride)
    _check(
        library.modulate(
            job, _window(gated, max_radius, gaussian, truncate), x.data_ptr(), r.data_ptr(),
            s.data_ptr(), t.data_ptr(), y.data_ptr(), r.numel(), threads,
        )
    )  # fmt: skip
    return _as(z, y, last), t


def modulate_backward(
    g: Tensor, z: Tensor, r: Tensor, s: Tensor, t: Tensor, border: str, of_map: bool,
    gated: bool, max_radius: int, gaussian: str, truncate: float | None,
) -> tuple[Tensor | None, Tensor, Tensor]:  # fmt: skip
    """(dz or None, dr, ds), with the taps t of ``modulate``."""
    library = _loaded(r.dtype)
    x, last = _packed(z, z, library)
    dy, _ = _packed(g, z, library)
    r, s = r.contiguous(), s.contiguous()
    dx = torch.empty_like(x) if of_map else None
    dr, ds = torch.empty_like(r), torch.empty_like(r)
    job, threads = _job(library, x.shape, last, t.shape[1:], border, False, (1, 1), sums=True)
    _check(
        library.modulate_gradients(
            job, _window(gated, max_radius, gaussian, truncate), dy.data_ptr(), x.data_ptr(),
            r.data_ptr(), s.data_ptr(), t.data_ptr(), None if dx is None else dx.data_ptr(),
            dr.data_ptr(), ds.data_ptr(), r.numel(), threads,
        )
    )  # fmt: skip
    return None if dx is None else _as(z, dx, last), dr, ds


def gated_taps(
    r: Tensor, s: Tensor, gated: bool, max_radius: int, gaussian: str, truncate: float | None
) -> Tensor:
    """[a, b] = [sigmoid(s) k(|r|), k(|r|)], or [k, k] without the gate: (2, *r.shape, R+1)."""
    r, s = r.contiguous(), s.contiguous()
    t = r.new_empty((2, *r.shape, max_radius + 1))
    window = _window(gated, max_radius, gaussian, truncate)
    pointers = r.data_ptr(), s.data_ptr(), t.data_ptr()
    _check(_loaded(r.dtype).taps(window, *pointers, r.numel()))
    return t


def gated_taps_grad(
    r: Tensor, s: Tensor, dt: Tensor,
    gated: bool, max_radius: int, gaussian: str, truncate: float | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(dr, ds) from the gradient of both taps, (2, *r.shape, R+1)."""
    r, s, dt = r.contiguous(), s.contiguous(), dt.contiguous()
    dr, ds = torch.empty_like(r), torch.empty_like(r)
    window = _window(gated, max_radius, gaussian, truncate)
    pointers = r.data_ptr(), s.data_ptr(), dt.data_ptr(), dr.data_ptr(), ds.data_ptr()
    _check(_loaded(r.dtype).taps_gradients(window, *pointers, r.numel()))
    return dr, ds


@functools.lru_cache(256)
def _window(gated: bool, max_radius: int, gaussian: str, truncate: float | None) -> _Window:
    return _Window(max_radius, gaussian == "discrete", gated, truncate or 0.0)


def _loaded(dtype: torch.dtype) -> _Library:
    found = _load(dtype)
    assert not isinstance(found, str)
    return found


def _library_for(*tensors: Tensor) -> _Library | None:
    """The library, if all of these are numbers in memory."""
    for x in tensors:
        # a subclass that hears of operators may stand for anything
        plain = type(x) in PLAIN_TYPES or type(x).__torch_dispatch__ is Tensor.__torch_dispatch__
        if not plain or not x.is_cpu or x.data_ptr() == 0:
            return None
    found = _load(_computed_in(tensors[0].dtype))
    return None if isinstance(found, str) else found


def _blur(
    library: _Library, z: Tensor, t: Tensor, v: Tensor | None, border: str, adjoint: bool,
    stride: Stride = (1, 1),
) -> Tensor:  # fmt: skip
    x, last = _packed(z, z, library)
    t, step = _taps(t, x)
    y = empty_like(x, stride)
    job, threads = _job(library, x.shape, last, t.shape[1:], border, adjoint, stride)
    other = None if v is None else _taps(v, x)[0]
    _check(
        library.blur(
            job, x.data_ptr(), y.data_ptr(), t.data_ptr(),
            None if other is None else other.data_ptr(), step, threads,
        )
    )  # fmt: skip
    return _as(z, y, last)


def _gradients(
    library: _Library, g: Tensor, z: Tensor, t: Tensor, border: str, of_map: bool
) -> tuple[Any, Tensor]:
    """(∂F/∂z or None, ∂F/∂t)"""
    x, last = _packed(z, z, library)
    dy, _ = _packed(g, z, library)
    taps, step = _taps(t, x)
    dx = torch.empty_like(x) if of_map else None
    job, threads = _job(library, x.shape, last, t.shape[1:], border, False, (1, 1), sums=True)
    bands, together = job[11], job[16]
    grads = x.new_empty(2, bands, -(-x.shape[0] // together), x.shape[1], t.shape[-1])
    _check(
        library.gradients(
            job, dy.data_ptr(), x.data_ptr(), None if dx is None else dx.data_ptr(),
            taps.data_ptr(), grads.data_ptr(), step, threads,
        )
    )  # fmt: skip
    grads = (grads.sum(1) if bands > 1 else grads[:, 0]) if t.dim() == 4 else grads.sum((1, 2))
    grads = grads.sum_to_size(t.shape).to(t.dtype)
    return None if dx is None else _as(z, dx, last), grads


class _Rows(NamedTuple):
    """How a call along one axis goes through dense maps x: as rows along which T goes."""

    x: Tensor
    samples: int
    channels: int
    rows: int
    columns: int
    last: bool
    row_step: int
    pixel_step: int
    by_plane: bool
    """Whether a sample here is a plane, all of whose channels share its taps."""

    def job(
        self,
        radius: int,
        taps: Tensor | None,
        border: str,
        adjoint: bool,
        bands: int,
        stride: int = 1,
    ) -> _Numbers:
        rule, strides = BORDERS.index(border), (0, 0)
        if self.by_plane:
            strides = radius + 1, 0
        elif taps is not None:
            strides = tap_strides(taps.shape)
        return _Job(
            self.samples, self.channels, self.rows, self.columns, self.last, radius, *strides,
            rule, rule, adjoint, bands, self.row_step, self.pixel_step, 1, stride, 1,
        )  # fmt: skip

    def taps(self, a: Tensor) -> Tensor:
        """a as the job reads it."""
        a = a.to(self.x.dtype)
        return (a.expand(*self.x.shape[:2], -1) if self.by_plane else a).contiguous()

    def shares(self, library: _Library) -> tuple[int, int]:
        """How many threads take part, and in how many bands they cut the rows of a plane."""
        threads = min(torch.get_num_threads(), -(-self.x.numel() // GRAIN))
        if self.last:
            vectors = self.samples * -(-self.channels // library.lanes)
        else:
            vectors = -(-self.samples * self.channels // library.lanes)
        return threads, max(1, min(-(-threads // vectors), self.rows))


def _rows(z: Tensor, axis: int, library: _Library, grads: bool) -> _Rows | None:
    """None where columns are too few for a vector: as rows of the transposed map they are faster.

    Down the columns of contiguous maps, columns that lie side by side are what channels are in
    channels_last. Along their rows, a blur takes rows for planes, of which there are more; sums of
    gradients belong to a plane.
    """
    x, last = _packed(z, z, library)
    n, c, h, w = x.shape
    if last:
        shape = (h, w, w * c, c) if axis == 3 else (w, h, c, w * c)
        return _Rows(x, n, c, shape[0], shape[1], True, shape[2], shape[3], False)
    if axis == 2:
        return _Rows(x, n * c, w, 1, h, True, 0, w, True) if 2 * w > library.lanes else None
    if grads:
        return _Rows(x, n, c, h, w, False, 0, 0, False)
    return _Rows(x, n * c, h, 1, w, False, 0, 0, True)


def _blur_rows(
    library: _Library, z: Tensor, a: Tensor, axis: int, border: str, adjoint: bool, stride: int = 1
) -> Tensor:
    rows = _rows(z, axis, library, grads=False)
    if rows is None:
        y = _blur_rows(library, z.mT.contiguous(), a, 3, border, adjoint, stride)
        return _as(z, y.mT.contiguous())
    y, taps = empty_like(rows.x, along(axis, stride)), rows.taps(a)
    threads, bands = rows.shares(library)
    job = rows.job(a.shape[-1] - 1, taps, border, adjoint, bands, stride)
    _check(library.blur_rows(job, rows.x.data_ptr(), y.data_ptr(), taps.data_ptr(), threads))
    return _as(z, y)


def _gradients_of_rows(
    library: _Library, g: Tensor, z: Tensor, a: Tensor | None, radius: int, axis: int, border: str,
    by_sample: bool,
) -> tuple[Any, Tensor]:  # fmt: skip
    """(∂F/∂z, or None without a; ∂F/∂a, (N, C, R+1) or (C, R+1))"""
    rows = _rows(z, axis, library, grads=True)
    if rows is None:
        turned = g.mT.contiguous(), z.mT.contiguous()
        dz, grads = _gradients_of_rows(library, *turned, a, radius, 3, border, by_sample)
        return None if dz is None else _as(z, dz.mT.contiguous()), grads
    x = rows.x
    dy, _ = _packed(g, z, library)
    dx, taps = (None, None) if a is None else (torch.empty_like(x), rows.taps(a))
    threads, bands = rows.shares(library)
    parts = -(-rows.channels // library.lanes) if rows.by_plane else 1
    sums = x.new_empty(bands, x.shape[0], x.shape[1], parts, radius + 1)
    _check(
        library.gradients_of_rows(
            rows.job(radius, taps, border, False, bands), dy.data_ptr(), x.data_ptr(),
            None if dx is None else dx.data_ptr(), None if taps is None else taps.data_ptr(),
            sums.data_ptr(), rows.by_plane, threads,
        )
    )  # fmt: skip
    grads = sums.sum((0, 3) if by_sample else (0, 1, 3))
    return None if dx is None else _as(z, dx), grads


def _check(status: int) -> None:
    if status:
        raise MemoryError("no memory for the rows of a map that are computed together")


# What a call is told.


def _packed(x: Tensor, z: Tensor, library: _Library) -> tuple[Tensor, bool]:
    """x in the dtype of the computation, dense in the layout that serves maps like z, and whether
    that is channels_last."""
    x = x.to(_computed_in(z.dtype))
    # a vector of few channels would be empty for the most part
    last = 2 * z.shape[1] > library.lanes and is_channels_last(z)
    if last:
        return (x if x is z or is_channels_last(x) else channels_last(x)), True
    return x.contiguous(), False


def _as(z: Tensor, y: Tensor, last: bool = False) -> Tensor:
    """y in the dtype and memory format of z; ``last`` tells that both are in channels_last."""
    kept = y.dtype == z.dtype and (last or not is_channels_last(z))
    return y if kept else format_as(z, y)


def _taps(t: Tensor, x: Tensor) -> tuple[Tensor, int]:
    """t in the dtype of x, and how far b lies from a."""
    t = t.to(x.dtype).contiguous()
    return t, t.numel() // 2


def _job(library: _Library, *options: Any, sums: bool = False) -> tuple[_Numbers, int]:
    """For maps of a shape, and how many threads take part."""
    return _job_for(torch.get_num_threads(), library.lanes, sums, *options)


@functools.lru_cache(1024)
def _job_for(
    threads: int, lanes: int, sums: bool, shape: torch.Size, last: bool, taps: torch.Size,
    border: str, adjoint: bool, stride: Stride,
) -> tuple[_Numbers, int]:  # fmt: skip
    n, c, h, w = shape
    radius, rule = taps[-1] - 1, BORDERS.index(border)
    by_sample, by_channel = tap_strides(taps)
    threads = min(threads, -(-shape.numel() // GRAIN))
    vectors, bands = -(-n * c // lanes), 1
    if threads > vectors and border != "circular" and h > 2 * radius:
        # of a band that is no higher than its borders, most would be computed twice
        bands = max(1, min(-(-threads // vectors), h // (2 * radius + 2)))
    together = 1
    if sums and not by_sample and (last or c % lanes == 0):
        together = max(1, min(n, GRAIN // (lanes * h * w)))
    job = _Job(
        n, c, h, w, last, radius, by_sample, by_channel, rule, rule, adjoint, bands, w * c, c,
        *stride, together,
    )  # fmt: skip
    return job, threads
