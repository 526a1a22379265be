"""convert and revert: what they keep, what they refuse, all or nothing."""

from __future__ import annotations

import copy
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import akm_triton as akm
from akm_triton.surgery.places import Modulated
from tests.surgery.networks import NETWORKS, ResNet, apart, images, import_timm, network

PLACED = {
    "resnet": {
        "layer1.conv1": "layer1.bn1",
        "layer1.conv2": "layer1.bn2",
        "layer1.downsample.0": "layer1.downsample.1",
        "layer2.1.conv1": "layer2.1.bn1",
        "layer2.1.conv2": "layer2.1.bn2",
        "layer2.1.downsample.0": "layer2.1.downsample.1",
    },
    "unet": {"middle.0": "middle.0", "up": "up", "out.0": "out.0", "out.3": "out.3"},
    "mobilenet": {"expand": "bn1", "depthwise": "bn2", "project": "bn3"},
    "convnext": {"depthwise": "depthwise"},
}
ROWS = [
    (name, where)
    for name in NETWORKS
    for where in ("auto", "conv", "norm")
    if (name, where) != ("convnext", "norm")  # its norm is not of maps
]
each_network = pytest.mark.parametrize("name", NETWORKS)


def converted(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The report; that a gate is divided out is told elsewhere."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the gate of")
        return akm.convert(model, *args, **kwargs)


def block(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), *layers).eval()


def state(model: nn.Module) -> tuple[Any, ...]:
    """All that a conversion may change: objects, classes, flags, hooks and numbers."""
    modules = [
        (name, id(x), type(x), x.training, sorted(vars(x)), len(x._load_state_dict_pre_hooks))
        for name, x in model.named_modules(remove_duplicate=False)
    ]
    tensors = {k: (id(x), x.requires_grad) for k, x in model.named_parameters()}
    return modules, tensors, {k: x.clone() for k, x in model.state_dict().items()}


def same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    return (
        a[:2] == b[:2]
        and list(a[2]) == list(b[2])
        and all(torch.equal(x, y) for x, y in zip(a[2].values(), b[2].values(), strict=True))
    )


@each_network
def test_auto_puts_it_after_a_batch_norm_else_into_the_convolution(name: str) -> None:
    model = network(name)
    report = akm.convert(model)
    assert report.placed == PLACED[name]
    for layer in PLACED[name].values():
        module = model.get_submodule(layer)
        inside = [x for x in module.modules() if isinstance(x, akm.blurred.Gated)]
        assert len(inside) == 1
    stem = {"unet": "down.0", "resnet": "stem.0"}.get(name, "stem")
    assert report.skipped[stem] == "3 channels, fewer than min_channels=16"
    assert len(report.parameters) == 2 * len(report.placed)
    if name == "mobilenet":
        assert {k: v[:24] for k, v in report.skipped.items() if k != "stem"} == {
            "se.reduce": "its maps have one pixel,", "se.expand": "its maps have one pixel,",
        }  # fmt: skip


@pytest.mark.parametrize(("name", "where"), ROWS)
def test_the_output_stays(name: str, where: str) -> None:
    model, x = network(name), images()
    y = model(x)
    report = converted(model, where=where)
    assert apart(model(x), y) < 0.02
    assert not any(module.training for module in model.modules())
    for r in report.parameters[::2]:
        assert (r == 0.05).all()
        nn.init.zeros_(r)
    assert apart(model(x), y) < 1e-6
    # and it is the blur and the gate that are there: with others, the output is another
    for p in report.parameters:
        nn.init.constant_(p, 1.0)
    assert apart(model(x), y) > 0.02


