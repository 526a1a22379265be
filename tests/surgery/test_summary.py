"""The table of a network: numbers worked out by hand, and the field measured on the network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import akm_triton as akm
from akm_triton.surgery.summary import Summary
from tests.processes import in_two_processes
from tests.surgery.networks import NETWORKS, images, network
from tests.surgery.test_convert import state


def with_sigma(layer: Any, *sigmas: float) -> Any:
    with torch.no_grad():
        layer.r.copy_(torch.tensor(sigmas).expand_as(layer.r))
        if isinstance(layer, akm.AKMConv2d):
            nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
    return layer


def field(model: nn.Module, size: int = 64) -> tuple[float | None, ...]:
    found = akm.summary(model, torch.randn(1, 1, size, size))
    return tuple(None if layer.field is None else round(layer.field, 4) for layer in found.layers)


def test_what_the_parameters_say() -> None:
    layer = with_sigma(akm.AKMConv2d(3, 4, 3, max_radius=6), 0.05, -0.5, 1.9, 2.5)
    with torch.no_grad():
        layer.s.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]))
    model = nn.Sequential(nn.ReLU(), layer, akm.Modulation2d(5, per="layer"))
    first, second = akm.summary(model).layers
    assert (first.name, first.channels, first.parameters) == ("1", 4, 3 * 9 * 4 + 4 + 4 + 4)
    assert first.sigma == pytest.approx((0.05, 1.2, 2.5))
    assert (first.narrow, first.wide) == (0.25, 0.25)
    assert first.gate == pytest.approx((0.5, 0.952574))
    assert (first.sigma_input, first.field, first.flops) == (None, None, None)
    assert (second.name, second.channels, second.parameters) == ("2", 5, 2)


def test_scalars_are_the_numbers_of_the_table() -> None:
    inner = nn.Module()
    inner.add_module("conv", with_sigma(akm.AKMConv2d(1, 3, 1), 0.1, 0.2, -0.4))
    model = nn.Module()
    model.add_module("layer1", inner)
    found = akm.scalars(model)
    assert found == pytest.approx(
        {
            "layer1.conv.sigma/min": 0.1,
            "layer1.conv.sigma/median": 0.2,
            "layer1.conv.sigma/max": 0.4,
            "layer1.conv.gate/min": 0.880797,
            "layer1.conv.gate/max": 0.880797,
        }
    )
    assert all(type(value) is float for value in found.values())
    assert "sigma/median" in akm.scalars(akm.Modulation2d(2))
    assert akm.scalars(nn.Linear(2, 2)) == {}


def test_flops_are_two_for_each_product() -> None:
    layer = akm.AKMConv2d(4, 6, 3, stride=2, padding=1, groups=2, max_radius=7)
    model = nn.Sequential(nn.Conv2d(1, 4, 1), layer, akm.Modulation2d(6, max_radius=3))
    first, second = akm.summary(model, torch.randn(3, 1, 8, 10)).layers
    pixels = 6 * 4 * 5
    assert first.flops == 2 * pixels * (2 * 9) + 2 * pixels * 2 * 15
    assert second.flops == 2 * pixels * 2 * 7


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_field_is_the_spread_of_the_gradient(stride: int) -> None:
    """Of an output's gradient by the image: convolutions of 1×1 spread nothing, so its variance
    down the rows is that of the blurs."""
    model = nn.Sequential(
        with_sigma(akm.AKMConv2d(1, 3, 1, stride=stride), 0.4, 0.8, 1.2),
        nn.Conv2d(3, 3, 1, stride=2),
        with_sigma(akm.AKMConv2d(3, 2, 1), 0.9, 0.5),
    ).double()
    nn.init.constant_(model[1].weight, 1 / 3)
    size = 66 * stride
    images = torch.randn(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    y = model(images)
    y[..., y.shape[2] // 2, y.shape[3] // 2].sum().backward()
    assert images.grad is not None
    mass, place = images.grad[0, 0].sum(1), torch.arange(size)
    mass = mass / mass.sum()
    mean = (mass * place).sum()
    measured = float((mass * (place - mean) ** 2).sum().sqrt())
    layers = akm.summary(model, images.detach()).layers
    assert layers[1].field == pytest.approx(measured, rel=1e-3)
    assert layers[1].sigma_input == pytest.approx(0.7 * 2 * stride)


class Block(nn.Module):
    """A residual block with a projection that is modulated too."""

    def __init__(self, sigma: float, shortcut: float) -> None:
        super().__init__()
        self.shortcut = with_sigma(akm.AKMConv2d(1, 1, 1, stride=2), shortcut)
        self.path = with_sigma(akm.AKMConv2d(1, 1, 3, stride=2, padding=1), sigma)
        self.after = with_sigma(akm.Modulation2d(1), 1.0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.path(x)
        y += self.shortcut(x)
        return self.after(y)


def test_branches_beside_each_other_do_not_add() -> None:
    """The most along any way counts, whichever branch ran last."""
    for sigma, shortcut in ((3.0, 0.5), (0.5, 3.0)):
        model = nn.Sequential(Block(sigma, shortcut))
        found = {row.name: row.field for row in akm.summary(model, torch.zeros(1, 1, 9, 9)).layers}
        assert found["0.path"] == pytest.approx(2 * sigma)
        assert found["0.shortcut"] == pytest.approx(2 * shortcut)
        assert found["0.after"] == pytest.approx(2 * (3.0**2 + 1.0**2) ** 0.5)


class Excited(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, 1).sigmoid() * x


ONE = 1.0


@pytest.mark.parametrize(
    ("between", "jump"),
    [
        (nn.Conv2d(1, 1, 3, stride=2), 2),
        (nn.Conv2d(1, 1, 37), 1),  # 64 rows become 28
        (nn.MaxPool2d(3, 2, 1), 2),
        (nn.AvgPool2d(3), 3),
        (nn.Upsample(scale_factor=2), 0.5),
        (nn.ConvTranspose2d(1, 1, 4, stride=4), 0.25),
        (nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4, 1, 1)), 2),
        (nn.ZeroPad2d(9), 1),
        (Excited(), 1),
    ],
    ids=lambda x: type(x).__name__,
)  # fmt: skip
def test_a_pixel_behind_a_stride_is_many_of_the_image(between: nn.Module, jump: float) -> None:
    model = nn.Sequential(between, with_sigma(akm.Modulation2d(1), ONE))
    (row,) = akm.summary(model, torch.randn(1, 1, 64, 64)).layers
    assert row.sigma_input == row.field == pytest.approx(jump)


def test_a_layer_that_is_used_twice_blurs_twice() -> None:
    layer = with_sigma(akm.Modulation2d(1), 2.0)
    model = nn.Sequential(layer, layer)
    assert field(model) == pytest.approx((8**0.5,), abs=1e-3)
    once, twice = (akm.summary(m, torch.zeros(1, 1, 5, 5)).layers[0] for m in (layer, model))
    assert once.flops is not None and twice.flops == 2 * once.flops


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused, self.cut = akm.Modulation2d(1), akm.Modulation2d(1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.cut(x)


def test_what_the_images_do_not_reach_is_left_blank() -> None:
    unused, cut = akm.summary(Unused(), torch.randn(1, 1, 8, 8)).layers
    assert (unused.field, unused.flops) == (None, None)
    assert cut.field is None and cut.flops is not None


def gate_before(norm: nn.Module, *between: nn.Module) -> nn.Module:
    return nn.Sequential(akm.AKMConv2d(1, 4, 3), nn.Sequential(*between), norm, nn.ReLU())


@pytest.mark.parametrize(
    ("model", "warned"),
    [
        (gate_before(nn.BatchNorm2d(4)), True),
        (gate_before(nn.SyncBatchNorm(4)), True),
        (gate_before(nn.InstanceNorm2d(4)), True),
        (gate_before(nn.BatchNorm2d(4), nn.LeakyReLU(), nn.MaxPool2d(2)), True),
        (gate_before(nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.AvgPool2d(2)), True),
        (gate_before(nn.BatchNorm2d(4), nn.GELU()), False),
        (gate_before(nn.GroupNorm(2, 4)), False),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), akm.Modulation2d(4)), False),
    ],
)
def test_warns_of_a_gate_before_a_norm_that_divides_it_out(model: nn.Module, warned: bool) -> None:
    found = akm.summary(model, torch.randn(2, 1, 8, 8))
    line = "the norm 2 divides out the gate of 0: put Modulation2d behind the norm instead"
    assert found.warnings == ((line,) if warned else ())
    assert (f"\nwarning: {line}" in str(found)) is warned


@pytest.mark.parametrize("name", NETWORKS)
def test_warns_of_nothing_where_convert_chose(name: str) -> None:
    model = network(name)
    akm.convert(model)
    assert akm.summary(model, images()).warnings == ()


@pytest.mark.filterwarnings("ignore:the gate of")
def test_warns_of_each_gate_that_was_put_before_its_norm() -> None:
    model = network("resnet")
    placed = akm.convert(model, where="conv").placed
    warnings = akm.summary(model, images()).warnings
    assert len(warnings) == len(placed) == 6
    assert all(any(f"gate of {name}:" in line for line in warnings) for name in placed)


def test_the_table() -> None:
    model = nn.Sequential(with_sigma(akm.AKMConv2d(1, 2, 1, stride=2), 0.5, 12.0))
    head, row = str(akm.summary(model, torch.zeros(1, 1, 128, 128))).splitlines()
    assert len(head) == len(row)
    assert [cell.strip() for cell in head.split("  ") if cell] == [
        "layer", "channels", "σ min", "median", "max", "< 0.1", "> R/3", "gate min", "max",
        "parameters", "σ in input", "field", "Mflops",
    ]  # fmt: skip
    assert row.split() == [
        "0", "2", "0.50", "6.25", "12.00", "0%", "50%", "0.88", "0.88",
        "8", "12.50", "16.99", "1.03",
    ]  # fmt: skip
    assert str(akm.summary(nn.Linear(2, 2))).startswith("layer")


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    def state() -> list[Any]:
        return [
            (module.training, len(module._forward_hooks), len(module._forward_pre_hooks))
            for module in model.modules()
        ] + [p.grad for p in model.parameters()]

    before, tensors = state(), {k: v.clone() for k, v in model.state_dict().items()}
    yield
    assert state() == before
    assert all(torch.equal(v, tensors[k]) for k, v in model.state_dict().items())


def test_the_model_is_left_as_it_was() -> None:
    model = gate_before(nn.BatchNorm2d(4)).train()
    model[2].eval()  # a frozen norm stays one
    model[0].weight.requires_grad_(False)
    images = torch.randn(2, 1, 8, 8)
    with unchanged(model), torch.no_grad():
        assert akm.summary(model, images).layers[0].field is not None
    assert not images.requires_grad
    with unchanged(model), pytest.raises(RuntimeError):
        akm.summary(model, torch.randn(2, 5, 8, 8))


def test_a_compiled_model_is_seen_through() -> None:
    model = gate_before(nn.BatchNorm2d(4)).eval()
    images = torch.zeros(1, 1, 8, 8)
    wanted = akm.summary(model, images)
    model.compile(backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        model(images)
    assert akm.summary(model, images) == wanted


def test_sigma_that_grew_in_training_shows() -> None:
    """A 1×1 convolution that must reproduce a blur."""
    images = torch.randn(4, 1, 16, 16)
    target = akm.gaussian_blur(images, torch.tensor(2.0))
    model = nn.Sequential(akm.AKMConv2d(1, 1, 1))
    optimizer = torch.optim.Adam(akm.parameter_groups(model, lr=0.01, weight_decay=0.0))
    before = akm.summary(model, images)
    for _ in range(30):
        optimizer.zero_grad()
        F.mse_loss(model(images), target).backward()
        optimizer.step()
    after = akm.summary(model, images)
    assert before.layers[0].sigma[1] == pytest.approx(0.3)
    assert after.layers[0].sigma[1] > 0.6
    assert after.layers[0].field == pytest.approx(after.layers[0].sigma[1])


def textures(count: int, coarse: bool) -> tuple[Tensor, Tensor]:
    """White noise, and noise whose pixels resemble those up to four pixels away or, if not coarse,
    change sign from one to the next. All have a variance of 1."""
    lean = 5 * F.avg_pool2d(torch.randn(count, 1, 20, 20), 5, stride=1)
    if not coarse:
        row = torch.arange(16)
        lean = lean * (1 - 2 * ((row[:, None] + row) % 2))
    labels = torch.arange(count) % 2
    share = 0.6 * labels.reshape(-1, 1, 1, 1)
    return share * lean + (1 - share**2).sqrt() * torch.randn(count, 1, 16, 16), labels


@pytest.mark.parametrize("coarse", [True, False], ids=["coarse", "fine"])
def test_coarse_textures_ask_for_a_wide_field_and_fine_ones_do_not(coarse: bool) -> None:
    model = nn.Sequential(
        akm.AKMConv2d(1, 8, 1, bias=False), nn.LeakyReLU(0.2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    )  # fmt: skip
    groups = akm.parameter_groups(model, lr=0.01, weight_decay=0.0, modulation_lr=0.03)
    optimizer = torch.optim.Adam(groups)
    for _ in range(120):
        x, labels = textures(32, coarse)
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
    _, median, largest = akm.summary(model, textures(2, coarse)[0]).layers[0].sigma
    assert median > 1 if coarse else largest < 1  # all began at 0.3


def shared_out() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        akm.AKMConv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), akm.Modulation2d(8),
        nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1),
    )  # fmt: skip
    for layer in (model[0], model[2]):
        nn.init.uniform_(layer.r, 0, 6)
        nn.init.normal_(layer.s)
    return model.eval()


def _summarised(rank: int, results: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate, distribute_module, distribute_tensor

    mesh, images = init_device_mesh("cpu", (2,)), torch.ones(1, 3, 32, 32)
    replicas = distribute_module(shared_out(), mesh)
    with pytest.raises(TypeError, match="images must be a DTensor where the model's parameters"):
        akm.summary(replicas, images)
    found = [summaries(replicas, distribute_tensor(images, mesh, [Replicate()]))]
    shards = fully_shard(shared_out(), mesh=mesh)
    for gathered in (False, True):  # the root keeps its parameters after a call
        assert all(type(p) is nn.Parameter for p in shards.parameters()) is gathered
        before = state(shards)[0]
        for change in (akm.convert, akm.fold, akm.revert):
            with pytest.raises(ValueError, match="the model is sharded; convert, fold or revert b"):
                change(shards)
        assert state(shards)[0] == before
        found.append(summaries(shards, images))
    torch.save(found, f"{results}{rank}")


def summaries(model: nn.Module, images: Tensor) -> list[Any]:
    return [akm.scalars(model), akm.summary(model), akm.summary(model, images)]


def test_a_sharded_model_is_seen_whole(tmp_path: Path) -> None:
    """DTensors and FSDP2 in two processes; in the latter each holds half of r and s."""
    in_two_processes(_summarised, str(tmp_path / "found"))
    wanted = [summaries(shared_out(), torch.ones(1, 3, 32, 32))] * 3
    for rank in range(2):
        assert torch.load(tmp_path / f"found{rank}", weights_only=False) == wanted


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(1, 1, 8, 8).int(), TypeError, "floating point Tensor, got torch.int32"),
        ([1.0], TypeError, "floating point Tensor, got list"),
        (torch.zeros(1, 8, 8), ValueError, r"images must be \(N, C, H, W\).*got \(1, 8, 8\)"),
        (torch.zeros(0, 1, 8, 8), ValueError, r"none of them 0, got \(0, 1, 8, 8\)"),
    ],
    ids=["integers", "list", "one image", "none"],
)  # fmt: skip
def test_refuses_what_are_no_images(images: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        akm.summary(akm.Modulation2d(1), images)


@pytest.mark.parametrize("function", [akm.summary, akm.scalars])
def test_refuses_what_is_no_model(function: Any) -> None:
    with pytest.raises(TypeError, match="model must be a Module, got dict"):
        function({})
    assert isinstance(akm.summary(nn.Identity()), Summary)
