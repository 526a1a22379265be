"""What PyTorch can do to ops and layer: derivatives, torch.func, torch.compile, export."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.func import functional_call, grad, vmap

import akm_triton as akm
from akm_triton.backend import cpu
from akm_triton.gaussian import _shared_rules
from tests.capabilities import (
    CALLABLES,
    CAPABILITIES,
    COMPILED,
    OF_OPCHECK,
    OPS,
    SHAPE,
    PlainConv2d,
    check,
    op,
    registered,
)
from tests.common import BORDERS, FAMILIES

ROOT = Path(__file__).parents[1]
uncompiled = pytest.mark.skipif(cpu.why_not(torch.float64) is not None, reason="no C++ compiler")
BACKENDS = ["torch", pytest.param("cpu", marks=uncompiled)]


@pytest.mark.parametrize("capability", [x for x in CAPABILITIES if x not in COMPILED])
@pytest.mark.parametrize("name", CALLABLES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_capability(backend: str, name: str, capability: str) -> None:
    check(name, capability, backend, torch.float64, 1e-9)


@pytest.mark.sampled
@pytest.mark.parametrize("capability", COMPILED)
@pytest.mark.parametrize("name", CALLABLES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_capability(backend: str, name: str, capability: str) -> None:
    check(name, capability, backend, torch.float64, 1e-9)


def test_the_readme_names_every_transform() -> None:
    text = (ROOT / "tests" / "README.md").read_text("utf-8").partition("## Transforms")[2]
    found = re.findall(r"`([^`]+)`", text.partition("## Rules")[0])
    assert set(CALLABLES) <= set(found)
    listed = [x for x in found if x not in (*CALLABLES, "torch.func")]
    assert set(listed) == {*CAPABILITIES, "opcheck"}


# Derivatives where σ is special.


def special(seed: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """z of a random shape, and r at 0, beside 1/3, at 1, and above the window."""
    generator = torch.Generator().manual_seed(seed)
    n, h, w, radius = (
        int(torch.randint(1, high, (), generator=generator)) for high in (3, 6, 6, 5)
    )
    third = torch.tensor(1 / 3, dtype=torch.float64)
    below, above = torch.nextafter(third, third - 1), torch.nextafter(third, third + 1)
    r = torch.stack([0 * third, below, above, 3 * third, 0 * third + radius + 2.5])
    z = torch.randn(n, 5, h, w, generator=generator, dtype=torch.float64)
    s = torch.randn(5, generator=generator, dtype=torch.float64)
    return z, r, s, radius


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("gaussian", FAMILIES)
@pytest.mark.parametrize("border", BORDERS)
def test_gradients_at_special_sigmas(border: str, gaussian: str, seed: int) -> None:
    """Three orders by finite differences, at random shapes."""
    z, r, s, radius = special(2 * BORDERS.index(border) + seed)
    inputs = tuple(x.requires_grad_() for x in (z, r, s))

    def call(*x: Tensor) -> Tensor:
        return akm.modulate(*x, border=border, gaussian=gaussian, max_radius=radius)

    def third(r: Tensor, s: Tensor) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(call(z, r, s).pow(3).sum(), (r, s), create_graph=True)
        return torch.autograd.grad(sum(x.square().sum() for x in first), (r, s), create_graph=True)

    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)
    assert torch.autograd.gradcheck(third, inputs[1:])


# The ops as PyTorch's own test sees them.


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", OPS)
def test_opcheck(name: str, channels_last: bool) -> None:
    args = op(name, "torch", torch.float32)[2]
    if channels_last:
        is_map = [x.shape == SHAPE for x in args]
        pairs = zip(args, is_map, strict=True)
        args = [x.to(memory_format=torch.channels_last) if m else x for x, m in pairs]
    args = [x.detach().requires_grad_() for x in args]
    options = [*OF_OPCHECK[name], "torch"]
    torch.library.opcheck(registered(name), (*args, *options))


# MAML: three inner steps with functional_call, their result differentiated.


def adapted_loss(
    module: nn.Module, parameters: dict[str, Tensor], images: Tensor, targets: Tensor
) -> Tensor:
    def loss(parameters: dict[str, Tensor], which: int) -> Tensor:
        y = functional_call(module, parameters, images[which])
        return (y - targets[which]).square().mean()

    for _ in range(3):
        grads = grad(loss)(parameters, 0)  # on the support set
        parameters = {name: p - 0.1 * grads[name] for name, p in parameters.items()}
    return loss(parameters, 1)  # on the query set


def tasks() -> tuple[akm.AKMConv2d, dict[str, Tensor], Tensor, Tensor]:
    torch.manual_seed(0)
    layer = akm.AKMConv2d(2, 3, 3, padding=1, max_radius=3, border="reflect").double()
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    images = torch.randn(4, 2, 2, 2, 6, 5, dtype=torch.float64)  # task, support or query, …
    return layer, parameters, images, torch.randn(4, 2, 2, 3, 6, 5, dtype=torch.float64)


def test_maml_over_tasks() -> None:
    """vmapped = looped = the composition of plain operators."""
    layer, parameters, images, targets = tasks()

    def of_all(module: nn.Module) -> Callable[..., Tensor]:
        def meta_loss(parameters: dict[str, Tensor]) -> Tensor:
            run = vmap(lambda x, y: adapted_loss(module, parameters, x, y))
            return run(images, targets).mean()

        return meta_loss

    def looped(parameters: dict[str, Tensor]) -> Tensor:
        each = zip(images, targets, strict=True)
        return torch.stack([adapted_loss(layer, parameters, x, y) for x, y in each]).mean()

    wanted = grad(looped)(parameters)
    for meta_loss in (of_all(layer), of_all(PlainConv2d(layer).double())):
        found = grad(meta_loss)(parameters)
        for name, want in wanted.items():
            assert want.abs().max() > 0
            torch.testing.assert_close(found[name], want, rtol=1e-9, atol=1e-12)


# torch.compile and export.


def whole(*case: Any) -> Any:
    return pytest.param(*case, marks=pytest.mark.whole)


@pytest.mark.parametrize(
    ("radius", "border", "memory_format"),
    [
        (1, "reflect", torch.channels_last),
        whole(4, "replicate", torch.contiguous_format),
        whole(1, "symmetric", torch.contiguous_format),
        whole(4, "symmetric", torch.channels_last),
        whole(1, "circular", torch.contiguous_format),
        whole(4, "zeros", torch.channels_last),
    ],
)
def test_inductor(radius: int, border: str, memory_format: torch.memory_format) -> None:
    """Forward and backward; another batch and another σ compile nothing."""
    torch._dynamo.reset()
    counters.clear()
    layer = akm.AKMConv2d(3, 4, 3, padding=1, max_radius=radius, border=border)
    compiled = torch.compile(layer, fullgraph=True)
    for batch in (4, 7):
        x = torch.randn(batch, 3, 13, 12).contiguous(memory_format=memory_format)
        torch._dynamo.mark_dynamic(x, 0)
        with torch.no_grad():
            layer.r.add_(0.7)
        y, wanted = compiled(x), layer(x)
        assert y.stride() == wanted.stride()
        torch.testing.assert_close(y, wanted)
        parameters = list(layer.parameters())
        torch.testing.assert_close(
            torch.autograd.grad(y.square().mean(), parameters),
            torch.autograd.grad(wanted.square().mean(), parameters),
        )
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"] and not counters["recompiles"]


def test_inductor_with_every_size_dynamic() -> None:
    torch._dynamo.reset()
    layer = akm.AKMConv2d(3, 4, 3, padding=1, max_radius=4)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    for shape in ((4, 3, 13, 12), (5, 3, 21, 17)):
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x), layer(x))
        torch.testing.assert_close(
            torch.autograd.grad(compiled(x).square().mean(), layer.r),
            torch.autograd.grad(layer(x).square().mean(), layer.r),
        )


def test_inductor_sees_what_the_ops_do() -> None:
    """In the compiled graph there is no op of ours."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.aot_autograd import make_boxed_func

    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    layer = akm.AKMConv2d(3, 4, 3, padding=1, max_radius=4)
    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep)
    torch.compile(layer, fullgraph=True, backend=backend)(torch.randn(2, 3, 9, 8)).sum().backward()
    assert len(graphs) == 2
    assert not any(
        "akm_triton" in str(node.target) for graph in graphs for node in graph.graph.nodes
    )