@pytest.mark.parametrize(("name", "where"), ROWS)
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "bare"])
def test_revert_undoes_it(name: str, where: str, exact: bool) -> None:
    model = network(name)
    before = state(model)
    report = converted(model, where=where, exact=exact)
    assert not same(before, state(model))
    for p in report.parameters:
        nn.init.constant_(p, 1.0)  # as if trained
    copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    for changed in (model, copied):
        assert set(akm.revert(changed)) == set(report.placed.values())
    after = state(model)
    if exact:
        for key, value in before[2].items():
            torch.testing.assert_close(after[2][key], value, rtol=3e-7, atol=0)
            after[2][key] = value
    assert same(before, after)
    assert [type(x) for x in copied.modules()] == [type(x) for x in model.modules()]
    assert akm.revert(model) == []


@pytest.mark.parametrize(("name", "where"), ROWS)
def test_twice_is_once(name: str, where: str) -> None:
    model = network(name)
    first = converted(model, where=where)
    before = state(model)
    again = converted(model, where=where)
    assert not again.placed and same(before, state(model))
    done = {k for k, why in again.skipped.items() if why == "has modulation already"}
    assert done == first.placed.keys()


@pytest.mark.parametrize(("name", "where"), ROWS)
def test_a_plain_checkpoint_loads_as_if_converted_afterwards(name: str, where: str) -> None:
    model, x = network(name), images()
    plain = OrderedDict((k, v.clone()) for k, v in model.state_dict().items())
    converted(model, where=where)
    y = model(x)
    for p in model.parameters():
        nn.init.constant_(p, 0.3)
    own = copy.deepcopy(model.state_dict())
    kept = list(plain)
    model.load_state_dict(plain)
    assert list(plain) == kept
    torch.testing.assert_close(model(x), y)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        copied.load_state_dict(plain, assign=True)
        torch.testing.assert_close(copied(x), y)
    model.load_state_dict(own)  # and its own checkpoint is taken as it is
    assert all(torch.equal(v, own[k]) for k, v in model.state_dict().items())
    for ending in ".r", ".s", "t":  # with a half of it gone, no checkpoint is taken for a plain one
        some = {k: v for k, v in own.items() if not k.endswith(ending)}
        with pytest.raises(RuntimeError, match=rf"Missing key.*{ending}\""):
            model.load_state_dict(some)
        some = {k: v for k, v in plain.items() if not k.endswith("t")}
        model.load_state_dict(some, strict=False)
        own_r = {k: v for k, v in own.items() if k.endswith((".r", ".s"))}
        assert all(torch.equal(model.state_dict()[k], v) for k, v in own_r.items())


