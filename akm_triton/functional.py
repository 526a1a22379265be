"""``modulate`` and ``gaussian_blur``: argument checks and documentation over the ops."""

from __future__ import annotations

import numbers
import os
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from akm_triton import backend as backends
from akm_triton import modulation
from akm_triton.borders import BORDERS
from akm_triton.gaussian import check_dense, check_window, is_number
from akm_triton.launch.problem import MAX_RADIUS
from akm_triton.sharding import replicated
from akm_triton.tracing import is_batched, sizes

_HAS_TRITON = find_spec("triton") is not None


def check_options(
    gaussian: str, border: str, truncate: float | None, max_radius: int
) -> tuple[float | None, int]:
    """Raise for an option that means nothing, naming it; returns truncate as a float or None, and
    max_radius as an int."""
    if border not in BORDERS:
        raise ValueError(f"border must be one of {BORDERS}, got {border!r}")
    return check_window(gaussian, truncate, max_radius)


def check_pair(name: str, value: Any, least: int) -> tuple[int, int]:
    """Raise for what is no int, for rows and columns alike, or pair of ints; returns a pair."""
    a, b = check_each(name, value, least, 2)
    return a, b


_COUNTED = {1: "", 2: " or a pair of ints", 3: " or three ints"}


def check_each(name: str, value: Any, least: int, count: int) -> tuple[int, ...]:
    """``check_pair`` for so many axes, 1 to 3."""
    given = isinstance(value, (tuple, list)) and len(value) == count
    each = tuple(value) if given else (value,) * count
    for x in each:
        if type(x) is not int and (isinstance(x, bool) or not isinstance(x, numbers.Integral)):
            raise TypeError(f"{name} must be an int{_COUNTED[count]}, got {value!r}")
        if x < least:
            raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return tuple(map(int, each))


Axes = int | tuple[int, ...]

SHAPES = {
    1: "(N, C, L) or (C, L)",
    2: "(N, C, H, W) or (C, H, W)",
    3: "(N, C, D, H, W) or (C, D, H, W)",
}
"""Of what has so many axes that can be blurred."""


def _check_axes(axes: Any) -> tuple[int, ...]:
    """Raise for what are no axes counted from the last, -1 to -3; returns them as given."""
    given = tuple(axes) if isinstance(axes, (tuple, list)) else (axes,)
    if not all(isinstance(x, numbers.Integral) and not isinstance(x, bool) for x in given):
        raise TypeError(f"axes must be an int or a tuple of ints, got {axes!r}")
    if not given or len({*given}) < len(given) or not all(-3 <= x <= -1 for x in given):
        raise ValueError(
            f"axes must be some of -1, -2 and -3, counted from the last, each once, got {axes!r}"
        )
    return tuple(map(int, given))


def _check_map(z: Tensor, axes: tuple[int, ...] | None) -> tuple[torch.Size, int]:
    """Raise for what is no signal, map or volume; returns its shape, and how many of its axes are
    behind the channels."""
    if not isinstance(z, Tensor):
        raise TypeError(f"z must be a Tensor, got {type(z).__name__}")
    check_dense("z", z)
    if not z.is_floating_point() or z.element_size() < 2:
        raise TypeError(f"z must be float16, bfloat16, float32 or float64, got {z.dtype}")
    shape = sizes(z)
    rank = len(shape)
    if axes is None:
        count = 3 if rank == 5 else 2
    else:
        count = min(max(-min(axes), rank - 2), 3)
    if rank not in (count + 1, count + 2):
        raise ValueError(f"z must be {SHAPES[count]}, got shape {tuple(shape)}")
    if 0 in shape[-count - 1 :]:
        what = "rows and columns" if count == 2 else "pixels"
        raise ValueError(f"z must have channels, {what}, got shape {tuple(shape)}")
    return shape, count


def _from_number(name: str, x: Any, z: Tensor) -> Tensor:
    if not is_number(x):
        raise TypeError(f"{name} must be a Tensor or a number, got {type(x).__name__}")
    dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
    # filled on the device: for a copy to it the host would wait
    return replicated(torch.full((1,), float(x), dtype=dtype, device=z.device), z)


