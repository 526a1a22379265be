"""Signals, maps with a σ for each axis, and volumes: values, derivatives, traffic, layers."""

from __future__ import annotations

import functools
import inspect
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy import fft, ndimage
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import akm_triton as akm
from akm_triton import axis_ops
from akm_triton.backend import cpu
from reference.oracle import fold
from tests.common import BORDERS, random

uncompiled = pytest.mark.skipif(cpu.why_not(torch.float64) is not None, reason="no C++ compiler")
BACKENDS = ["torch", pytest.param("cpu", marks=uncompiled)]
SHAPES = {1: (2, 3, 40), 2: (2, 3, 9, 12), 3: (2, 3, 7, 9, 8)}
AXES: dict[int, Any] = {1: -1, 2: None, 3: None}
SIGMAS = (1.3, 0.6, 0.9)


def last(x: Tensor) -> Tensor:
    """In channels_last, of any dimensions."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


# The ops along one axis.


@functools.cache
def basis(size: int, radius: int, border: str) -> Tensor:
    """M of T(a) = Σ a_n M_n."""
    matrices = np.zeros((radius + 1, size, size))
    for n in range(-radius, radius + 1):
        at = fold(np.arange(size) + n, size, border)
        np.add.at(matrices[abs(n)], (np.arange(size)[at >= 0], at[at >= 0]), 1)
    return torch.from_numpy(matrices)


@pytest.mark.sampled(("backend", "border", "axis"), ("backend", "size", "axis", "layout"))
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("taps", [(1,), (17,), (2, 17)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("radius", [1, 5, 40])
@pytest.mark.parametrize("size", [(6, 5), (1, 40), (37, 9), (1, 1), (2, 600), (600, 2)], ids=str)
@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_ops(
    backend: str, border: str, axis: int, size: tuple[int, int], radius: int, dtype: torch.dtype,
    taps: tuple[int, ...], layout: str,
) -> None:  # fmt: skip
    z, g = (random(2, 17, *size, seed=i, dtype=dtype, layout=layout) for i in (0, 1))
    a = random(*taps, radius + 1, seed=2, dtype=dtype)
    matrices = basis(size[axis - 2], radius, border)
    x, dy = (y.double() if axis == 2 else y.double().mT for y in (z, g))
    each = a.double().expand(2, 17, -1)

    def product(x: Tensor, equation: str) -> Tensor:
        y = torch.einsum(equation, each, matrices, x)
        return y if axis == 2 else y.mT

    forth, back = "ncm,mij,ncjk->ncik", "ncm,mji,ncjk->ncik"
    grads = torch.einsum("ncik,mij,ncjk->ncm", dy, matrices, x)
    blurred = axis_ops.blur_axis(z, a, axis, border, False, backend)
    adjoint = axis_ops.blur_axis(z, a, axis, border, True, backend)
    dz, da = axis_ops.axis_backward(g, z, a, axis, border, backend)
    alone = axis_ops.axis_grads(g, z, radius, axis, border, len(taps) == 2, backend)
    kept = axis_ops.blur_axis(z, a, axis, border, False, backend, 3)
    every = slice(None, None, 3)
    of_kept = product(x, forth)[(..., every) if axis == 3 else (..., every, slice(None))]
    tolerance = 2e-5 if dtype == torch.float32 else 1e-12
    for found, wanted in (
        (blurred, product(x, forth)), (adjoint, product(x, back)), (dz, product(dy, back)),
        (da, grads.sum_to_size(a.shape)), (alone, grads if len(taps) == 2 else grads.sum(0)),
        (kept, of_kept),
    ):  # fmt: skip
        atol = tolerance * max(1.0, float(wanted.abs().max()))
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=atol)
    if 1 not in size:
        assert blurred.stride() == dz.stride() == z.stride()


@uncompiled
@pytest.mark.parametrize("size", [(1, 3, 1, 2500), (2, 1, 3, 70)], ids=str)  # in pieces, and whole
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("border", BORDERS)
def test_rows_of_few_planes(border: str, dtype: torch.dtype, size: tuple[int, ...]) -> None:
    """In C++ their neighbouring pixels make a vector."""
    (n, c, _, w), radius = size, 17
    z, g = (random(*size, seed=i, dtype=dtype) for i in (0, 1))
    a = random(n, c, radius + 1, seed=2, dtype=dtype)
    x, dy, taps = (y.double().numpy() for y in (z, g, a))
    at = fold(np.arange(-radius, w + radius), w, border)
    wide = np.where(at < 0, 0, x[..., at])
    blurred, dz, da = np.zeros(size), np.zeros(size), np.zeros(taps.shape)
    for k in range(-radius, radius + 1):
        tap, there = taps[..., abs(k), None, None], slice(radius + k, radius + k + w)
        blurred += tap * wide[..., there]
        da[..., abs(k)] += np.sum(dy * wide[..., there], (2, 3))
        inside = at[there] >= 0
        np.add.at(dz, (..., at[there][inside]), (tap * dy)[..., inside])
    spoilt = torch.full((*size[:3], w + 16), torch.nan, dtype=dtype)  # scratch keeps what it held
    axis_ops.axis_backward(spoilt, spoilt, a, 3, border, "cpu")
    found = [
        axis_ops.blur_axis(z, a, 3, border, False, "cpu"),
        axis_ops.blur_axis(g, a, 3, border, True, "cpu"),
        *axis_ops.axis_backward(g, z, a, 3, border, "cpu"),
        axis_ops.axis_grads(g, z, radius, 3, border, True, "cpu"),
        axis_ops.blur_axis(z, a, 3, border, False, "cpu", 3),
    ]
    for y, wanted in zip(found, (blurred, dz, dz, da, da, blurred[..., ::3]), strict=True):
        atol = (2e-5 if dtype == torch.float32 else 1e-12) * max(1.0, np.abs(wanted).max())
        np.testing.assert_allclose(y.double().numpy(), wanted, rtol=0, atol=atol)


# The functions.


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("border", ["zeros", "replicate"])
@pytest.mark.parametrize(
    ("dims", "axes"),
    [(1, -1), (2, None), (2, -1), (2, (-1, -2)), (3, None), (3, (-3, -1)), (3, -2), (3, (-2, -1))],
    ids=str,
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_scipy(backend: str, dims: int, axes: Any, border: str, layout: str) -> None:
    z = random(*SHAPES[dims])
    z = last(z) if layout == "channels_last" else z
    of = tuple(range(-dims, 0)) if axes is None else axes if isinstance(axes, tuple) else (axes,)
    channels = torch.tensor([1.0, 0.6, 0.8], dtype=torch.float64)
    sigma = tuple(x * channels for x in SIGMAS[: len(of)])
    y = akm.gaussian_blur(
        z, sigma if len(of) > 1 else sigma[0], axes=axes, gaussian="sampled", border=border,
        max_radius=6, backend=backend,
    )  # fmt: skip
    mode = {"zeros": "constant", "replicate": "nearest"}[border]
    each = [
        ndimage.gaussian_filter(
            z[:, c].numpy(), [x[c].item() for x in sigma], mode=mode, radius=6, axes=of
        )
        for c in range(3)
    ]
    wanted = np.stack(each, 1)
    np.testing.assert_allclose(y.numpy(), wanted, rtol=0, atol=1e-12)
    assert y.stride() == z.stride()


@pytest.mark.parametrize("dims", [1, 3])
@pytest.mark.parametrize("backend", BACKENDS)
def test_cosines(backend: str, dims: int) -> None:
    """In the basis of cosines the discrete Gaussian is exp(t (cos θ − 1)) along each axis."""
    z = random(2, 3, *(20, 11, 14)[:dims])
    gain: Any = 1.0
    for i, sigma in enumerate(SIGMAS[:dims]):
        size = z.shape[2 + i]
        theta = np.pi * np.arange(size) / size
        gain = gain * np.exp(sigma**2 * (np.cos(theta) - 1)).reshape(-1, *[1] * (dims - 1 - i))
    over = tuple(range(2, 2 + dims))
    wanted = fft.idctn(gain * fft.dctn(z.numpy(), axes=over), axes=over)
    options: Any = dict(axes=-1) if dims == 1 else {}
    y = akm.gaussian_blur(z, SIGMAS[:dims], max_radius=31, backend=backend, **options)
    np.testing.assert_allclose(y.numpy(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("each", [False, True], ids=["isotropic", "each axis"])
@pytest.mark.parametrize(("dims", "border"), [(1, "replicate"), (2, "zeros"), (3, "reflect")])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients(backend: str, dims: int, border: str, each: bool) -> None:
    z = random(2, 2, *(4, 3, 2)[-dims:]).requires_grad_()
    count = dims if each else 1
    r = [torch.full((2, 2), 0.5 + i, dtype=torch.float64).requires_grad_() for i in range(count)]
    s = random(2, seed=1).requires_grad_()

    def call(z: Tensor, s: Tensor, *r: Tensor) -> Tensor:
        return akm.modulate(
            z, r if each else r[0], s, axes=AXES[dims], border=border, max_radius=2, stride=2,
            backend=backend,
        )  # fmt: skip

    assert torch.autograd.gradcheck(call, (z, s, *r), fast_mode=True)
    assert torch.autograd.gradgradcheck(call, (z, s, *r), fast_mode=True)


@uncompiled
@pytest.mark.parametrize(("axis", "border"), [(1, "replicate"), (2, "circular"), (3, "zeros")])
def test_gradients_of_one_axis(axis: int, border: str) -> None:
    """Of a signal, or of a map down its columns or along its rows; whatever needs a gradient."""
    z, options = random(2, 2, *((5,) if axis == 1 else (4, 3))), dict(border=border, max_radius=2)
    r, s = torch.full((2, 2), 0.7, dtype=torch.float64), random(2, seed=1)

    def call(z: Tensor, r: Tensor, s: Tensor, backend: str = "cpu") -> Tensor:
        return akm.modulate(z, r, s, axes=-2 if axis == 2 else -1, backend=backend, **options)

    given = [x.requires_grad_() for x in (z, r, s)]
    assert torch.autograd.gradcheck(call, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, given, fast_mode=True)
    for needed in [(0,), (1,), (2,), (0, 2)]:
        some = [x.detach().requires_grad_(i in needed) for i, x in enumerate(given)]
        leaves = [some[i] for i in needed]
        found, wanted = (
            torch.autograd.grad(call(*some, backend).relu_().square().sum(), leaves)
            for backend in ("cpu", "torch")
        )
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_volumes(layout: str) -> None:
    """A σ for each sample, half precision, another order of the axes, and no samples."""
    z = random(*SHAPES[3])
    z = last(z) if layout == "channels_last" else z
    r, s = torch.rand(2, 3, dtype=torch.float64) + 0.3, random(3, seed=1)
    y = akm.modulate(z, r, s)
    assert y.stride() == z.stride()
    for n in range(2):
        torch.testing.assert_close(akm.modulate(z[n], r[n], s, axes=(-3, -2, -1)), y[n])
    torch.testing.assert_close(akm.modulate(z, (r, r, r), s, axes=(-2, -1, -3)), y)
    half = akm.modulate(z.half(), r, s)
    torch.testing.assert_close(half.double(), y, rtol=0, atol=5e-3)


@pytest.mark.parametrize(("dims", "stride"), [(1, 3), (2, (1, 2)), (3, (2, 1, 3)), (3, 2)], ids=str)
def test_stride_keeps_every_so_many(dims: int, stride: Any) -> None:
    z, r = random(*SHAPES[dims]), SIGMAS[:dims]
    steps = stride if isinstance(stride, tuple) else (stride,) * dims
    whole = akm.gaussian_blur(z, r, axes=AXES[dims])
    wanted = whole[(..., *(slice(None, None, step) for step in steps))]
    found = akm.gaussian_blur(last(z), r, axes=AXES[dims], stride=stride)
    torch.testing.assert_close(found, wanted)
    assert found.movedim(1, -1).is_contiguous()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(axes=0), ValueError, r"axes must be some of -1, -2 and -3, .* got 0"),
        (dict(axes=(-1, -1)), ValueError, r"each once, got \(-1, -1\)"),
        (dict(axes="x"), TypeError, "axes must be an int or a tuple of ints, got 'x'"),
        (dict(r=(1.0,)), ValueError, r"r must be one for all axes or a tuple .* 2 here, got 1"),
        (dict(r=(1.0, torch.ones(4))), ValueError, r"r must have shape .*\(3,\)"),
        (dict(z=torch.ones(3), axes=-1), ValueError, r"z must be \(N, C, L\) or \(C, L\), got"),
        (dict(z=torch.ones(2, 3, 0), axes=-1), ValueError, "z must have channels, pixels"),
        (dict(z=torch.ones(1, 2, 3, 4, 5, 6)), ValueError, r"z must be \(N, C, H, W\)"),
        (dict(z=torch.ones(1, 2, 3, 4, 5, 6), axes=-1), ValueError, r"z must be \(N, C, L\)"),
        (dict(axes=-1, stride=(2, 2)), TypeError, r"stride must be an int, got \(2, 2\)"),
        (dict(stride=(1, 2, 3), axes=(-3, -2, -1), r=(1, 1)), ValueError, "3 here, got 2"),
    ],
)
def test_refuses(arguments: Any, error: type[Exception], message: str) -> None:
    given = dict(z=torch.ones(2, 3, 5, 4), r=1.0, s=0.0) | arguments
    with pytest.raises(error, match=message):
        akm.modulate(**given)


# What a call costs.


class Maps(TorchDispatchMode):
    """Lists the ops of this package that run, and whatever else makes as much as a map."""

    def __init__(self, bytes: int) -> None:
        super().__init__()
        self.bytes, self.ops, self.copies = bytes, list[str](), list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = str(func.overloadpacket)
        given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, Tensor)}
        if func.namespace.startswith("akm_triton"):
            self.ops.append(name.partition(".")[2].rpartition("_r")[0])
        elif isinstance(out, Tensor) and out.untyped_storage().data_ptr() not in given:
            if out.untyped_storage().nbytes() >= self.bytes:
                self.copies.append(name)
        return out


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dims", [1, 3])
def test_a_signal_is_one_pass_and_a_volume_two(dims: int, layout: str) -> None:
    """Forward, backward and its derivative, and nothing is copied in between."""
    z = torch.randn((2, 3, 4000) if dims == 1 else (2, 3, 14, 15, 16))  # more than their taps
    z = (last(z) if layout == "channels_last" else z).requires_grad_()
    r, g = torch.ones(3, requires_grad=True), torch.randn_like(z)
    size = z.untyped_storage().nbytes()
    with Maps(size) as forward:
        y = akm.gaussian_blur(z, r, axes=AXES[dims], max_radius=2, backend="torch")
    with Maps(size) as backward:
        (dz, _) = torch.autograd.grad(y, (z, r), g, create_graph=True)
    with Maps(size) as again:
        torch.autograd.grad(dz, r, g)
    if dims == 1:
        assert forward.ops == ["blur_axis"] and backward.ops == ["axis_backward"]
        assert again.ops == ["axis_grads"]
    else:
        assert forward.ops == ["blur", "blur_axis"]
        assert backward.ops == ["axis_backward", "blur_backward"]
    assert forward.copies == backward.copies == []
    assert y.stride() == dz.stride() == z.stride()


@pytest.mark.parametrize(("dims", "passes"), [(1, 1), (2, 2), (3, 3)])
def test_flops(dims: int, passes: int) -> None:
    z = torch.randn(SHAPES[dims])
    options: Any = dict(axes=AXES[dims], max_radius=4, gaussian="sampled")
    with FlopCounterMode(display=False) as counter:
        akm.gaussian_blur(z, 1.0, **options)
    assert counter.get_total_flops() == 2 * 9 * passes * z.numel()


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_stride_drops_is_not_computed(backend: str) -> None:
    z = torch.randn(2, 3, 4000)
    with Maps(z.untyped_storage().nbytes()) as maps, FlopCounterMode(display=False) as counter:
        akm.gaussian_blur(
            z, 1.0, axes=-1, stride=4, max_radius=4, gaussian="sampled", backend=backend
        )
    assert maps.ops == ["blur_axis"] and maps.copies == []
    assert counter.get_total_flops() == 2 * 9 * z.numel() // 4


# Transforms of the functions; those of the ops are in test_transforms.py.


@pytest.mark.parametrize(
    ("dims", "stride"), [(1, 1), (1, 2), (2, 1), (3, 1), (3, (2, 1, 3))], ids=str
)
def test_vmap_and_jvp(dims: int, stride: Any) -> None:
    z, s = random(3, *SHAPES[dims]), random(3, seed=1)
    r = tuple(random(3, 3, seed=2 + i).abs() + 0.3 for i in range(dims))

    def call(z: Tensor, *r: Tensor) -> Tensor:
        return akm.modulate(z, r, s, axes=AXES[dims], max_radius=3, stride=stride)

    wanted = torch.stack([call(z[i], *(x[i] for x in r)) for i in range(3)])
    torch.testing.assert_close(torch.func.vmap(call)(z, *r), wanted)
    first = (z[0], *(x[0] for x in r))
    _, tangent = torch.func.jvp(call, first, tuple(map(torch.ones_like, first)))
    h = 1e-6
    ends = [call(*(x + sign * h for x in first)) for sign in (1, -1)]
    torch.testing.assert_close(tangent, (ends[0] - ends[1]) / (2 * h), rtol=0, atol=1e-8)


class Net(nn.Module):
    def __init__(self, dims: int) -> None:
        super().__init__()
        conv: Any = {1: akm.AKMConv1d, 2: akm.AKMConv2d, 3: akm.AKMConv3d}[dims]
        self.conv = conv(3, 4, 3, padding=1, max_radius=2, isotropic=dims == 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        of_samples = y.flatten(2).mean(-1).sigmoid()
        return akm.gaussian_blur(y, of_samples, axes=AXES[y.dim() - 2], max_radius=2)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_compile(dims: int) -> None:
    model, x = Net(dims), torch.randn(SHAPES[dims])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))
    parameters = list(model.parameters())
    found = torch.autograd.grad(compiled(x).square().sum(), parameters)
    torch.testing.assert_close(found, torch.autograd.grad(model(x).square().sum(), parameters))


@pytest.mark.parametrize("dims", [1, 3])
def test_export_of_any_size(dims: int) -> None:
    """The graph holds PyTorch's own operations, at another length and batch too."""
    model, x = Net(dims).eval(), torch.randn(SHAPES[dims])
    sizes = {0: torch.export.Dim("n", max=64), 2: torch.export.Dim("length", min=4, max=512)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's own doing
        program = torch.export.export(model, (x,), dynamic_shapes=(sizes,)).run_decompositions()
    assert not any("akm" in str(node.target) for node in program.graph.nodes)
    other = torch.randn(5, 3, 23, *SHAPES[dims][3:])
    torch.testing.assert_close(program.module()(other), model(other))


# Layers.

PAIRS: dict[str, tuple[Any, Any]] = {
    f"{kind}{dims}d": (getattr(nn, f"{kind}{dims}d"), getattr(akm, f"{name}{dims}d"))
    for kind, name in (
        ("Conv", "AKMConv"), ("ConvTranspose", "AKMConvTranspose"),
        ("LazyConv", "LazyAKMConv"), ("LazyConvTranspose", "LazyAKMConvTranspose"),
    )
    for dims in (1, 2, 3)
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_layer_is_the_convolution_then_modulate(name: str) -> None:
    """And takes what its base takes, in its order, and loads its weights."""
    base, made = PAIRS[name]
    dims, lazy = int(name[-2]), name.startswith("Lazy")
    if not lazy:
        theirs, ours = (list(inspect.signature(x).parameters.values()) for x in (base, made))
        assert [(p.name, p.default) for p in ours[: len(theirs)]] == [
            (p.name, p.default) for p in theirs
        ]
        assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(theirs) :])
    x = torch.randn(2, 4, *(9, 8, 7)[:dims])
    arguments = (6, 3, 2) if lazy else (4, 6, 3, 2)
    options: Any = dict(groups=2, bias=True)
    plain = base(*arguments, **options)
    layer = made(*arguments, **options, border="zeros", isotropic=dims == 1)
    assert layer.r.shape == ((6,) if dims == 1 else (6, dims)) and layer.s.shape == (6,)
    assert isinstance(layer, PAIRS[name.removeprefix("Lazy")][1])
    nn.init.uniform_(layer.r, 0.5, 2)
    r = layer.r.detach().clone()
    z = plain(x)
    layer(x)  # a lazy one gets its weight, and keeps its r
    assert torch.equal(layer.r, r) and type(layer) is PAIRS[name.removeprefix("Lazy")][1]
    missing, unexpected = layer.load_state_dict(plain.state_dict(), strict=False)
    assert sorted(missing) == ["r", "s"] and not unexpected
    of = r if dims == 1 else tuple(r.unbind(-1))
    wanted = akm.modulate(z, of, layer.s, border="zeros", axes=tuple(range(-dims, 0)))
    torch.testing.assert_close(layer(x), wanted)
    torch.testing.assert_close(layer(x[0]), wanted[0])
    assert layer.blurred_size(x) == z.shape[2:]


