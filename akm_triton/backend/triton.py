"""The two ops and the tap tables on Triton: allocation and launch."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import torch
import triton
from torch import Tensor

from akm_triton.backend import config, kernels
from akm_triton.backend.config import Config, Pass
from akm_triton.gaussian import nodes

INTERPRET: bool = triton.knobs.runtime.interpret


@functools.lru_cache(maxsize=None)
def multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _interpretable(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The interpreter computes bfloat16 on its bit patterns: give it float32 instead."""
    if not INTERPRET:
        return tensors
    return tuple(x.float() if x.dtype == torch.bfloat16 else x for x in tensors)


def _strides(x: Tensor) -> tuple[int, tuple[int, int, int, int]]:
    """(stride_n / unit, (unit, stride_c, stride_h, stride_w)): what Triton must know at compile
    time to make wide accesses, and the rest, which may vary with the batch."""
    n, c, h, w = x.stride()
    unit = 16
    while n % unit:
        unit //= 2
    return n // unit, (unit, c, h, w)


def _rows(table: Tensor) -> tuple[Tensor, int, int]:
    """(table, stride over samples, stride over channels) of a table (1|C, R+1) or (N, C, R+1)."""
    table = table.contiguous()
    taps = table.shape[-1]
    per_sample = table.stride(0) if table.dim() == 3 and table.shape[0] > 1 else 0
    return table, per_sample, taps if table.shape[-2] > 1 else 0


def _precision(dtype: torch.dtype) -> str:
    """Three tf32 products keep float32 accuracy; the interpreter multiplies in float32 anyway."""
    return "tf32x3" if dtype == torch.float32 and not INTERPRET else "ieee"


def _empty_like(z: Tensor) -> Tensor:
    """An output in the memory format of z: channels_last or contiguous, whatever z's strides."""
    last = z.is_contiguous(memory_format=torch.channels_last) and not z.is_contiguous()
    memory_format = torch.channels_last if last else torch.contiguous_format
    return torch.empty_like(z, memory_format=memory_format)


def _layout(z: Tensor) -> tuple[int, int, int, int, int, bool]:
    n, c, h, w = z.shape
    return n, c, h, w, z.element_size(), z.stride(1) == 1 and c > 1