def _as_op_takes(name: str, x: Any, z: Tensor, of_map: torch.Size, count: int = 2) -> Tensor:
    """r or s as (1|C,) or (N, C); raises for what does not belong to z, of shape ``of_map`` with
    ``count`` axes behind the channels."""
    if not isinstance(x, Tensor):
        return _from_number(name, x, z)
    check_dense(name, x)
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {x.dtype}")
    if x.device != z.device:
        raise ValueError(f"{name} is on {x.device} but z is on {z.device}; move one of them")
    shape, c = sizes(x), of_map[-1 - count]
    rank = len(shape)
    if rank == 0:
        return x.reshape(1)
    # axis by axis: a comparison of shapes compares N with C too, which a graph would then depend on
    if rank == 1 and (shape[0] == c or shape[0] == 1):
        return x
    n = of_map[0] if len(of_map) == count + 2 else 1
    if rank != 2 or shape[0] not in (1, n) or shape[1] not in (1, c):
        raise ValueError(
            f"{name} must have shape (), (1,), ({c},) or ({n}, {c}) for z of shape "
            f"{tuple(of_map)}, got {tuple(shape)}"
        )
    if shape[0] == 1:
        return x[0]
    return x if shape[1] == c else x.expand(-1, c)


def _choose_backend(backend: str | None, z: Tensor, max_radius: int) -> str:
    """The name of the backend asked for, or of the one that serves z."""
    asked = backend or os.environ.get("AKM_BACKEND") or None
    if asked is None:
        if z.is_cuda:
            return "triton" if _why_not_triton(z, max_radius) is None else "torch"
        # a graph is to hold PyTorch's operations, which a compiler can fuse
        compiled = z.is_cpu and not torch.compiler.is_compiling()
        return "cpu" if compiled and backends.load("cpu").serves(z.dtype) else "torch"
    if asked not in backends.BACKENDS:
        source = "backend" if backend else "AKM_BACKEND"
        raise ValueError(f"{source} must be one of {backends.BACKENDS}, got {asked!r}")
    refusal = None
    if asked == "triton":
        refusal = _why_not_triton(z, max_radius)
    elif asked == "cpu":
        refusal = _why_not_cpu(z)
    if refusal is not None:
        raise refusal
    return asked


def _why_not_cpu(z: Tensor) -> Exception | None:
    """What keeps the compiled kernels for CPUs from taking z; None where nothing does."""
    if not z.is_cpu:
        return ValueError(f"backend 'cpu' needs CPU tensors, got z on {z.device}")
    if torch.compiler.is_compiling():
        return None
    reason = backends.load("cpu").why_not(z.dtype)
    return None if reason is None else RuntimeError(f"backend 'cpu' does not serve here: {reason}")


def _why_not_triton(z: Tensor, max_radius: int) -> Exception | None:
    """What keeps the Triton kernels from taking z; None where nothing does."""
    if not _HAS_TRITON:
        return ImportError("backend 'triton' needs the package triton; pip install triton")
    if z.dtype == torch.float64:
        return TypeError("backend 'triton' takes float16, bfloat16 and float32, got float64")
    if max_radius > MAX_RADIUS:
        return ValueError(f"backend 'triton' takes max_radius up to {MAX_RADIUS}, got {max_radius}")
    if not (z.is_cuda or backends.load("triton").takes(z)):
        return ValueError(
            f"backend 'triton' needs CUDA tensors, got z on {z.device}; to interpret kernels "
            "on the CPU set TRITON_INTERPRET=1 before the first import of triton"
        )
    return None


def _autocast_dtype(z: Tensor, *parameters: Tensor) -> torch.dtype | None:
    """The dtype that autocast gives a convolution of z, or None where it gives none."""
    device = z.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return None
    if device == "cpu" and is_batched(z, *parameters):
        return None  # vmap turns conv2d into aten.convolution, which only other devices cast
    return z.dtype if z.dtype == torch.float64 else torch.get_autocast_dtype(device)


