"""What PyTorch can do to each op, done to ours and to plain PyTorch alike (listed in README.md).

A capability is ``(f, args) -> tensors``; applied to ours and to the composition of plain operators
in ``reference/``, it must give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jvp, vmap
from torch.utils.checkpoint import checkpoint

import akm_triton as akm
from akm_triton import axis_ops, ops
from reference import composition

Function = Callable[..., Any]
RADIUS, BORDER = 3, "reflect"  # neither self-adjoint nor narrower than the map
SHAPE = (2, 3, 5, 4)
STRIDE = (2, 3)
OPTIONS: dict[str, Any] = dict(gaussian="discrete", border=BORDER, max_radius=RADIUS)


# The ops: ours, plain, and arguments.


def _basis(size: int) -> Tensor:
    """M of T(a) = Σ a_n M_n, (R+1, size, size): what each tap does to the identity."""
    eye = torch.eye(size, dtype=torch.float64)[None, None]
    rows = composition.pad(eye, RADIUS, BORDER)[0, 0, :, RADIUS:-RADIUS]
    shifted = [rows[RADIUS + n : RADIUS + n + size] for n in range(-RADIUS, RADIUS + 1)]
    after, before = shifted[RADIUS + 1 :], shifted[:RADIUS][::-1]
    sides = [x + y for x, y in zip(after, before, strict=True)]
    return torch.stack([shifted[RADIUS], *sides])


DOWN, ACROSS = _basis(SHAPE[2]), _basis(SHAPE[3])


def _plain_blur(z: Tensor, t: Tensor) -> Tensor:
    return torch.einsum("cm,mij,ncjl,cp,pkl->ncik", t[0], DOWN, z, t[1], ACROSS)


def _plain_blur_strided(z: Tensor, t: Tensor) -> Tensor:
    return _plain_blur(z, t)[..., :: STRIDE[0], :: STRIDE[1]]


def _plain_blur_pair(z: Tensor, t: Tensor, v: Tensor) -> Tensor:
    return sum(
        torch.einsum("cm,mij,ncjl,cp,pkl->ncik", a, DOWN, z, b, ACROSS)
        for a, b in ((t[0], v[1]), (v[0], t[1]))
    )


def _plain_tap_grads(g: Tensor, z: Tensor, t: Tensor) -> Tensor:
    da = torch.einsum("ncik,mij,ncjl,cp,pkl->cm", g, DOWN, z, t[1], ACROSS)
    db = torch.einsum("ncik,cm,mij,ncjl,pkl->cp", g, t[0], DOWN, z, ACROSS)
    return torch.stack([da, db])


def _plain_blur_backward(g: Tensor, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    dz = torch.einsum("ncik,cm,mij,cp,pkl->ncjl", g, t[0], DOWN, t[1], ACROSS)
    return dz, _plain_tap_grads(g, z, t)


def _plain_blur_axis(z: Tensor, a: Tensor) -> Tensor:
    return torch.einsum("cm,mij,ncjl->ncil", a, DOWN, z)


def _plain_axis_grads(g: Tensor, z: Tensor) -> Tensor:
    return torch.einsum("ncik,mij,ncjk->cm", g, DOWN, z)


def _plain_axis_backward(g: Tensor, z: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    return torch.einsum("cm,mij,ncil->ncjl", a, DOWN, g), _plain_axis_grads(g, z)


def _plain_modulate(z: Tensor, r: Tensor, s: Tensor) -> Tensor:
    return composition.modulate(z, r, s, truncate=None, **OPTIONS)


class PlainConv2d(nn.Conv2d):
    """AKMConv2d as one would write it; takes over the parameters of one."""

    def __init__(self, layer: akm.AKMConv2d) -> None:
        super().__init__(2, 3, 3, padding=1)
        self.r, self.s = nn.Parameter(layer.r.detach()), nn.Parameter(layer.s.detach())
        self.load_state_dict(layer.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        return _plain_modulate(super().forward(x), self.r, self.s)


def layer(dtype: torch.dtype) -> akm.AKMConv2d:
    torch.manual_seed(0)
    made = akm.AKMConv2d(2, 3, 3, padding=1, **OPTIONS)
    nn.init.uniform_(made.r, 0.3, 1.5)
    return made.to(dtype).requires_grad_(False)


def op(
    name: str, backend: str, dtype: torch.dtype, device: str = "cpu"
) -> tuple[Function, Function, list[Tensor]]:
    """(ours, plain, arguments)."""
    generator = torch.Generator().manual_seed(1)

    def leaf(*size: int) -> Tensor:
        return torch.rand(size, generator=generator, dtype=torch.float64).to(device, dtype) + 0.3

    g, z = leaf(*SHAPE), leaf(*SHAPE)
    t, v = leaf(2, 3, RADIUS + 1) / 8, leaf(2, 3, RADIUS + 1) / 8  # of sums near 1, as taps have
    if name == "blur":
        return lambda *x: ops.blur(*x, BORDER, False, backend), _plain_blur, [z, t]
    if name == "blur_strided":
        return (
            lambda *x: ops.blur_strided(*x, BORDER, STRIDE, backend), _plain_blur_strided, [z, t]
        )  # fmt: skip
    if name == "blur_pair":
        return lambda *x: ops.blur_pair(*x, BORDER, False, backend), _plain_blur_pair, [z, t, v]
    if name == "tap_grads":
        return lambda *x: ops.tap_grads(*x, BORDER, backend), _plain_tap_grads, [g, z, t]
    if name == "blur_backward":
        return lambda *x: ops.blur_backward(*x, BORDER, backend), _plain_blur_backward, [g, z, t]
    if name == "blur_axis":
        return (
            lambda *x: axis_ops.blur_axis(*x, 2, BORDER, False, backend),
            _plain_blur_axis,
            [z, v[0]],
        )
    if name == "axis_grads":
        return (
            lambda *x: axis_ops.axis_grads(*x, RADIUS, 2, BORDER, False, backend),
            _plain_axis_grads,
            [g, z],
        )
    if name == "axis_backward":
        return (
            lambda *x: axis_ops.axis_backward(*x, 2, BORDER, backend),
            _plain_axis_backward,
            [g, z, v[0]],
        )
    if name == "modulate":
        return (
            lambda *x: akm.modulate(*x, backend=backend, **OPTIONS),
            _plain_modulate,
            [z, leaf(3), leaf(3)],
        )
    ours = layer(dtype).to(device)
    plain = PlainConv2d(ours).to(device, dtype).requires_grad_(False)
    names = [name for name, _ in ours.named_parameters()]
    values = [p.detach().clone() for p in ours.parameters()]

    def call(module: nn.Module) -> Function:
        return lambda x, *given: functional_call(module, dict(zip(names, given, strict=True)), x)

    return call(ours), call(plain), [leaf(2, 2, *SHAPE[2:]), *values]


OPS = (
    "blur", "blur_strided", "blur_pair", "tap_grads", "blur_backward",
    "blur_axis", "axis_grads", "axis_backward",
)  # fmt: skip
CALLABLES = (*OPS, "modulate", "AKMConv2d")
_B = "symmetric"
OF_OPCHECK: dict[str, list[Any]] = {
    "blur": [_B, False], "blur_strided": [_B, *STRIDE], "blur_pair": [_B, False],
    "tap_grads": [_B], "blur_backward": [_B],
    "blur_axis": [2, 1, _B, False], "axis_grads": [RADIUS, 2, _B, False], "axis_backward": [2, _B],
}  # fmt: skip
"""What an op takes between its tensors and its backend."""


def registered(name: str) -> Any:
    """The registered op."""
    revision = {"blur_axis": 2}.get(name, 1)
    return getattr(torch.ops.akm_triton, f"{name}_r{revision}").default


# What is asked of them.


def tensors(x: Any) -> list[Tensor]:
    return [x] if isinstance(x, Tensor) else [y for part in x for y in tensors(part)]


def scalar(f: Function) -> Function:
    """The output folded to one number, not linear in it."""
    return lambda *args: torch.stack([x.square().mean() for x in tensors(f(*args))]).sum()


def leaves(args: list[Tensor]) -> list[Tensor]:
    return [x.detach().clone().requires_grad_() for x in args]


def tangents(args: list[Tensor]) -> tuple[Tensor, ...]:
    return tuple(x.cos() for x in args)


def every(args: list[Tensor]) -> tuple[int, ...]:
    return tuple(range(len(args)))


def order(n: int) -> Function:
    def capability(f: Function, args: list[Tensor]) -> Any:
        x = leaves(args)
        value = scalar(f)(*x)
        for last in [False] * (n - 1) + [True]:
            grads = torch.autograd.grad(value, x, create_graph=not last)
            value = sum(y.square().mean() for y in grads)  # type: ignore[assignment]
        return grads

    return capability


def forward_mode(f: Function, args: list[Tensor]) -> Any:
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(x, t) for x, t in zip(args, tangents(args), strict=True)]
        return [forward_ad.unpack_dual(y).tangent for y in tensors(f(*duals))]


def forward_over_reverse(f: Function, args: list[Tensor]) -> Any:
    x = leaves(args)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(y, t) for y, t in zip(x, tangents(args), strict=True)]
        grads = torch.autograd.grad(scalar(f)(*duals), x, create_graph=True)
        return [forward_ad.unpack_dual(g).tangent for g in grads]


def func_grad(f: Function, args: list[Tensor]) -> Any:
    return grad(scalar(f), every(args))(*args)


def func_vmap(f: Function, args: list[Tensor]) -> Any:
    """Over every argument at once, over each alone, and over two levels."""
    stacked = [torch.stack([x, 2 * x]) for x in args]
    found = [vmap(f)(*stacked)]
    for i in range(len(args)):
        mixed = [y if j == i else x for j, (x, y) in enumerate(zip(args, stacked, strict=True))]
        found.append(vmap(f, tuple(0 if j == i else None for j in range(len(args))))(*mixed))
    inner = vmap(lambda x: f(x, *args[1:]))
    return [*found, vmap(inner)(torch.stack([stacked[0], stacked[0].cos()]))]


def func_vmap_grad(f: Function, args: list[Tensor]) -> Any:
    stacked = [torch.stack([x, 2 * x]) for x in args]
    per_sample = vmap(grad(scalar(f), every(args)), (0,) + (None,) * (len(args) - 1))
    return vmap(grad(scalar(f), every(args)))(*stacked), per_sample(stacked[0], *args[1:])


def func_jvp(f: Function, args: list[Tensor]) -> Any:
    return jvp(f, tuple(args), tangents(args))


def func_jvp_jvp(f: Function, args: list[Tensor]) -> Any:
    def inner(*x: Tensor) -> Any:
        return jvp(f, x, tangents(list(x)))[1]

    return jvp(inner, tuple(args), tuple(x.sin() for x in args))


def func_jvp_of_grad(f: Function, args: list[Tensor]) -> Any:
    return jvp(grad(scalar(f), every(args)), tuple(args), tangents(args))


def func_grad_of_jvp(f: Function, args: list[Tensor]) -> Any:
    def directional(*x: Tensor) -> Any:
        return jvp(f, x, tangents(args))[1]

    return grad(scalar(directional), every(args))(*args)


def func_hessian(f: Function, args: list[Tensor]) -> Any:
    """By the last argument, which is small."""
    *rest, x = args
    return hessian(lambda x: scalar(f)(*rest, x))(x)


def func_functional_call(f: Function, args: list[Tensor]) -> Any:
    """grad of a module's call by its parameters, for each of two sets of them."""

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = nn.ParameterList(args[1:])

        def forward(self, first: Tensor) -> Any:
            return scalar(f)(first, *self.x)

    module = Module()
    state = {name: torch.stack([x, 2 * x]).detach() for name, x in module.named_parameters()}
    return tuple(
        vmap(grad(lambda state: functional_call(module, state, args[0])))(state)[name]
        for name in state
    )


