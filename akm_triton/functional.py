"""``modulate`` and ``gaussian_blur``: documentation over checked arguments and the ops."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from akm_triton import modulation
from akm_triton.arguments import (
    Axes,
    as_op_takes,
    autocast_dtype,
    check_axes,
    check_each,
    check_map,
    check_options,
    check_pair,
    choose_backend,
)
from akm_triton.tracing import sizes


def _apply(
    z: Tensor, r: Any, s: Any, name: str, gaussian: str, border: str,
    truncate: float | None, max_radius: int, stride: int | tuple[int, ...], axes: Axes | None,
    backend: str | None,
) -> Tensor:  # fmt: skip
    """Check everything, then call the op. ``name`` is what the caller calls r; without s there is
    no gate."""
    truncate, max_radius = check_options(gaussian, border, truncate, max_radius)
    many = isinstance(r, (tuple, list)) or (isinstance(z, Tensor) and z.dim() == 5)
    if many or not (axes is None or axes == (-2, -1)):
        return _apply_along(
            z, r, s, name, gaussian, border, truncate, max_radius, stride, axes, backend
        )
    stride = check_pair("stride", stride, 1)
    of_map, _ = check_map(z, None)
    r = as_op_takes(name, r, z, of_map)
    if s is not None:
        s = as_op_takes("s", s, z, of_map)
    autocast = autocast_dtype(z, r, r if s is None else s)
    z = z if autocast is None else z.to(autocast)
    chosen = choose_backend(backend, z, max_radius)
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
    of_last = None if axes is None else check_axes(axes)
    of_map, count = check_map(z, of_last)
    of_last = of_last or tuple(range(-count, 0))
    steps = check_each("stride", stride, 1, len(of_last))
    each = list(r) if isinstance(r, (tuple, list)) else [r]
    if isinstance(r, (tuple, list)) and len(r) != len(of_last):
        raise ValueError(
            f"{name} must be one for all axes or a tuple of one for each, {len(of_last)} here, got "
            f"{len(r)}"
        )
    each = [as_op_takes(name, x, z, of_map, count) for x in each]
    if s is not None:
        s = as_op_takes("s", s, z, of_map, count)
    autocast = autocast_dtype(z, *each, *([] if s is None else [s]))
    z = z if autocast is None else z.to(autocast)
    chosen = choose_backend(backend, z, max_radius)
    dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
    tensors = [x if x.dtype == dtype else x.to(dtype) for x in (each if s is None else [*each, s])]
    if len(tensors) > 1:
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
    the gate; the blur), or three where long windows go an axis at a time, and three to six
    backward; on a CPU C++, compiled at the first call; elsewhere plain PyTorch, with the same
    result.

    Every window looks both ways: a blur of the past alone is another kernel, and not here. With a
    delay this one is causal: pad a signal of length L by 2 R on the left, blur it, and keep
    ``[R : R + L]``. Output i then comes from inputs i − 2 R to i, with its centre at i − R.

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
            counts pixels of z, before the stride. On Triton an axis that is blurred alone, as in a
            signal or down the depth of a volume, is computed whole, and the rest then dropped.
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
        >>> pulse = torch.nn.functional.one_hot(torch.tensor([[20]]), 50).float()
        >>> padded = torch.nn.functional.pad(pulse, (8, 0))  # causal, see ``modulate``
        >>> late = gaussian_blur(padded, 1.0, axes=-1, max_radius=4)[..., 4 : 4 + 50]
        >>> late.argmax().item(), late.nonzero()[0, -1].item()
        (24, 20)
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


def warmup(
    z: Tensor, r: Tensor | tuple[Tensor, ...], s: Tensor, *, order: int = 1, **options: Any
) -> None:
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
    parameters = (*r, s) if isinstance(r, tuple) else (r, s)
    # what needs a gradient decides which kernels run
    for of_map, of_parameters in (True, False), (False, True), (True, True):
        with torch.enable_grad():
            x = z.detach().requires_grad_(of_map)
            *each, gate = (p.detach().requires_grad_(of_parameters) for p in parameters)
            leaves = [p for p in (x, *each, gate) if p.requires_grad]
            sigma = tuple(each) if isinstance(r, tuple) else each[0]
            outputs = [modulate(x, sigma, gate, **options)]
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