def _apply(
    z: Tensor, r: Any, s: Any, name: str, gaussian: str, border: str,
    truncate: float | None, max_radius: int, stride: int | tuple[int, ...], axes: Axes | None,
    backend: str | None,
) -> Tensor:  # fmt: skip
    """Check everything, then call the op. ``name`` is what the caller calls r; without s there is
    no gate."""
    truncate, max_radius = check_options(gaussian, border, truncate, max_radius)
    many = isinstance(r, (tuple, list)) or (isinstance(z, Tensor) and z.dim() == 5)
    if many or axes is not None:
        return _apply_along(
            z, r, s, name, gaussian, border, truncate, max_radius, stride, axes, backend
        )
    stride = check_pair("stride", stride, 1)
    of_map, _ = _check_map(z, None)
    r = _as_op_takes(name, r, z, of_map)
    if s is not None:
        s = _as_op_takes("s", s, z, of_map)
    autocast = _autocast_dtype(z, r, r if s is None else s)
    z = z if autocast is None else z.to(autocast)
    chosen = _choose_backend(backend, z, max_radius)
    dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
    r = r if r.dtype == dtype else r.to(dtype)  # a call of ``to`` takes as long as all the checks
    if s is not None:
        s = s if s.dtype == dtype else s.to(dtype)
        if r.dim() != s.dim() or sizes(r) != sizes(s):
            r, s = torch.broadcast_tensors(r, s)
    batch = z if len(of_map) == 4 else z[None]
    y = modulation.modulate(batch, r, s, border, chosen, max_radius, gaussian, truncate, stride)
    return y if len(of_map) == 4 else y[0]


def _apply_along(
    z: Tensor, r: Any, s: Any, name: str, gaussian: str, border: str, truncate: float | None,
    max_radius: int, stride: int | tuple[int, ...], axes: Axes | None, backend: str | None,
) -> Tensor:  # fmt: skip
    """``_apply`` to signals and volumes, along some axes, or with an r for each."""
    of_last = None if axes is None else _check_axes(axes)
    of_map, count = _check_map(z, of_last)
    of_last = of_last or tuple(range(-count, 0))
    steps = check_each("stride", stride, 1, len(of_last))
    each = list(r) if isinstance(r, (tuple, list)) else [r]
    if isinstance(r, (tuple, list)) and len(r) != len(of_last):
        raise ValueError(
            f"{name} must be one for all axes or a tuple of one for each, {len(of_last)} here, got "
            f"{len(r)}"
        )
    each = [_as_op_takes(name, x, z, of_map, count) for x in each]
    if s is not None:
        s = _as_op_takes("s", s, z, of_map, count)
    autocast = _autocast_dtype(z, *each, *([] if s is None else [s]))
    z = z if autocast is None else z.to(autocast)
    chosen = _choose_backend(backend, z, max_radius)
    dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
    tensors = [x.to(dtype) for x in (each if s is None else [*each, s])]
    tensors = list(torch.broadcast_tensors(*tensors))
    each, s = tensors[: len(each)], tensors[-1] if s is not None else None
    batched = len(of_map) == count + 2
    batch = z if batched else z[None]
    order = sorted(range(len(of_last)), key=of_last.__getitem__)
    one = not isinstance(r, (tuple, list)) or len(each) == 1
    y = modulation.modulate_along(
        batch, tuple(of_last[i] + count + 2 for i in order),
        each[0] if one else [each[i] for i in order], s, border, chosen, max_radius, gaussian,
        truncate, tuple(steps[i] for i in order),
    )  # fmt: skip
    return y if batched else y[0]


Sigma = Tensor | float | tuple[Tensor | float, ...]
"""Of all axes, or one for each."""


def _overridden(z: Any, r: Any, *s: Any) -> tuple[Any, ...]:
    """The arguments that may be of a class with functions of its own."""
    return (z, *r, *s) if isinstance(r, (tuple, list)) else (z, r, *s)