def _programs(cfg: Config, channels: int) -> int:
    return cfg.strips * cfg.segments * -(-channels // cfg.planes)


def blur(
    z: Tensor, a: Tensor, b: Tensor, border: str, adjoint: bool, cfg: Config | None = None
) -> Tensor:
    """y = T(a) z T(b)ᵀ, or T(a)ᵀ z T(b): one launch, nothing allocated but y."""
    (x,) = _interpretable(z)
    y = _empty_like(x)
    if z.numel() == 0:
        return y.to(z.dtype)
    n, c, h, w, itemsize, last = _layout(x)
    radius = a.shape[-1] - 1
    sms = multiprocessors(z.device)
    cfg = cfg or config.for_blur(n, c, h, w, radius, border, itemsize, last, sms)
    per_sample = a.dim() == 3 or b.dim() == 3
    programs = _programs(cfg, c)
    splits = n if per_sample else config.splits(n, programs, sms)
    with _on(z.device):
        kernels.blur_kernel[(programs * splits,)](
            x, *_strides(x),
            y, *_strides(y),
            *_rows(a),
            *_rows(b),
            n, c, splits,
            H=h, W=w, RADIUS=radius, BORDER=border, ADJOINT=adjoint,
            PLANES=cfg.planes, BLOCK_H=cfg.block_h, SEGMENTS=cfg.segments,
            BLOCK_W=cfg.block_w, OUT_W=cfg.out_w, STEP_W=cfg.step_w, HALO=cfg.halo, STRIPS=cfg.strips,
            PRECISION=_precision(x.dtype),
            num_warps=cfg.warps, num_stages=cfg.stages,
        )  # fmt: skip
    return y.to(z.dtype)


def _reduce(partial: Tensor, tables: list[Tensor]) -> list[Tensor]:
    """Sum partial (splits, tiles, len(tables), C, R+1) to the shapes of the tables."""
    shapes = {table.shape for table in tables}
    if len(shapes) > 1:
        return [_reduce(partial[:, :, i : i + 1], [t])[0] for i, t in enumerate(tables)]
    (shape,) = shapes
    over = [1] if len(shape) == 3 else [0, 1]
    if shape[-2] == 1:
        over.append(3)
    if any(partial.shape[dim] > 1 for dim in over):
        partial = partial.sum(over, keepdim=True)
    return [x.reshape(shape) for x in partial.unbind(2)]


def blur_backward(
    g: Tensor, z: Tensor, a: Tensor, b: Tensor, border: str, passes: list[Pass] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(∂F/∂z, ∂F/∂a, ∂F/∂b) of F = <g, T(a) z T(b)ᵀ>: one launch where the tiles are small enough,
    and one for the sum of its partials."""
    dz, da, db = _grads(g, z, a, b, border, True, passes)
    assert dz is not None
    return dz, da, db


def tap_grads(
    g: Tensor, z: Tensor, a: Tensor, b: Tensor, border: str, passes: list[Pass] | None = None
) -> tuple[Tensor, Tensor]:
    """(∂F/∂a, ∂F/∂b) alone."""
    return _grads(g, z, a, b, border, False, passes)[1:]


def _grads(
    g: Tensor, z: Tensor, a: Tensor, b: Tensor, border: str, need_dz: bool,
    passes: list[Pass] | None,
) -> tuple[Tensor | None, Tensor, Tensor]:  # fmt: skip
    gx, zx = _interpretable(g, z)
    dz = _empty_like(zx) if need_dz else None
    if z.numel() == 0:
        return None if dz is None else dz.to(z.dtype), torch.zeros_like(a), torch.zeros_like(b)
    n, c, h, w, itemsize, last = _layout(zx)
    radius = a.shape[-1] - 1
    sms = multiprocessors(z.device)
    passes = passes or config.for_grad(n, c, h, w, radius, border, itemsize, last, need_dz, sms)
    per_sample = a.dim() == 3 or b.dim() == 3
    grads: dict[str, Tensor] = {}
    for step in passes:
        if not (step.da or step.db):
            dz = blur(g, a, b, border, True, step.config)
            continue
        cfg = step.config
        tables = {"a": a, "b": b}
        written = [name for name in tables if getattr(step, f"d{name}")]
        programs = _programs(cfg, c)
        splits = n if per_sample else config.splits(n, programs, sms)
        partial = torch.empty(
            (splits, cfg.strips * cfg.segments, len(written), c, radius + 1),
            dtype=torch.float32, device=z.device,
        )  # fmt: skip
        if step.transposed:
            left, right, first, second, rows, columns = gx.mT, zx.mT, b, a, w, h
        else:
            left, right, first, second, rows, columns = gx, zx, a, b, h, w
        out = right if dz is None else dz
        with _on(z.device):
            kernels.grad_kernel[(programs * splits,)](
                left, *_strides(left),
                right, *_strides(right),
                out, *_strides(out),
                *_rows(first),
                *_rows(second),
                partial,
                n, c, splits,
                H=rows, W=columns, RADIUS=radius, BORDER=border,
                NEED_DZ=step.dz,
                NEED_DA=step.db if step.transposed else step.da,
                NEED_DB=step.da if step.transposed else step.db,
                PLANES=cfg.planes, BLOCK_H=cfg.block_h, SEGMENTS=cfg.segments,
                BLOCK_W=cfg.block_w, OUT_W=cfg.out_w, STEP_W=cfg.step_w, HALO=cfg.halo, STRIPS=cfg.strips,
                PRECISION=_precision(zx.dtype),
                num_warps=cfg.warps, num_stages=cfg.stages,
            )  # fmt: skip
        grads.update(zip(written, _reduce(partial, [tables[name] for name in written])))
    return None if dz is None else dz.to(z.dtype), grads["a"], grads["b"]


def tables(
    r: Tensor, s: Tensor | None, max_radius: int, gaussian: str, truncate: float | None
) -> tuple[Tensor, Tensor]:
    """(a, b) = (sigmoid(s) k(|r|), k(|r|)), float32, r.shape + (R+1,): one launch."""
    r = r.contiguous()
    a = r.new_empty((*r.shape, max_radius + 1), dtype=torch.float32)
    b = torch.empty_like(a)
    if r.numel() == 0:
        return a, b
    with _on(r.device):
        kernels.tables_kernel[(r.numel(),)](
            *_interpretable(r, r if s is None else s.contiguous()),
            a, b,
            RADIUS=max_radius, DISCRETE=gaussian == "discrete", TRUNCATE=truncate or 0.0,
            NODES=nodes(max_radius), GATED=s is not None, num_warps=4,
        )  # fmt: skip
    return a, b


def tables_grad(
    r: Tensor, s: Tensor | None, da: Tensor, db: Tensor,
    max_radius: int, gaussian: str, truncate: float | None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """(dr, ds) from the gradients of both tables: one launch."""
    r = r.contiguous()
    dr = torch.empty_like(r, dtype=torch.float32 if INTERPRET else r.dtype)
    ds = None if s is None else torch.empty_like(dr)
    if r.numel() > 0:
        with _on(r.device):
            kernels.tables_grad_kernel[(r.numel(),)](
                *_interpretable(r, r if s is None else s.contiguous()),
                da.contiguous(), db.contiguous(),
                dr, dr if ds is None else ds,
                RADIUS=max_radius, DISCRETE=gaussian == "discrete", TRUNCATE=truncate or 0.0,
                NODES=nodes(max_radius), GATED=s is not None, num_warps=4,
            )  # fmt: skip
    return dr.to(r.dtype), None if ds is None or s is None else ds.to(s.dtype)