def test_maml_step_inside_compile() -> None:
    layer, parameters, images, targets = tasks()

    def meta_gradient(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return grad(lambda p: adapted_loss(layer, p, x, y))(parameters)

    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(meta_gradient, fullgraph=True, backend="aot_eager")
    for x, y in zip(images[:2], targets[:2], strict=True):
        torch.testing.assert_close(compiled(parameters, x, y), meta_gradient(parameters, x, y))
        parameters = {name: 1.1 * p for name, p in parameters.items()}
    assert counters["stats"]["unique_graphs"] == 1


BATCH, HEIGHT, WIDTH = (torch.export.Dim(name, min=1, max=64) for name in ("n", "h", "w"))


def exported(model: nn.Module, *sizes: Any) -> Any:
    """The program for a map with three channels, in which these sizes of N, H, W may vary."""
    axes = {BATCH: 0, HEIGHT: 2, WIDTH: 3}
    example, dynamic = (torch.randn(4, 3, 12, 10),), ({axes[size]: size for size in sizes},)
    return torch.export.export(model, example, dynamic_shapes=dynamic)


def decomposed(program: Any) -> Any:
    """The program in plain operators: none of ours is left."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's own doing
        plain = program.run_decompositions()
    assert not any("akm_triton" in str(node.target) for node in plain.graph.nodes)
    return plain.module()


@pytest.mark.parametrize(
    ("sizes", "shapes"),
    [
        ((BATCH, HEIGHT, WIDTH), [(4, 12, 10), (1, 2, 33), (7, 20, 1)]),
        whole((BATCH,), [(1, 12, 10), (7, 12, 10)]),
    ],
    ids=["every size", "batch"],
)
def test_ahead_of_time_package(sizes: Any, shapes: Any, tmp_path: Path) -> None:
    """Exported with sizes that vary, compiled by AOTInductor, loaded."""
    model = akm.AKMConv2d(3, 4, 3, padding=1, max_radius=4, border="circular")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's own doing
        path = torch._inductor.aoti_compile_and_package(
            exported(model, *sizes), package_path=str(tmp_path / "model.pt2")
        )
        run = torch._inductor.aoti_load_package(path)
    for n, h, w in shapes:
        x = torch.randn(n, 3, h, w)
        torch.testing.assert_close(run(x), model(x), rtol=0, atol=2e-6)


class Blurs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.r = nn.Parameter(torch.tensor([0.4, 1.3, 2.8]))

    def forward(self, z: Tensor) -> list[Tensor]:
        of_samples = self.r * z.mean((2, 3)).sigmoid()
        cases = [(self.r, "symmetric", 5), (self.r, "zeros", 4), (self.r, "circular", 4)]
        cases += [(self.r, "reflect", 2), (of_samples, "replicate", 1), (of_samples, "zeros", 1)]
        return [akm.gaussian_blur(z, r, border=border, max_radius=n) for r, border, n in cases]


def test_an_exported_program_of_every_size_needs_no_op_of_ours() -> None:
    """Taps of the channels, in one convolution and in two, and taps of each sample."""
    model = Blurs()
    program = decomposed(exported(model, BATCH, HEIGHT, WIDTH))
    for shape in ((4, 3, 12, 10), (1, 3, 33, 2), (5, 3, 1, 7)):
        z = torch.randn(shape)
        for x in (z, z.contiguous(memory_format=torch.channels_last)):
            torch.testing.assert_close(program(x), model(x), rtol=0, atol=1e-6)


def test_an_exported_program_of_one_size_needs_no_op_of_ours() -> None:
    model = nn.Sequential(akm.AKMConv2d(3, 4, 3, padding=1), akm.Modulation2d(4, **akm.PAPER))
    program = decomposed(exported(model, BATCH))
    for n in (1, 7):
        x = torch.randn(n, 3, 12, 10)
        torch.testing.assert_close(program(x), model(x))


@pytest.mark.filterwarnings("ignore:.torch.jit.trace")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("per", ["channel", "layer"])
def test_jit_trace(per: str, dtype: torch.dtype) -> None:
    """The first call of a process, too, is one that can be repeated, of any size."""
    _shared_rules.cache_clear()
    model = nn.Sequential(
        akm.AKMConv2d(3, 4, 3, padding=1, max_radius=6, per=per, truncate=3.0),
        akm.Modulation2d(4, max_radius=5, per=per),
    ).to(dtype)
    traced = torch.jit.trace(model, torch.randn(2, 3, 9, 8, dtype=dtype))  # warnings are errors
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -2, 2)
    for shape in ((2, 3, 9, 8), (5, 3, 13, 7)):
        x = torch.randn(shape, dtype=dtype)
        y, wanted = traced(x), model(x)
        torch.testing.assert_close(y, wanted)  # a trace computes taps by PyTorch's operators
        parameters = list(model.parameters())
        torch.testing.assert_close(
            torch.autograd.grad(y.square().mean(), parameters),
            torch.autograd.grad(wanted.square().mean(), parameters),
        )


@pytest.mark.filterwarnings("ignore:.torch.jit.trace")
def test_what_a_trace_leaves_behind_serves_others() -> None:
    """A constant that is made inside a trace is none of its nodes."""
    _shared_rules.cache_clear()
    sigma = torch.rand(3)
    torch.jit.trace(lambda sigma: akm.gaussian_taps(sigma, 4), sigma)
    other = torch.jit.trace(lambda sigma: akm.gaussian_taps(sigma, 4), sigma)
    assert torch.equal(other(2 * sigma), akm.gaussian_taps(2 * sigma, 4))
    with pytest.raises(ValueError, match=re.escape("r must have shape (), (1,), (2,) or (1, 2)")):
        torch.jit.trace(akm.modulate, (torch.randn(1, 2, 4, 4), sigma, sigma))


@pytest.mark.parametrize("name", ["AKMConv2d", "Modulation2d"])
def test_jit_script_says_what_to_do_instead(name: str) -> None:
    layer = akm.AKMConv2d(3, 4, 3) if name == "AKMConv2d" else akm.Modulation2d(3)
    model = nn.Sequential(nn.ReLU(), layer)
    with pytest.raises(NotImplementedError, match=f"cannot compile {name}: use torch.jit.trace"):
        torch.jit.script(model)
    assert model[1] is layer


@pytest.mark.filterwarnings("ignore")  # the exporter says of itself that it is old
def test_the_onnx_exporter_of_torchscript_says_what_to_do_instead(tmp_path: Path) -> None:
    x, path = torch.randn(1, 3, 6, 5), tmp_path / "model.onnx"
    with pytest.raises(NotImplementedError, match="export with dynamo=True"):
        torch.onnx.export(akm.Modulation2d(3), (x,), path, dynamo=False)
    torch.jit.trace(akm.Modulation2d(3), x)  # no export any more


def test_fx() -> None:
    """Symbolic tracing keeps the functions whole; parameters stay those of the model."""
    model = nn.Sequential(
        akm.AKMConv2d(3, 4, 3, padding=1, max_radius=5, border="zeros"),
        nn.ReLU(),
        akm.Modulation2d(4, **akm.PAPER),
    )
    traced = pickle.loads(pickle.dumps(torch.fx.symbolic_trace(model)))
    for parameter, mine in zip(traced.parameters(), model.parameters(), strict=True):
        nn.init.uniform_(mine, -2, 2)
        parameter.data.copy_(mine.data)
    for x in (torch.randn(2, 3, 9, 8), torch.randn(3, 7, 5)):
        y, wanted = traced(x), model(x)
        assert torch.equal(y, wanted)
        for found, want in zip(
            torch.autograd.grad(y.square().mean(), list(traced.parameters())),
            torch.autograd.grad(wanted.square().mean(), list(model.parameters())),
            strict=True,
        ):
            torch.testing.assert_close(found, want)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda z, r, s: akm.modulate(z, r, s=s, border="reflect") + 1, [(2, 3, 6, 5), (3,), (3,)]),
        (lambda z, r: akm.gaussian_blur(2 * z, r, max_radius=3, truncate=1.0), [(3, 6, 5), (3,)]),
        (lambda r: akm.gaussian_taps(r, 7, gaussian="sampled").sum(-1), [(2, 3)]),
        (lambda z: akm.gaussian_blur(z, torch.tensor(2.0), border="circular"), [(1, 2, 6, 5)]),
    ],
    ids=["modulate", "gaussian_blur", "gaussian_taps", "constant"],
)
def test_fx_of_functions(function: Any, shapes: list[tuple[int, ...]]) -> None:
    inputs = [torch.rand(shape) for shape in shapes]
    assert torch.equal(torch.fx.symbolic_trace(function)(*inputs), function(*inputs))


class Layers(torch.fx.Tracer):
    """Keeps layers whole, as a user may want to cut a model between them."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        layers = akm.AKMConv2d, akm.Modulation2d
        return isinstance(module, layers) or super().is_leaf_module(module, name)


@pytest.mark.parametrize("tracer", [torch.fx.Tracer, Layers])
def test_fx_takes_features_out_of_a_model(tracer: type[torch.fx.Tracer]) -> None:
    model = nn.Sequential(akm.AKMConv2d(3, 4, 3), nn.ReLU(), akm.Modulation2d(4), nn.Flatten())
    traced = torch.fx.GraphModule(model, tracer().trace(model))
    *_, flat, output = traced.graph.nodes
    output.args = (flat.args[0],)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    x = torch.randn(2, 3, 9, 8)
    assert torch.equal(traced(x), model[:3](x))


def test_fx_fuses_a_norm_only_into_a_convolution_before_it() -> None:
    from torch.fx.experimental.optimization import fuse

    x = torch.randn(2, 3, 9, 8)
    for layers in (
        [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), akm.Modulation2d(4)],
        [akm.AKMConv2d(3, 4, 3), nn.BatchNorm2d(4)],
    ):
        nn.init.uniform_(layers[1].running_mean)
        model = nn.Sequential(*layers).eval()
        torch.testing.assert_close(fuse(model)(x), model(x))