@pytest.mark.parametrize(("dims", "mode"), [(1, "reflect"), (2, "circular"), (3, "replicate")])
def test_decimate_before(dims: int, mode: str) -> None:
    conv: Any = {1: akm.AKMConv1d, 2: akm.AKMConv2d, 3: akm.AKMConv3d}[dims]
    options: Any = dict(padding=(0, 1, 2)[-dims:], padding_mode=mode)
    layer = conv(3, 4, 3, stride=2, decimate="before", **options)
    plain = conv(3, 4, 3, **options)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(SHAPES[dims])
    wanted = plain(x)[(..., *[slice(None, None, 2)] * dims)]
    torch.testing.assert_close(layer(x), wanted)
    assert layer.blurred_size(x) == plain(x).shape[2:]


@pytest.mark.parametrize("dims", [1, 3])
def test_modulation(dims: int) -> None:
    made: Any = {1: akm.Modulation1d, 3: akm.Modulation3d}[dims]
    layer, z = made(3, per="layer"), torch.randn(SHAPES[dims])
    wanted = akm.modulate(z, layer.r, layer.s, axes=tuple(range(-dims, 0)))
    assert torch.equal(layer(z), wanted) and torch.equal(layer(z[0]), wanted[0])
    with pytest.raises(ValueError, match="z must have 3 channels"):
        layer(torch.randn(2, 4, *SHAPES[dims][2:]))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_modulation_refuses_other_dimensions(dims: int) -> None:
    layer = getattr(akm, f"Modulation{dims}d")(3)
    for rank in {1, 2, 3, 4, 5, 6} - {dims + 1, dims + 2}:
        with pytest.raises(ValueError, match=r"z must be \(N, C, .* or \(C, .*, got shape \(3,"):
            layer(torch.randn((3,) * rank))