def modulate(
    z: Tensor,
    r: Sigma,
    s: Tensor | float,
    *,
    gaussian: str = "discrete",
    border: str = "symmetric",
    truncate: float | None = None,
    max_radius: int = 15,
    stride: int | tuple[int, ...] = 1,
    axes: int | tuple[int, ...] | None = None,
    backend: str | None = None,
) -> Tensor:
    r"""Adaptive kernel modulation: a depthwise Gaussian blur of learned σ and a sigmoid gate.

    .. math:: y_{nc} = \mathrm{sigmoid}(s_c) \, (G(σ_c) * z_{nc}), \qquad σ = |r|

    Differentiable in z, r and s. On CUDA tensors two Triton launches forward (the taps, which hold
    the gate; the blur) and three to six backward; on a CPU C++, compiled at the first call;
    elsewhere plain PyTorch with the same result.

    Args:
        z: maps, ``(N, C, H, W)`` or ``(C, H, W)``, or volumes, ``(N, C, D, H, W)``; with ``axes``
            also signals, ``(N, C, L)``. float16, bfloat16, float32 or float64 (the last not on
            Triton); contiguous or channels_last, which the output keeps. Under autocast it is cast
            as the input of a convolution is; r and s are not.
        r: σ = \|r\| in pixels; a number, or ``()``, ``(1,)``, ``(C,)`` or ``(N, C)``, where N or C
            may be 1 for all. Or a tuple of these, one for each of ``axes``: (rows, columns), or
            (depth, rows, columns). The derivative by r is that of t = r², so it is 0 at r = 0. NaN
            or inf gives NaN.
        s: gate before the sigmoid, shapes as ``r``; never a tuple.
        gaussian: ``"discrete"`` (variance exactly σ²) or ``"sampled"``, see ``gaussian_taps``.
        border: ``"symmetric"`` (d c b a | a b c d), ``"zeros"``, ``"replicate"``, ``"reflect"``
            or ``"circular"``. A radius larger than the map is legal.
        truncate: also zero taps beyond ``int(truncate · σ)``; ``None`` keeps the whole window.
        max_radius: the window's radius R in pixels, 1 to 255; taps beyond it are cut, the rest
            renormalised.
        stride: keeps every stride-th row and column, from the first; the others are never written,
            and on the PyTorch path not computed. An int, or a tuple of one for each of ``axes``. σ
            counts pixels of z, before the stride. Of an axis that is blurred alone, as in a signal,
            all is computed.
        axes: which are blurred, counted from the last: ``None`` for all, rows and columns or depth
            too. ``-1`` for signals, ``(N, C, L)`` or ``(C, L)``; ``(-3, -2, -1)`` for a volume
            without samples, ``(C, D, H, W)``. Of a map, ``-2`` is down the columns, ``-1`` along
            the rows. One axis costs half of two: a product, a read and a write.
        backend: ``"triton"``, ``"cpu"``, ``"torch"``, or ``None`` for the environment's
            ``AKM_BACKEND``, else Triton on CUDA tensors and C++ on CPU tensors where these serve,
            and PyTorch elsewhere.

    Returns:
        A tensor of the dtype and memory format of ``z``, of its shape too but for ⌈H / stride⌉ rows
        and ⌈W / stride⌉ columns, and likewise of other axes.

    Raises:
        ValueError: a shape, device, option or value that means nothing here.
        TypeError: a dtype that is not supported.

    Example:
        >>> import torch
        >>> z = torch.ones(1, 2, 5, 5)
        >>> y = modulate(z, torch.tensor([0.5, 2.0]), torch.zeros(2))
        >>> torch.allclose(y, torch.full_like(y, 0.5))  # constants stay; the gate is sigmoid(0)
        True
        >>> modulate(z, 1.0, 0.0, stride=2).shape
        torch.Size([1, 2, 3, 3])
        >>> modulate(z, (0.0, torch.tensor([0.5, 2.0])), 0.0).shape  # along the rows alone
        torch.Size([1, 2, 5, 5])
        >>> modulate(torch.ones(4, 2, 100), 1.0, 0.0, axes=-1).shape  # signals
        torch.Size([4, 2, 100])
    """
    of_class = _overridden(z, r, s)
    if has_torch_function_variadic(*of_class):
        y: Tensor = handle_torch_function(
            modulate, of_class, z, r, s, gaussian=gaussian, border=border, truncate=truncate,
            max_radius=max_radius, stride=stride, axes=axes, backend=backend,
        )  # fmt: skip
        return y
    return _apply(z, r, s, "r", gaussian, border, truncate, max_radius, stride, axes, backend)