@each_network
def test_a_training_step(name: str) -> None:
    model = network(name).train()
    report = akm.convert(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    before = [p.clone() for p in report.parameters]
    F.cross_entropy(model(images()), torch.arange(4)).backward()
    optimizer.step()
    assert all((p != b).all() for p, b in zip(report.parameters, before, strict=True))


def test_the_convolution_stays_the_same_object() -> None:
    model = block(nn.ReLU()).to(torch.bfloat16, memory_format=torch.channels_last)
    conv = model[0]
    conv.weight.requires_grad_(False)
    calls: list[str] = []
    conv.register_forward_hook(lambda *_: calls.append("hook"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weight = conv.weight
    akm.convert(model, exact=False)
    assert model[0] is conv and type(conv) is akm.AKMConv2d and conv.weight is weight
    assert optimizer.param_groups[0]["params"][0] is weight and not weight.requires_grad
    assert weight.is_contiguous(memory_format=torch.channels_last) and not conv.training
    assert weight.dtype == torch.bfloat16 and conv.r.dtype == conv.s.dtype == torch.float32
    assert model(torch.randn(1, 16, 5, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert calls == ["hook"]


def test_hooks_still_run() -> None:
    model, calls = nn.Sequential(block(nn.BatchNorm2d(16))), []
    norm = model[0][1]
    for module in (norm, model[0]):
        module.register_forward_hook(lambda *_: calls.append("after"))
        module.register_forward_pre_hook(lambda *_: calls.append("before"))
    akm.convert(model)
    assert calls == [], "the model is not run"
    model(torch.randn(1, 16, 5, 5))
    assert calls == ["before", "before", "after", "after"] and model[0][1].layer is norm


def test_a_module_in_two_places_is_converted_once() -> None:
    conv, bn = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
    model = nn.Sequential(conv, bn, nn.ReLU(), conv, bn, nn.Sequential(conv)).eval()
    x = torch.randn(1, 16, 8, 8)
    y = model(x)
    report = converted(model, where="norm", r=0)
    assert model[1] is model[4] and isinstance(model[1], Modulated)
    assert len(report.parameters) == 2 and apart(model(x), y) < 1e-6
    akm.revert(model)
    assert model[1] is bn and model[4] is bn
    report = akm.convert(model, r=0)  # one of its calls is not followed by the norm
    assert report.placed == {"0": "0"} and apart(model(x), y) < 1e-6
    assert model[0] is model[3] is model[5][0] is conv


def test_norms_that_are_called_from_a_list() -> None:
    """A forward that finds them there goes past what has taken their place among the children."""

    class Listing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(16, 16, 3, padding=1)
            self.a, self.b, self.c = (nn.BatchNorm2d(16) for _ in "abc")
            self.norms = [(self.conv, self.a), {"b": self.b}, self.c]
            self.endless = [self.norms]
            self.endless.append(self.endless)

        def forward(self, x: Tensor) -> Tensor:
            (conv, a), others, c = self.norms
            return c(others["b"](a(conv(x)).sigmoid()).sigmoid())

    model, x = Listing().eval(), torch.randn(1, 16, 8, 8)
    norms, y = model.norms, model(x)
    akm.convert(model, where="norm", r=0, exact=True)
    assert apart(model(x), y) < 1e-6
    assert model.norms is norms and norms[0] == (model.conv, model.a) and norms[2] is model.c
    akm.revert(model)
    assert apart(model(x), y) < 1e-6
    assert norms == [(model.conv, model.a), {"b": model.b}, model.c]


def test_two_convolutions_with_one_norm() -> None:
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.bn = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)

        def forward(self, x: Tensor) -> Tensor:
            return self.bn(self.a(x)) + self.bn(self.b(x))

    model, x = Twins().eval(), torch.randn(1, 16, 5, 5)
    y = model(x)
    report = akm.convert(model, r=0)
    assert report.placed == {"a": "bn", "b": "bn"} and len(report.parameters) == 2
    assert isinstance(model.bn.layer, nn.BatchNorm2d) and apart(model(x), y) < 1e-6


def test_a_convolution_with_a_norm_for_each_call() -> None:
    """As in the heads of a detector."""

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(16, 16, 3, padding=1)
            self.norms = nn.ModuleList([nn.BatchNorm2d(16), nn.BatchNorm2d(16)])

        def forward(self, x: Tensor) -> Tensor:
            for norm in self.norms:
                x = norm(self.conv(x))
            return x

    model = Head().eval()
    assert akm.convert(model).placed == {"conv": "norms.0 and norms.1"}
    assert all(isinstance(x, Modulated) for x in model.norms)
    assert akm.revert(model) == ["norms.0", "norms.1"]


def test_synchronised_batch_norm_afterwards() -> None:
    model, x = network("resnet"), images()
    akm.convert(model)
    y = model(x)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert isinstance(model.layer1.bn1.layer, nn.SyncBatchNorm)
    torch.testing.assert_close(model(x), y)
    assert len(akm.revert(model)) == 6


def test_a_frozen_network_stays_so_but_for_modulation() -> None:
    model = block(nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1)).requires_grad_(False)
    with torch.no_grad():
        report = akm.convert(model)
    optimizer = torch.optim.AdamW(akm.parameter_groups(model, lr=0.1, weight_decay=0.1))
    before = state(model)[2]
    model(torch.randn(2, 16, 8, 8)).square().sum().backward()
    optimizer.step()
    moved = {k for k, x in model.state_dict().items() if not torch.equal(x, before[k])}
    assert moved == {"1.modulation.r", "1.modulation.s", "3.r", "3.s"}
    assert len(report.parameters) == 4


def test_an_old_fsdp_is_refused() -> None:
    """It needs an accelerator to be made."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = FullyShardedDataParallel.__new__(FullyShardedDataParallel)
    nn.Module.__init__(model)
    model._modules["_fsdp_wrapped_module"] = block()
    with pytest.raises(ValueError, match="the model is sharded; convert, fold or revert before"):
        akm.convert(model)


def test_distributed_data_parallel() -> None:
    model = network("resnet").train()
    report = akm.convert(model)
    x = images()
    wanted = torch.autograd.grad(model(x).square().sum(), report.parameters)
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(model)
        parallel(x).square().sum().backward()
        with pytest.raises(ValueError, match="wrapped by DDP"):
            akm.convert(parallel)
    finally:
        torch.distributed.destroy_process_group()
    for p, grad in zip(report.parameters, wanted, strict=True):
        torch.testing.assert_close(p.grad, grad)


def test_compiles() -> None:
    """What was compiled before is compiled again."""
    model, x = block(nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1)), torch.randn(1, 16, 8, 8)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        y = compiled(x)
        report = akm.convert(compiled, r=0)
        assert len(report.placed) == 2 and apart(compiled(x), y) < 1e-6
        for p in report.parameters:
            nn.init.constant_(p, 1.0)
        assert apart(compiled(x), y) > 0.1
        torch.testing.assert_close(compiled(x), model(x))
        akm.revert(compiled)
        assert apart(compiled(x), y) < 1e-6


SELECTED = [
    ("conv1", ["layer1.conv1", "layer2.1.conv1"]),
    ("layer1.conv1", ["layer1.conv1"]),
    ("layer2", ["layer2.1.conv1", "layer2.1.conv2", "layer2.1.downsample.0"]),
    (re.compile(r"\.conv2$"), ["layer1.conv2", "layer2.1.conv2"]),
    (
        lambda name, module: module.kernel_size == (1, 1),
        ["layer1.downsample.0", "layer2.1.downsample.0"],
    ),
    (["layer1.conv2", re.compile("r2.*v1")], ["layer1.conv2", "layer2.1.conv1"]),
]  # fmt: skip


@pytest.mark.parametrize(("selector", "wanted"), SELECTED)
def test_match_and_exclude(selector: Any, wanted: list[str]) -> None:
    assert list(akm.convert(ResNet(), selector).placed) == wanted
    report = akm.convert(ResNet(), exclude=selector)
    assert set(report.placed) == set(PLACED["resnet"]) - set(wanted)
    assert {k for k, why in report.skipped.items() if why == "excluded"} == set(wanted)


def test_norms_have_their_own_names() -> None:
    report = akm.convert(ResNet(), "bn1", where="norm", max_radius=3, per="layer")
    assert report.placed == {x: x for x in ("layer1.bn1", "layer2.1.bn1")}
    assert [p.shape for p in report.parameters] == [(1,)] * 4


def test_min_channels() -> None:
    assert "stem.0" in akm.convert(ResNet(), min_channels=3).placed
    with pytest.raises(ValueError, match=r"nothing to convert: stem.0 .3 channels, fewer"):
        akm.convert(ResNet(), min_channels=17)


def test_where_r_starts() -> None:
    for options, r in ({}, 0.05), (akm.PAPER, 0.5), (dict(r=0.2), 0.2):
        model = block()
        akm.convert(model, **options)  # type: ignore[arg-type]
        assert (model[0].r == r).all() and (model[0].s == 2).all()


def test_the_report_is_a_table() -> None:
    model = nn.Sequential(block(nn.BatchNorm2d(16)), block(), nn.Conv2d(3, 2, 1)).eval()
    assert repr(akm.convert(model)) == (
        "placed: 2\n"
        "  0.0  after 0.1\n"
        "  1.0  here\n"
        "skipped: 1\n"
        "  2  3 channels, fewer than min_channels=16\n"
        "new parameters: 64, in no optimizer yet"
    )


@pytest.mark.parametrize("names", [False, True], ids=["plain", "named"])
def test_optimizers_get_the_new_parameters(names: bool) -> None:
    model = nn.ModuleDict({x: block(nn.BatchNorm2d(16)) for x in "abc"})

    def of(key: str) -> Any:
        return model[key].named_parameters(key) if names else model[key].parameters()

    first = torch.optim.AdamW([{"params": of("a"), "lr": 0.5}], lr=0.1, weight_decay=0.3)
    second = torch.optim.SGD(of("b"), lr=0.2)
    report = akm.convert(model, optimizers=[first, second], where="norm")  # c is in neither
    got = [
        (g["lr"], g["weight_decay"], g["params"])
        for o in (first, second)
        for g in o.param_groups[1:]
    ]
    a, b, c = (list(report.parameters[i : i + 2]) for i in (0, 2, 4))
    wanted = [(0.5, 0.0, a), (0.1, 0.0, c), (0.2, 0.0, b)]
    assert [x[:2] for x in got] == [x[:2] for x in wanted]
    for (*_, x), (*_, y) in zip(got, wanted, strict=True):
        assert [*map(id, x)] == [*map(id, y)]
    assert "in the optimizers" in repr(report)
    if names:
        assert first.param_groups[1]["param_names"] == ["a.1.modulation.r", "a.1.modulation.s"]


def test_all_or_nothing() -> None:
    """The last step of all fails."""

    class Broken(torch.optim.SGD):
        def add_param_group(self, group: dict[str, Any]) -> None:
            if hasattr(self, "ready"):
                raise RuntimeError("no more groups")
            super().add_param_group(group)

    for name, where in ROWS:
        model = network(name)
        before = state(model)
        layers = list(converted(copy.deepcopy(model), where=where).placed.values())
        last = list(model.get_submodule(layers[-1]).parameters())
        rest = [p for p in model.parameters() if not any(p is x for x in last)]
        kept, broken = torch.optim.SGD(rest, lr=0.1), Broken(last, lr=0.1)
        broken.ready = True  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError, match="no more groups"):
            converted(model, where=where, optimizers=[kept, broken])
        assert same(before, state(model))
        assert len(kept.param_groups) == len(broken.param_groups) == 1


def test_what_is_made_in_inference_mode_can_be_trained() -> None:
    model = block(nn.BatchNorm2d(16))
    with torch.inference_mode():
        report = akm.convert(model)
    model(torch.randn(1, 16, 5, 5)).sum().backward()
    assert all(p.grad is not None for p in report.parameters)


def test_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1))
    report = akm.convert(model)
    assert all(p.is_meta for p in report.parameters)
    bare = {k: torch.empty_like(v, device="meta") for k, v in model.state_dict().items()}
    model.load_state_dict(
        {k: v for k, v in bare.items() if k[-2:] not in (".r", ".s")}, assign=True
    )
    assert all(p.is_meta for p in model.parameters())
    plain = nn.Sequential(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1))
    model.load_state_dict(plain.state_dict(), assign=True)
    x = torch.randn(1, 16, 8, 8)
    akm.convert(plain)
    torch.testing.assert_close(model.eval()(x), plain.eval()(x))


def test_what_a_forward_stores_stays_out_of_the_model() -> None:
    class Storing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.seen = nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), []
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.last = self.bn(self.conv(x))
            self.seen.append(self.last)
            self.calls += 1
            return self.last

    model = Storing()
    akm.convert(model)
    assert model.seen == [] and not hasattr(model, "last") and model.calls == 0


class Untraceable(nn.Module):
    """torch.fx cannot follow it; its parts it can."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.keep = nn.Identity()
        self.bn = nn.BatchNorm2d(16)
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = x + 1
        return self.part(self.bn(self.keep(self.conv(x))))


def test_the_order_of_children_serves_where_tracing_fails() -> None:
    class Odd(nn.Module):
        """Its children are not in the order in which they are called."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
            self.bn_a, self.bn_b = nn.BatchNorm2d(16), nn.BatchNorm2d(16)

        def forward(self, x: Tensor) -> Tensor:
            return self.bn_b(self.b(self.bn_a(self.a(x))))

    placed = akm.convert(Untraceable(Odd())).placed
    assert placed == {"conv": "bn", "part.a": "part.bn_a", "part.b": "part.bn_b"}


def test_a_norm_may_follow_at_a_distance() -> None:
    """What passes a factor on hides no norm."""

    class Old(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16)
            self.drop = nn.Dropout2d()

        def forward(self, x: Tensor) -> Tensor:
            return self.bn(F.max_pool2d(self.drop(self.conv(x)).contiguous().relu(), 2))

    assert akm.convert(Old()).placed == {"conv": "bn"}


class Branches(nn.Module):
    """The output of the convolution goes to a norm, and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y + self.bn(y)


def test_a_gate_that_a_norm_divides_out_of_one_branch_is_of_use_in_the_other() -> None:
    assert akm.convert(Branches()).placed == {"conv": "conv"}  # warnings are errors


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(self.conv(x), None, None, training=True)


def test_maps_of_one_pixel_may_grow() -> None:
    """As the image pooling of a DeepLab."""

    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.small, self.large = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.large(F.interpolate(self.small(self.pool(x)).relu(), size=(9, 9)))

    report = akm.convert(Pyramid())
    assert list(report.placed) == ["large"] and list(report.skipped) == ["small"]


class Joined(nn.Module):
    """As in a DenseNet: the norm has the channels of other layers too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(32)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(torch.cat([x, self.conv(x)], 1))


@pytest.mark.parametrize(
    ("model", "where"),
    [
        (Functional, "auto"),
        (Joined, "auto"),
        (lambda: block(nn.BatchNorm2d(16)), "conv"),
        (lambda: block(nn.InstanceNorm2d(16)), "conv"),
    ],
    ids=["functional", "joined", "conv", "instance"],
)
def test_warns_of_a_gate_that_is_divided_out(model: Callable[[], nn.Module], where: str) -> None:
    with pytest.warns(UserWarning, match=r"the gate of 1 layers does nothing, .*: (conv|0)$"):
        akm.convert(model(), where=where)


def weight_norm(model: Any) -> Any:
    parametrizations.weight_norm(model[0])
    return model


def pruned(model: Any) -> Any:
    prune.random_unstructured(model[0], "weight", 0.5)
    return model


class OfItsOwn(nn.Conv2d):
    pass


class Activated(nn.BatchNorm2d):
    """Modulation behind it would be behind the activation, which no gate can be moved through."""

    def forward(self, input: Tensor) -> Tensor:
        return F.silu(super().forward(input))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: weight_norm(block()), "parametrized"),
        (lambda: pruned(block()), "its weight is computed"),
        (lambda: nn.Sequential(OfItsOwn(16, 16, 1)), "a class of its own, OfItsOwn"),
        (lambda: block(Activated(16)), "its norm is a class of its own, Activated"),
        (lambda: nn.Sequential(nn.LazyConv2d(16, 1)), "the shape of "),
        (lambda: block(nn.LazyBatchNorm2d(affine=False)), "the shape of "),
        (lambda: block().to(torch.float8_e5m2), "its weight is torch.float8_e5m2"),
    ],
    ids=["weight_norm", "pruned", "class", "norm", "lazy", "lazy norm", "float8"],
)
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_what_cannot_be_converted_is_skipped_with_a_reason(
    model: Callable[[], nn.Module], reason: str
) -> None:
    with pytest.raises(ValueError, match=f"nothing to convert: 0 .{reason}"):
        akm.convert(model())
    both = nn.ModuleList([model(), block()])
    report = akm.convert(both)
    assert list(report.placed) == ["1.0"] and report.skipped["0.0"].startswith(reason)


def test_a_convolution_of_any_class_may_have_modulation_after_its_norm() -> None:
    for conv in (OfItsOwn(16, 16, 1), weight_norm(block())[0]):
        assert akm.convert(nn.Sequential(conv, nn.BatchNorm2d(16))).placed == {"0": "1"}


def tied(data: bool) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1))
    if data:
        model[1].weight.data = model[0].weight.data
    else:
        model[1].weight = model[0].weight
    return model


class Autoencoder(nn.Module):
    """Its decoder has the weight of the encoder, and reads the dtype of another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.stem(x.to(self.stem.weight.dtype)))
        return F.conv_transpose2d(x, self.conv.weight)


@pytest.mark.parametrize(
    ("model", "where", "why"),
    [
        (lambda: block(nn.BatchNorm2d(16, affine=False)), "auto", "0 (there is no weight of 1)"),
        (lambda: block(nn.InstanceNorm2d(16)), "norm", "1 (there is no weight of 1)"),
        (lambda: tied(data=False), "conv", "0 (another layer shares the weight of 0), 1 ("),
        (lambda: tied(data=True), "conv", "0 (another layer shares the weight of 0), 1 ("),
        (Autoencoder, "auto", "conv (the model's forward uses a parameter of conv);"),
    ],
    ids=["affine", "instance", "tied", "tied data", "tied decoder"],
)
def test_refuses_exact_where_it_cannot_be(
    model: Callable[[], nn.Module], where: str, why: str
) -> None:
    made = model()
    before = state(made)
    message = re.escape(f"exact=True cannot divide the gate out of {why}")
    with pytest.raises(ValueError, match=message):
        akm.convert(made, where=where)
    assert same(before, state(made))
    akm.convert(made, where=where, exact=False)
    akm.revert(made)
    assert same(before, state(made))


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    (dict(where="bn"), ValueError, "where must be one of .* got 'bn'"),
    (dict(match="layer9"), ValueError, "match='layer9' selects no convolution of the model"),
    (dict(match=["conv1", "no"]), ValueError, "match='no' selects no convolution"),
    (dict(match="conv1", where="norm"), ValueError, "match='conv1' selects no norm"),
    (dict(match=3), TypeError, "match takes names, compiled patterns and functions .* got 3"),
    (dict(exclude=[None]), TypeError, "exclude takes names, .* got None"),
    (dict(min_channels="16"), TypeError, "min_channels must be an int, got '16'"),
    (dict(r="0.1"), TypeError, "r must be None or a number of pixels, got '0.1'"),
    (dict(r=float("nan")), ValueError, "r must be finite and not negative, got nan"),
    (dict(r=-1), ValueError, "r must be finite and not negative, got -1"),
    (dict(sigma=1), TypeError, "options are per, gaussian, .* got sigma"),
    (dict(border="none"), ValueError, "border must be one of"),
    (dict(optimizers=[3]), TypeError, "optimizers must be optimizers, got int"),
    (dict(exclude="conv1", match="conv1"), ValueError, "nothing to convert: .*excluded"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), REFUSED)
def test_refuses(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    model = ResNet()
    before = state(model)
    with pytest.raises(error, match=message):
        akm.convert(model, **arguments)
    assert same(before, state(model))


def test_refuses_models_without_anything_to_convert() -> None:
    with pytest.raises(ValueError, match="the model has no convolution of maps"):
        akm.convert(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="the model has no norm of maps"):
        akm.convert(block(), where="norm")
    with pytest.raises(ValueError, match="it is the model itself"):
        akm.convert(nn.BatchNorm2d(16), where="norm")
    for function in (akm.convert, akm.revert):
        with pytest.raises(TypeError, match="model must be a Module, got dict"):
            function({})  # type: ignore[operator]


def test_a_single_layer_is_a_model_too() -> None:
    conv = nn.Conv2d(16, 16, 3)
    assert akm.convert(conv).placed == {"": ""} and type(conv) is akm.AKMConv2d
    assert akm.revert(conv) == [""] and type(conv) is nn.Conv2d


def test_revert_leaves_alone_what_convert_did_not_make() -> None:
    model = nn.Sequential(akm.AKMConv2d(16, 16, 1), nn.BatchNorm2d(16), akm.Modulation2d(16))
    before = state(model)
    assert not akm.convert(model).placed and akm.revert(model) == []
    assert same(before, state(model))


def test_modulation_by_hand_counts_as_modulation() -> None:
    layers: list[nn.Module]
    for where in "auto", "norm":
        for layers in [nn.BatchNorm2d(16), akm.Modulation2d(16)], [akm.Modulation2d(16)]:
            model = nn.Sequential(akm.AKMConv2d(16, 16, 1), nn.Conv2d(16, 16, 1), *layers)
            if where == "auto" or len(layers) == 2:
                assert not akm.convert(model, where=where).placed
    norms = nn.Sequential(nn.BatchNorm2d(16), nn.BatchNorm2d(16))
    assert len(akm.convert(norms, "1", where="norm").placed) == 1
    assert len(akm.convert(norms, "0", where="norm").placed) == 1


def test_scripted_and_traced_parts() -> None:
    part = torch.jit.script(nn.Sequential(nn.Conv2d(16, 16, 1), nn.ReLU()))
    model = nn.Sequential(block(nn.BatchNorm2d(16)), part)
    for whole in torch.fx.symbolic_trace(model), model:
        assert akm.convert(whole).placed == {"0.0": "0.1"}
        akm.revert(whole)


def test_revert_refuses_what_is_computed() -> None:
    model = nn.Sequential(block(), block())
    akm.convert(model)
    prune.random_unstructured(model[1][0], "r", 0.5)
    before = state(model)
    with pytest.raises(ValueError, match=r"1\.0: r of it is computed"):
        akm.revert(model)
    assert same(before, state(model))


def test_every_option_is_gone_with_the_modulation() -> None:
    """Whatever ``AKMConv2d`` keeps beyond ``nn.Conv2d``, convert gives and revert takes."""
    made, model = akm.AKMConv2d(16, 16, 3), block()
    akm.convert(model)
    assert vars(made).keys() - {"start"} == vars(model[0]).keys() - {"start"}
    assert vars(made).keys() - vars(nn.Conv2d(16, 16, 3)).keys() == {
        *akm.blurred.OPTIONS,
        "decimate",
    }


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet50", "convnext_atto", "efficientnet_b0", "mobilenetv3_small_100"],
)
def test_networks_of_timm(name: str) -> None:
    model = import_timm().create_model(name)
    for key, p in model.named_parameters():  # timm begins with branches that do nothing
        if key.endswith("gamma") or (key.endswith("weight") and not p.any()):
            nn.init.constant_(p, 0.5)
    x = F.interpolate(torch.randn(4, 3, 16, 16), scale_factor=4, mode="bilinear")
    with torch.no_grad():
        for _ in range(10):
            model.train()(x)
        y = model.eval()(x)
        plain = copy.deepcopy(model.state_dict())
        report = akm.convert(model)
        assert len(report.placed) > 18 and not akm.convert(model).placed
        assert apart(model(x), y) < 0.02
        for r in report.parameters[::2]:
            r.zero_()
        assert apart(model(x), y) < 1e-6
        model.load_state_dict(plain)
        assert apart(model(x), y) < 0.02
    optimizer = torch.optim.AdamW(akm.parameter_groups(model, lr=1e-3, weight_decay=0.05))
    F.cross_entropy(model.train()(x), torch.arange(4)).backward()
    before = [p.detach().clone() for p in report.parameters]
    optimizer.step()
    for p, b in zip(report.parameters, before, strict=True):
        assert p.isfinite().all() and (p != b).any()
    akm.revert(model)
    model.load_state_dict(plain)
    akm.convert(model, exact=False)
    akm.revert(model.eval())
    assert list(model.state_dict()) == list(plain) and torch.equal(model(x), y)
