"""What PyTorch does to any module, done to these: precision, copies, checkpoints, processes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, skip_init
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import akm_triton as akm
from tests.modes import Watch
from tests.processes import in_two_processes

FORMATS = [torch.contiguous_format, torch.channels_last]


def network(**options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    layer = akm.AKMConv2d(3, 4, 3, padding=1, **options)
    nn.init.uniform_(layer.r, 0.2, 2)
    return nn.Sequential(layer, nn.ReLU(), akm.Modulation2d(4))


def images() -> Tensor:
    return torch.randn(4, 3, 12, 10, generator=torch.Generator().manual_seed(1))


def gradients(model: nn.Module, y: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(y.square().mean(), list(model.parameters())))


@pytest.mark.parametrize("border", ["symmetric", "zeros", "reflect"])
@pytest.mark.parametrize("radius", [1, 15])
def test_nothing_is_read_on_the_host(radius: int, border: str) -> None:
    model = network(max_radius=radius, border=border, truncate=3.0)
    with Watch():
        y = model(images())
        first = torch.autograd.grad(y.square().mean(), list(model.parameters()), create_graph=True)
        torch.autograd.grad(sum(x.square().sum() for x in first), list(model.parameters()))
    with pytest.raises(AssertionError, match="read on the host"), Watch():
        bool(images().sum() > 0)


class Names(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))


class FunctionNames(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("mode", "name"),
    [(Names, "akm_triton.blur"), (FunctionNames, "function modulate")],
    ids=["dispatch", "function"],
)
def test_a_mode_sees_the_op(mode: Any, name: str) -> None:
    # a call that nobody observes passes the dispatcher by
    z, r, s = torch.randn(2, 3, 9, 8), torch.rand(3), torch.zeros(3)
    alone = akm.modulate(z, r, s)
    with mode() as seen:
        y = akm.modulate(z, r, s)
    assert any(name in x for x in seen.seen)
    assert torch.equal(y, alone)


class Mine(Tensor):
    """A subclass as users write them, which hears of every function that is called on it."""

    heard: ClassVar[list[str]] = []

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.heard.append(getattr(func, "__name__", ""))
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize("which", ["z", "r"])
def test_a_subclass_overrides_the_functions(which: str) -> None:
    given = dict(z=torch.randn(2, 3, 9, 8), r=torch.rand(3), s=torch.zeros(3))
    options = dict(border="circular", gaussian="sampled", truncate=2.5, max_radius=4)
    calls: dict[Any, Any] = {
        akm.modulate: lambda z, r, s: akm.modulate(z, r, s, **options),
        akm.gaussian_blur: lambda z, r, s: akm.gaussian_blur(z, sigma=r, **options),
    }
    if which == "r":
        calls[akm.gaussian_taps] = lambda z, r, s: akm.gaussian_taps(r, 4, truncate=1.5)
    for function, call in calls.items():
        Mine.heard.clear()
        y = call(**{**given, which: given[which].as_subclass(Mine)})
        assert type(y) is Mine and function.__name__ in Mine.heard
        assert torch.equal(y.as_subclass(Tensor), call(**given))


def test_a_profiler_sees_the_op() -> None:
    z, r, s = torch.randn(2, 3, 9, 8), torch.rand(3), torch.zeros(3)
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as found:
        akm.modulate(z, r, s)
    assert any("akm_triton::blur" in event.key for event in found.key_averages())


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3)], ids=["layer", "channel", "sample"])
def test_flops(shape: tuple[int, ...]) -> None:
    """A pass of taps along an axis is 2 · (2R + 1) operations at each pixel: R = 4, 2·3·10·7
    pixels. A blur is two; its gradient is two to get there, two by the taps and one by z."""
    one = 2 * 9 * (2 * 3 * 10 * 7)
    z, r, s = torch.randn(2, 3, 10, 7), torch.rand(shape), torch.zeros(shape)

    def counted(call: Any, **options: Any) -> tuple[Any, int]:
        with FlopCounterMode(display=False, **options) as counter:
            out = call()
        counts = counter.get_flop_counts()["Global"]
        return out, sum(n for op, n in counts.items() if "akm_triton" in str(op))

    def blurred(*inputs: Tensor) -> Tensor:
        return akm.modulate(*inputs, max_radius=4)

    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert counted(lambda: blurred(z, r, s))[1] == 2 * one

    inputs = [x.requires_grad_() for x in (z, r, s)]
    y = blurred(*inputs)  # the counter may come late
    first, count = counted(lambda: torch.autograd.grad(y.sum(), inputs, create_graph=True))
    assert count == 5 * one
    plain = tuple(x.detach() for x in inputs)
    alone = (blurred(z, *plain[1:]), z, 2), (blurred(plain[0], r, s), r, 4)
    for y, x, passes in alone:
        assert counted(lambda y=y, x=x: torch.autograd.grad(y.sum(), x))[1] == passes * one
    penalty = sum(x.square().sum() for x in first)
    assert counted(lambda: torch.autograd.grad(penalty, z))[1] >= 10 * one
    tangents = tuple(torch.ones_like(x) for x in inputs)
    found = counted(lambda: torch.func.jvp(blurred, plain, tangents))[1]
    assert found == (2 + 2 + 4) * one  # of y, of z's tangent, of the taps'

    name = torch.ops.akm_triton.blur_r1
    theirs = counted(lambda: blurred(*plain), custom_mapping={name: lambda *a, **k: 1})[1]
    assert theirs == 1


def test_grad_modes_are_kept() -> None:
    z, r, s = torch.randn(2, 3, 9, 8), torch.rand(3, requires_grad=True), torch.zeros(3)
    with torch.no_grad():
        assert not akm.modulate(z, r, s).requires_grad
    assert akm.modulate(z, r, s).requires_grad
    with torch.inference_mode():
        assert akm.modulate(z, r, s).is_inference()


def test_runs_are_bitwise_equal_and_deterministic_algorithms_accept() -> None:
    model = network()
    torch.use_deterministic_algorithms(True)
    try:
        runs = [gradients(model, model(images())) for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(x, y) for x, y in zip(*runs, strict=True))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(reentrant: bool) -> None:
    model, x = network(), images().requires_grad_()
    wanted = gradients(model, model(x))
    y = checkpoint(model, x, use_reentrant=reentrant)
    y.square().mean().backward()
    for parameter, want in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    """Maps follow autocast, parameters stay float32, and gradients are those of float32."""
    model = network()
    wanted = gradients(model, model(images()))
    with torch.autocast("cpu", dtype):
        y = model(images())
    assert y.dtype == dtype
    for found, want in zip(gradients(model, y.float()), wanted, strict=True):
        assert found.dtype == torch.float32
        scale = want.abs().max()
        torch.testing.assert_close(
            found, want, rtol=0, atol=float(8 * torch.finfo(dtype).eps * scale)
        )


def test_grad_scaler_skips_an_infinite_batch_and_recovers() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    start = [p.detach().clone() for p in model.parameters()]
    for x, moves in ((images() * float("inf"), False), (images(), True)):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = model(x).float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        moved = [not torch.equal(p, q) for p, q in zip(model.parameters(), start, strict=True)]
        assert all(moved) if moves else not any(moved)
    assert scaler.get_scale() == 32.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_to_a_dtype(dtype: torch.dtype) -> None:
    model = network()
    wanted = model(images()).detach()
    y = model.to(dtype)(images().to(dtype))
    assert y.dtype == dtype
    eps = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    torch.testing.assert_close(y.float(), wanted, rtol=0, atol=8 * eps * float(wanted.abs().max()))


def test_to_channels_last() -> None:
    model = network()
    wanted = model(images())
    found = model.to(memory_format=torch.channels_last)(  # type: ignore[call-overload]
        images().contiguous(memory_format=torch.channels_last)
    )
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, wanted)


def test_saved_whole_and_as_a_state(tmp_path: Path) -> None:
    model = network()
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    other = network()
    nn.init.zeros_(other[0].r)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for copied in (torch.load(buffer, weights_only=False), other):
        assert torch.equal(copied(images()), model(images()))


def test_skip_init_and_materialisation() -> None:
    skipped = skip_init(akm.AKMConv2d, 3, 4, 3, padding=1)
    assert skipped.r.device.type == "cpu" and skipped.r.shape == (4,)
    with torch.device("meta"):
        layer = akm.AKMConv2d(3, 4, 3, padding=1)
    layer.to_empty(device="cpu")
    layer.reset_parameters()
    assert (layer.r == 0.3).all() and (layer.s == 2).all()
    assert torch.isfinite(layer(images())).all()


def test_parametrized_r() -> None:
    """σ = softplus(ρ), say, instead of |r|."""
    layer = akm.Modulation2d(3)
    parametrize.register_parametrization(layer, "r", nn.Softplus())
    layer(images()).square().mean().backward()
    rho = layer.parametrizations["r"].original
    assert rho.grad is not None and (rho.grad != 0).all()


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_views_serve_as_maps_and_as_gradients(memory_format: torch.memory_format) -> None:
    """Slices, expansions and the stride-0 gradient of a sum."""
    base = torch.randn(4, 6, 14, 20).contiguous(memory_format=memory_format)
    r, s = torch.rand(3) * 2, torch.randn(3)
    views = [base[:, ::2], base[:, :3, 2:9, 1::3], base[:1, :3].expand(5, -1, -1, -1)]
    views.append(base[:, :3].mT)
    for view in views:
        z, copy = (x.detach().requires_grad_() for x in (view, view.clone()))
        y, wanted = akm.modulate(z, r, s), akm.modulate(copy, r, s)
        torch.testing.assert_close(y, wanted)
        y.sum().backward()
        wanted.backward(torch.ones_like(wanted))
        torch.testing.assert_close(z.grad, copy.grad)


def test_warmup_changes_nothing() -> None:
    z, r, s = (torch.rand(n, requires_grad=True) for n in ((2, 3, 8, 7), 3, 3))
    before, state = [x.detach().clone() for x in (z, r, s)], torch.get_rng_state()
    for order in (0, 1, 2, 3):
        akm.warmup(z, r, s, order=order, max_radius=3, border="zeros")
    assert all(torch.equal(x, y) for x, y in zip((z, r, s), before, strict=True))
    assert all(x.grad is None for x in (z, r, s))
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="order must not be negative, got -1"):
        akm.warmup(z, r, s, order=-1)


def _train(rank: int, parallel: str, results: str) -> None:
    model: Any = network()
    if parallel == "DDP":
        model = nn.parallel.DistributedDataParallel(model)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (2,))
        for module in (model[0], model[2], model):
            fully_shard(module, mesh=mesh)
    model(images()[2 * rank : 2 * rank + 2]).square().mean().backward()
    found = [p.grad for p in model.parameters()]
    if parallel == "FSDP2":
        found = [grad.full_tensor() for grad in found]
    if rank == 0:
        torch.save(found, results)


@pytest.mark.parametrize("parallel", ["DDP", "FSDP2"])
def test_two_processes_agree_with_one(parallel: str, tmp_path: Path) -> None:
    results = tmp_path / "gradients.pt"
    in_two_processes(_train, parallel, str(results))
    model = network()
    wanted = gradients(model, model(images()))
    for found, want in zip(torch.load(results), wanted, strict=True):
        torch.testing.assert_close(found, want)


SHARDED = [  # shapes of r and s, options
    ((3,), dict(border="replicate")),
    ((4, 3), dict(border="zeros", truncate=3.0)),
    ((), dict(border="symmetric", gaussian="sampled")),
    ((3,), dict(border="reflect", stride=(2, 1))),
]


def two_orders(z: Tensor, r: Tensor, s: Tensor, options: dict[str, Any]) -> list[Tensor]:
    y = akm.modulate(z, r, s, max_radius=3, **options)
    first = torch.autograd.grad(y.pow(3).sum(), (z, r, s), create_graph=True)
    penalty = sum(x.square().sum() for x in first)
    return [y, *first, *torch.autograd.grad(penalty, (z, r, s))]


def maps_and_parameters(shape: tuple[int, ...]) -> list[Tensor]:
    torch.manual_seed(2)
    tensors = torch.randn(4, 3, 6, 5), torch.rand(shape) + 0.5, torch.randn(shape)
    return [x.double().requires_grad_() for x in tensors]


def _shard(rank: int, results: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_module, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    model = distribute_module(network(), mesh)
    y = model(distribute_tensor(images(), mesh, [Shard(0)]))
    assert y.placements == (Shard(0),)  # each process has computed its own samples
    found = [[x.full_tensor() for x in gradients(model, y)]]
    for shape, options in SHARDED:
        for placement in (Shard(0), Shard(1)):
            z, r, s = (x.detach() for x in maps_and_parameters(shape))
            z = distribute_tensor(z, mesh, [placement]).requires_grad_()
            r, s = (distribute_tensor(x, mesh, [Replicate()]).requires_grad_() for x in (r, s))
            found.append([x.full_tensor().detach() for x in two_orders(z, r, s, options)])
    if rank == 0:
        torch.save(found, results)


def test_shards_in_two_processes(tmp_path: Path) -> None:
    """DTensors, of samples or of channels: the same numbers as of the whole, in two orders."""
    results = tmp_path / "results.pt"
    in_two_processes(_shard, str(results))
    model = network()
    wanted = [gradients(model, model(images()))]
    for shape, options in SHARDED:
        wanted += [two_orders(*maps_and_parameters(shape), options)] * 2
    torch.testing.assert_close(torch.load(results), wanted)