class PerSample(nn.Module):
    def forward(self, z: Tensor, r: Tensor) -> Tensor:
        return akm.modulate(z, r, torch.zeros(3), max_radius=3)


def test_an_exported_batch_may_be_as_large_as_the_channels_are_many() -> None:
    """No size of the batch is compared with another number, which the program would then insist
    on."""
    batch, module = torch.export.Dim("batch", min=1, max=64), PerSample()
    example = torch.randn(4, 3, 6, 5), torch.rand(4, 3)
    program = torch.export.export(module, example, dynamic_shapes=({0: batch}, {0: batch}))
    for n in (1, 3, 5):
        z, r = torch.randn(n, 3, 6, 5), torch.rand(n, 3)
        torch.testing.assert_close(program.module()(z, r), module(z, r))


CAPTURE = """
import torch, triton
from torch._functorch.aot_autograd import aot_export_joint_simple
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from triton.backends.compiler import GPUTarget

class Driver:
    def get_current_target(self): return GPUTarget("cuda", 90, 32)
    def get_current_device(self): return 0
    def is_active(self): return True
    def get_active_torch_device(self): return torch.device("cpu")

triton.runtime.driver.set_active(Driver())
from akm_triton import modulation

env = ShapeEnv()
mode = FakeTensorMode(shape_env=env)
def fake(x, *dynamic):
    sizes = [DimDynamic.DYNAMIC if i in dynamic else DimDynamic.STATIC for i in range(x.dim())]
    return mode.from_tensor(x, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))

z = torch.randn(4, 3, 56, 56, dtype=torch.float16, requires_grad=True)
r, s = torch.rand(3, requires_grad=True), torch.rand(3, requires_grad=True)
for stride in ((1, 1), (2, 2)):
    options = "symmetric", "triton", 7, "discrete", None, stride
    graph = aot_export_joint_simple(
        lambda z, r, s: (modulation.modulate(z, r, s, *options),),
        [fake(z, 0), fake(r), fake(s)], trace_joint=True,
    )
    nodes = [node for node in graph.graph.nodes if node.op == "call_function"]
    launches = [node.kwargs for node in nodes if "triton_kernel_wrapper" in str(node.target)]
    assert not any("akm_triton" in str(node.target) for node in nodes)
    assert [x["tensors_to_clone"] for x in launches] == [
        ["a_ptr", "b_ptr"], ["y_ptr"], ["dz_ptr", "da_ptr", "db_ptr"], ["dr_ptr", "ds_ptr"],
    ]
assert not env.guards, env.guards
"""