def compiled(what: Function) -> Function:
    def capability(f: Function, args: list[Tensor], backend: str = "aot_eager") -> Any:
        torch._dynamo.reset()
        return what(f, args, lambda g: torch.compile(g, fullgraph=True, backend=backend))

    return capability


compile_forward = compiled(lambda f, args, compiler: compiler(f)(*args))
compile_grad_inside = compiled(
    lambda f, args, compiler: compiler(grad(scalar(f), every(args)))(*args)
)
compile_jvp_inside = compiled(
    lambda f, args, compiler: compiler(lambda *x: jvp(f, x, tangents(args)))(*args)
)


@compiled
def compile_backward(f: Function, args: list[Tensor], compiler: Function) -> Any:
    x = leaves(args)
    return torch.autograd.grad(compiler(scalar(f))(*x), x)


def exported(strict: bool) -> Function:
    """Exported with a dynamic batch, run at another than it was traced with."""

    def capability(f: Function, args: list[Tensor]) -> Any:
        class Module(nn.Module):
            def forward(self, *x: Tensor) -> Any:
                return f(*x)

        maps = [x.dim() == 4 and x.shape[0] == 2 for x in args]
        batch = torch.export.Dim("batch", min=1, max=64)
        shapes = tuple({0: batch} if is_map else None for is_map in maps)
        program = torch.export.export(
            Module(), tuple(args), dynamic_shapes=(shapes,), strict=strict
        )
        more = [torch.cat([x, 2 * x, x]) if m else x for x, m in zip(args, maps, strict=True)]
        return program.module()(*more)

    return capability