def test_an_r_of_each_axis_loads_where_it_says_enough() -> None:
    layer = akm.Modulation2d(3, isotropic=False)
    of_layer = akm.Modulation2d(3, per="layer", isotropic=False)
    of_layer.load_state_dict({"r": torch.tensor([[1.0, 2.0]]), "s": torch.zeros(1)})
    layer.load_state_dict(of_layer.state_dict())
    assert layer.r.tolist() == [[1.0, 2.0]] * 3
    with pytest.raises(RuntimeError, match=r"size mismatch for r: .*\[3, 2\]"):
        akm.Modulation2d(3).load_state_dict(layer.state_dict())


def test_sigma_of_each_axis_learns() -> None:
    """Towards a blur along the rows alone, from a checkpoint of one σ for both."""
    layer = akm.Modulation2d(1, isotropic=False)
    layer.load_state_dict(akm.Modulation2d(1).state_dict())
    nn.init.constant_(layer.s, 20)
    z = torch.randn(8, 1, 16, 16)
    target = akm.gaussian_blur(z, (0.0, 1.5))
    optimizer = torch.optim.Adam([layer.r], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        (layer(z) - target).square().mean().backward()
        optimizer.step()
    down, along = layer.sigma[0].tolist()
    assert down < 0.1 and abs(along - 1.5) < 0.1


def test_schedule_and_condition_of_each_axis() -> None:
    layer = akm.ConditionedModulation2d(3, isotropic=False)
    z = torch.randn(2, 3, 9, 8)
    torch.testing.assert_close(layer(z), akm.modulate(z, tuple(layer.r.unbind(-1)), layer.s))
    schedule = akm.SigmaSchedule(layer, start=2.0, end=0.0, steps=2)
    wider = (layer.r.detach().square() + 4).sqrt()
    torch.testing.assert_close(layer(z), akm.modulate(z, tuple(wider.unbind(-1)), layer.s))
    schedule.remove()
    with pytest.raises(ValueError, match="isotropic=False is for maps and volumes"):
        akm.Modulation1d(3, isotropic=False)
    with pytest.raises(TypeError, match="isotropic must be a bool, got 1"):
        akm.BlurPool2d(3, isotropic=1)  # type: ignore[arg-type]


def test_a_shifted_signal_does_not_see_ahead() -> None:
    """As the docs of Modulation1d say."""
    layer = akm.Modulation1d(2, max_radius=4)
    nn.init.constant_(layer.r, 2.0)
    x = torch.randn(1, 2, 30)
    other = x.clone()
    other[..., 20:] += 1

    def causal(x: Tensor) -> Tensor:
        y: Tensor = layer(nn.functional.pad(x, (4, 0))[..., :-4])
        return y

    assert torch.equal(causal(x)[..., :20], causal(other)[..., :20])
    assert not torch.equal(layer(x)[..., :20], layer(other)[..., :20])
    assert not torch.equal(causal(x)[..., 20:], causal(other)[..., 20:])