def test_compiled_graphs_hold_the_triton_kernels() -> None:
    """With a stand-in for the driver, as nothing is run: two kernels forward and two backward, that
    write what they were given and no copy of the maps, for any batch."""
    command = [sys.executable, "-W", "ignore", "-c", CAPTURE]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "0"}, check=True)


UNKNOWN = """
import warnings, torch
torch.__version__ = "3.0.1"
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    import akm_triton as akm
assert any("was not tried on PyTorch 3.0.1" in str(x.message) for x in seen)
generator = torch.Generator().manual_seed(0)
z, r, s = (torch.rand(n, generator=generator, dtype=torch.float64) for n in ((1, 2, 4, 3), 2, 2))
inputs = [x.requires_grad_() for x in (z, r, s)]
def f(*x): return akm.modulate(*x, max_radius=3)
assert torch.autograd.gradcheck(f, inputs) and torch.autograd.gradgradcheck(f, inputs)
compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
found, wanted = (torch.autograd.grad(g(*inputs).square().sum(), inputs) for g in (compiled, f))
torch.testing.assert_close(found, wanted)
for forbidden in (
    lambda: torch.func.jvp(f, tuple(inputs), tuple(inputs)),
    lambda: torch.func.jacfwd(f)(*inputs),
    lambda: torch.func.grad(lambda r: f(z, r, s).sum())(r),
    lambda: torch.compile(lambda *x: torch.func.jvp(f, x, x), backend="eager")(z, r, s),
):
    try:
        forbidden()
    except (NotImplementedError, RuntimeError):
        continue
    raise AssertionError("answered what it cannot know")
"""