def checkpointed(f: Function, args: list[Tensor]) -> Any:
    x = leaves(args)
    return torch.autograd.grad(checkpoint(scalar(f), *x, use_reentrant=False), x)


def autocast(f: Function, args: list[Tensor]) -> Any:
    x = leaves(args)
    with torch.autocast(x[0].device.type, torch.bfloat16):
        out = tensors(f(*x))
    return torch.autograd.grad([y.float().square().mean() for y in out], x)


CAPABILITIES: dict[str, Function] = {
    "1st order": order(1),
    "2nd order": order(2),
    "3rd order": order(3),
    "forward mode": forward_mode,
    "forward over reverse": forward_over_reverse,
    "func.grad": func_grad,
    "func.vmap": func_vmap,
    "vmap of grad": func_vmap_grad,
    "func.jvp": func_jvp,
    "jvp of jvp": func_jvp_jvp,
    "jvp of grad": func_jvp_of_grad,
    "grad of jvp": func_grad_of_jvp,
    "func.hessian": func_hessian,
    "functional_call": func_functional_call,
    "compile, forward": compile_forward,
    "compile, backward": compile_backward,
    "compile, func.grad inside": compile_grad_inside,
    "compile, jvp inside": compile_jvp_inside,
    "export, strict": exported(strict=True),
    "export, not strict": exported(strict=False),
    "checkpoint": checkpointed,
    "autocast": autocast,
}

COMPILED = [name for name in CAPABILITIES if name.startswith(("compile", "export"))]


def check(
    name: str, capability: str, backend: str, dtype: torch.dtype, tolerance: float,
    device: str = "cpu",
) -> None:  # fmt: skip
    """Ours gives what plain PyTorch gives in float64, and that is not nothing."""
    if capability == "autocast":
        dtype, tolerance = torch.float32, 2**-6
    ours, _, args = op(name, backend, dtype, device)
    plain = op(name, backend, torch.float64)[1]
    ask = CAPABILITIES[capability]
    found = tensors(ask(ours, args))
    wanted = tensors(ask(plain, [x.double().cpu() for x in args]))
    assert [x.shape for x in found] == [x.shape for x in wanted]
    assert any((x != 0).any() for x in wanted)
    for x, want in zip(found, wanted, strict=True):
        atol = tolerance * float(want.detach().abs().max())
        torch.testing.assert_close(x.detach().double().cpu(), want.detach(), rtol=0, atol=atol)