def gaussian_blur(
    z: Tensor,
    sigma: Sigma,
    *,
    gaussian: str = "discrete",
    border: str = "symmetric",
    truncate: float | None = None,
    max_radius: int = 15,
    stride: int | tuple[int, ...] = 1,
    axes: int | tuple[int, ...] | None = None,
    backend: str | None = None,
) -> Tensor:
    r"""Depthwise Gaussian blur, differentiable in ``sigma``: ``modulate`` without the gate.

    .. math:: y_{nc} = G(σ_c) * z_{nc}

    Args:
        z: maps, as for ``modulate``.
        sigma: standard deviation in pixels; a number, or a tensor shaped as r there.
        gaussian, border, truncate, max_radius, stride, axes, backend: as for ``modulate``. At a
            sigma of half the stride, the finest wave that the smaller map can hold is damped to a
            third.

    Returns:
        As ``modulate``.

    Example:
        >>> import torch
        >>> z = torch.zeros(1, 1, 7, 7)
        >>> z[..., 3, 3] = 1
        >>> y = gaussian_blur(z, 1.0)
        >>> bool(y[0, 0, 3, 3] < 0.3), round(float(y.sum()), 5)
        (True, 1.0)
    """
    of_class = _overridden(z, sigma)
    if has_torch_function_variadic(*of_class):
        y: Tensor = handle_torch_function(
            gaussian_blur, of_class, z, sigma, gaussian=gaussian, border=border,
            truncate=truncate, max_radius=max_radius, stride=stride, axes=axes, backend=backend,
        )  # fmt: skip
        return y
    return _apply(
        z, sigma, None, "sigma", gaussian, border, truncate, max_radius, stride, axes, backend
    )


def warmup(z: Tensor, r: Tensor, s: Tensor, *, order: int = 1, **options: Any) -> None:
    """Run ``modulate`` and its derivatives once on maps like ``z``, so that a CUDA graph can be
    captured afterwards: the first launch of a kernel compiles and loads it, which would end a
    capture.

    The arguments, their gradients and the random numbers stay as they are.

    Args:
        z, r, s: tensors as for ``modulate``; only shapes, strides, dtypes and devices matter.
        order: of the highest derivative that will be captured; 0 for the forward alone.
        options: as for ``modulate``.

    Raises:
        TypeError, ValueError: ``order`` is no int or negative; else as ``modulate``.

    Example:
        >>> import torch
        >>> warmup(torch.zeros(2, 3, 8, 8), torch.ones(3), torch.zeros(3), order=2)
    """
    if isinstance(order, bool) or not isinstance(order, int):
        raise TypeError(f"order must be an int, got {order!r}")
    if order < 0:
        raise ValueError(f"order must not be negative, got {order}")
    for wanted in (0,), (1, 2), (0, 1, 2):  # what needs a gradient decides which kernels run
        with torch.enable_grad():
            arguments = [x.detach().requires_grad_(i in wanted) for i, x in enumerate((z, r, s))]
            leaves = [arguments[i] for i in wanted]
            outputs = [modulate(*arguments, **options)]
            for _ in range(order):
                directions = [torch.ones_like(x) for x in outputs]
                grads = torch.autograd.grad(
                    outputs, leaves, directions, create_graph=True, materialize_grads=True
                )
                outputs = [x for x in grads if x.requires_grad]
                if not outputs:
                    break
    if z.is_cuda:
        torch.cuda.synchronize(z.device)