def test_a_pytorch_of_unknown_version() -> None:
    """Public names alone: training, compiled or not, is right; forward mode is never zero."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", UNKNOWN], cwd=ROOT, check=True)


RELOAD = """
import gc, importlib, sys, torch
import akm_triton as before

def check(akm, layer):
    torch.manual_seed(0)
    z, r, s = (torch.rand(n, dtype=torch.float64, requires_grad=True) for n in ((1, 2, 3, 2), 2, 2))
    def f(*x): return akm.modulate(*x, max_radius=2)
    assert torch.autograd.gradcheck(f, (z, r, s), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, (z, r, s), fast_mode=True)
    layer(z.float()).square().sum().backward()
    assert (layer.r.grad != 0).all()

old = before.Modulation2d(2)
for name in [x for x in sys.modules if x.partition(".")[0] == "akm_triton"]:
    del sys.modules[name]
import akm_triton as after
assert after is not before
gc.collect()
check(after, after.Modulation2d(2))
check(before, old)
for name in ("autograd", "gated_taps", "ops", "functional", "layers"):
    importlib.reload(sys.modules["akm_triton." + name])
importlib.reload(after)
gc.collect()
check(after, after.Modulation2d(2))
check(before, old)
"""


def test_imported_again_and_reloaded() -> None:
    """What was made before keeps its derivatives, and so has what is made after."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", RELOAD], cwd=ROOT, check=True)
