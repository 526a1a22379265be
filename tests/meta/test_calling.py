"""Models with other parameters: tied ones, those that are computed, and what forward changes."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from akm_triton.meta import MAML, Reptile
from tests.meta.tasks import RATE, close, gradients

IN, OUT = 4, 3


def tasks() -> Any:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 6, IN, generator=generator, dtype=torch.float64)
    return x, torch.randint(OUT, (3, 6), generator=generator)


def two(first: nn.Module, second: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(first, nn.Tanh(), second or nn.Linear(IN, OUT))


def hidden() -> nn.Linear:
    return nn.Linear(IN, IN)


class Tied(nn.Module):
    """A module under two names, a weight under five, a bias and a buffer under two."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.last = hidden(), hidden(), nn.Linear(IN, OUT)
        self.blocks = nn.ModuleList([self.a])
        self.c.weight = self.a.weight
        self.list = nn.ParameterList([self.a.bias, torch.randn(IN)])
        self.dict = nn.ParameterDict({"x": torch.randn(IN), "w": self.a.weight})
        self.register_buffer("t", torch.linspace(0.5, 2, IN))
        self.register_buffer("u", self.t)

    def forward(self, x: Tensor) -> Tensor:
        y = self.c(self.blocks[0](x).tanh()) * self.u + self.list[0] + self.list[1] * self.dict["x"]
        return self.last(y @ self.dict["w"])


def tied_by_hand(p: dict[str, Tensor], x: Tensor) -> Tensor:
    t = torch.linspace(0.5, 2, IN).double()
    y = F.linear(F.linear(x, p["a.weight"], p["a.bias"]).tanh(), p["a.weight"], p["c.bias"])
    y = y * t + p["a.bias"] + p["list.1"] * p["dict.x"]
    return F.linear(y @ p["a.weight"], p["last.weight"], p["last.bias"])


class Exp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


def exponential() -> nn.Module:
    layer = hidden()
    return two(parametrize.register_parametrization(layer, "weight", Exp()))


def exponential_by_hand(p: dict[str, Tensor], x: Tensor) -> Tensor:
    y = F.linear(x, p["0.parametrizations.weight.original"].exp(), p["0.bias"]).tanh()
    return F.linear(y, p["2.weight"], p["2.bias"])


def norms_by_hand(g: str, v: str) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    def forward(p: dict[str, Tensor], x: Tensor) -> Tensor:
        w = p[g] * p[v] / p[v].square().sum(1, keepdim=True).sqrt()
        return F.linear(F.linear(x, w, p["0.bias"]).tanh(), p["2.weight"], p["2.bias"])

    return forward


KEPT: dict[str, tuple[Callable[[], nn.Module], Callable[[dict[str, Tensor], Tensor], Tensor]]] = {
    "tied": (Tied, tied_by_hand),
    "parametrised": (exponential, exponential_by_hand),
    "weight norm": (
        lambda: two(parametrizations.weight_norm(hidden())),
        norms_by_hand("0.parametrizations.weight.original0", "0.parametrizations.weight.original1"),
    ),
    "weight norm by hook": (
        lambda: two(weight_norm(hidden())),
        norms_by_hand("0.weight_g", "0.weight_v"),
    ),
}


def state(model: nn.Module) -> Any:
    """Which objects the model holds, under all names and in all attributes; and their values."""
    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    attributes = [{k: id(x) for k, x in vars(m).items()} for m in model.modules()]
    values = {name: x.detach().clone() for name, x in named}
    return [(name, id(x), type(x)) for name, x in named], attributes, values


def assert_unchanged(model: nn.Module, before: Any) -> None:
    after = state(model)
    assert after[:2] == before[:2]
    torch.testing.assert_close(after[2], before[2], rtol=0, atol=0, equal_nan=True)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # weight norm by hook
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # Reptile's weight norms
@pytest.mark.parametrize("vectorize", [None, False])
@pytest.mark.parametrize("name", KEPT)
def test_tied_and_computed_parameters(name: str, vectorize: bool | None) -> None:
    """Each is adapted once, by the sum of the gradients of its uses."""
    make, by_hand = KEPT[name]
    model = make().double()
    x, y = tasks()
    before = state(model)
    maml = MAML(model, inner_lr=RATE, inner_steps=2, vectorize=vectorize)
    found = gradients(model, maml(((x, y), (x, y)), F.cross_entropy).loss)
    start = dict(model.named_parameters())
    losses, ends = [], []
    for a, b in zip(x, y, strict=True):
        p = dict(start)
        for _ in range(2):
            loss = F.cross_entropy(by_hand(p, a), b)
            grads = torch.autograd.grad(loss, list(p.values()), create_graph=True)
            p = {k: v - RATE * g for (k, v), g in zip(p.items(), grads, strict=True)}
        losses.append(F.cross_entropy(by_hand(p, a), b))
        ends.append(p)
    wanted = torch.autograd.grad(torch.stack(losses).mean(), list(start.values()))
    close(found, dict(zip(start, wanted, strict=True)), 1e-10)
    adapted = maml.adapt((x[0], y[0]), F.cross_entropy)
    torch.testing.assert_close(dict(adapted.named_parameters()), ends[0])
    torch.testing.assert_close(adapted(x[1]), by_hand(ends[0], x[1]))
    Reptile(model, inner_steps=1)(((x, y), (x, y)), F.cross_entropy)
    assert_unchanged(model, before)


def test_a_forward_that_raises_leaves_the_model_as_it_was() -> None:
    class Raises(Tied):
        def forward(self, x: Tensor) -> Tensor:
            self.last.bias = nn.Parameter(torch.zeros(OUT))
            del self.list, self.u
            self.step = super().forward  # a new attribute
            raise KeyError("in forward")

    x, y = tasks()
    model = Raises().double()
    before = state(model)
    maml = MAML(model)
    for vectorize in (None, False):
        maml.vectorize = vectorize
        with pytest.raises(KeyError, match="in forward"):
            maml(((x, y), (x, y)), F.cross_entropy)
    with pytest.raises(KeyError, match="in forward"):
        maml.adapt((x[0], y[0]), F.cross_entropy)
    assert_unchanged(model, before)


class Writes(nn.Module):
    """Changes something of its own in forward, and depends on it."""

    def __init__(self, write: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.write, self.layer = write, nn.Linear(IN, OUT)
        self.frozen = nn.Parameter(torch.ones(OUT), requires_grad=False)
        self.register_buffer("seen", torch.full((OUT,), torch.nan))
        self.register_buffer("b", torch.zeros(OUT))
        self.register_buffer("count", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        self.write(self, y.detach().mean(0))
        return y + self.b + self.frozen


def counted(m: Any, _: Tensor) -> None:
    m.count += 1


def drawn(m: Any, y: Tensor) -> None:
    with torch.no_grad():
        m.b.lerp_(y, 0.1)


def decayed(m: Any, _: Tensor) -> None:
    with torch.no_grad():
        m.layer.weight.mul_(0.9)


def shrunk(m: Any, _: Tensor) -> None:
    m.layer.weight.data = m.layer.weight.data * 0.9


def running(m: Any, y: Tensor) -> None:
    F.batch_norm(y.expand(2, OUT), m.b, torch.ones_like(m.b), training=True)


WRITES: dict[str, tuple[str, Callable[[Any, Tensor], Any]]] = {
    "assigned": ("seen", lambda m, y: setattr(m, "seen", y)),
    "counted": ("count", counted),
    "in place": ("b", drawn),
    "past autograd": ("b", lambda m, y: m.b.data.add_(1)),
    "past the version": ("b", lambda m, y: m.b.numpy().__iadd__(1)),
    "running statistics": ("b", running),
    "created": ("late", lambda m, y: m.register_buffer("late", torch.ones(1), persistent=False)),
    "deleted": ("seen", lambda m, y: delattr(m, "seen")),
    "parameter": ("weight", decayed),
    "parameter's data": ("weight", shrunk),
    "frozen parameter": ("frozen", lambda m, y: m.frozen.mul_(0.9)),
    "module": ("more", lambda m, y: m.add_module("more", nn.Identity())),
}


@pytest.mark.parametrize("way", [None, False, "checkpoint", "Reptile", "adapt"])
@pytest.mark.parametrize("what", WRITES)
def test_what_forward_changes_is_refused_by_name(what: str, way: Any) -> None:
    name, write = WRITES[what]
    x, y = tasks()
    model = Writes(write).double()
    before = state(model)
    maml: Any = Reptile(model) if way == "Reptile" else MAML(model)
    maml.checkpoint = way == "checkpoint"
    maml.vectorize = way if way is False else None
    with pytest.raises(ValueError, match=rf"\((Writes|Linear)\) would mix .* changes {name}\."):
        if way == "adapt":
            maml.adapt((x[0], y[0]), F.cross_entropy)
        else:
            maml(((x, y), (x, y)), F.cross_entropy)
    assert_unchanged(model, before)


def test_attributes_are_put_back_after_the_loss_has_read_them() -> None:
    class Keeps(nn.Linear):
        calls, kept = 0, None

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.kept = super().forward(x)
            return self.kept

    model = Keeps(IN, OUT).double()
    x, y = tasks()
    before = state(model)
    found = [
        MAML(model, inner_steps=2)(((x, y), (x, y)), loss).loss
        for loss in (lambda out, y: model.kept.square().mean(), lambda out, y: out.square().mean())
    ]
    assert found[0] == found[1]
    assert_unchanged(model, before)
    assert (model.calls, model.kept) == (0, None)


def test_buffers_of_any_type_may_stay() -> None:
    model = nn.Linear(IN, OUT)
    values = torch.tensor([[1.5, -0.0], [torch.nan, torch.inf]])
    for dtype in (torch.float8_e4m3fn, torch.bfloat16, torch.complex64, torch.bool, torch.int8):
        model.register_buffer(str(dtype).replace(".", "_"), values.nan_to_num(0, 0).to(dtype))
    others = {
        "nan": values, "view": values.T, "conj": (values + 1j).conj(), "none": None,
        "sparse": torch.eye(2).to_sparse(), "empty": torch.zeros(0), "scalar": torch.tensor(3),
    }  # fmt: skip
    for name, buffer in others.items():
        model.register_buffer(name, buffer, persistent=name != "view")
    (x, y), before = tasks(), dict(model.named_buffers())
    MAML(model)(((x.float(), y), (x.float(), y)), F.cross_entropy)
    adapted = MAML(model).adapt((x[0].float(), y[0]), F.cross_entropy)
    after = dict(model.named_buffers())
    assert all(after[name] is buffer for name, buffer in before.items())
    assert adapted.state_dict().keys() == model.state_dict().keys()


class Fixed(nn.BatchNorm1d):
    """Statistics that nobody updates, as in detectors."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


def not_tracking() -> nn.Module:
    norm = nn.BatchNorm1d(IN)
    norm.track_running_stats = False
    return norm


STAY: dict[str, Callable[[], nn.Module]] = {
    "a norm of one's own": lambda: Fixed(IN),
    "no momentum": lambda: nn.BatchNorm1d(IN, momentum=0.0),
    "no tracking": not_tracking,
    "eval": lambda: nn.BatchNorm1d(IN).eval(),
    "spectral norm": lambda: parametrizations.spectral_norm(hidden()).eval(),
    "pruned": lambda: prune.l1_unstructured(hidden(), "weight", 3),
}


@pytest.mark.parametrize("name", STAY)
def test_statistics_that_stay_are_taken(name: str) -> None:
    x, y = tasks()
    model = two(STAY[name]()).double()
    with torch.no_grad():
        for b in model.buffers():
            if b.is_floating_point() and name != "pruned":
                b.add_(0.1)
    before = state(model)
    found = []
    for options in ({}, {"vectorize": False}, {"checkpoint": True}):
        maml = MAML(model, inner_steps=2, **options)
        found.append(gradients(maml, maml(((x, y), (x, y)), F.cross_entropy).loss))
    close(found[1], found[0], 1e-10)
    close(found[2], found[0], 1e-10)
    assert_unchanged(model, before)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, spectral_norm])
@pytest.mark.parametrize("options", [{}, {"vectorize": False}, {"checkpoint": True}], ids=str)
def test_spectral_norms_are_refused_in_training_mode(
    norm: Callable[..., nn.Module], options: dict[str, bool]
) -> None:
    x, y = tasks()
    model = two(norm(hidden())).double()
    before = state(model)
    maml = MAML(model, inner_steps=2, **options)
    with pytest.raises(ValueError, match=r"changes (weight)?_[uv]\. .* nothing in eval mode"):
        maml(((x, y), (x, y)), F.cross_entropy)
    with pytest.raises(ValueError, match=r"changes (weight)?_[uv]\. .* nothing in eval mode"):
        maml.adapt((x[0], y[0]), F.cross_entropy)
    assert_unchanged(model, before)


def test_inside_torch_compile() -> None:
    (x, y), shared = tasks(), hidden()
    episodes = (x[:2], y[:2]), (x[:2], y[:2])
    model = nn.Sequential(shared, nn.Tanh(), shared).double()
    before = state(model)
    maml = MAML(model, inner_steps=1, check=False)
    compiled = torch.compile(maml, backend="eager", fullgraph=True)
    found = [learner(episodes, F.cross_entropy).loss for learner in (maml, compiled)]
    torch.testing.assert_close(found[1], found[0])
    assert_unchanged(model, before)
    model = Writes(WRITES["created"][1]).double()
    before = state(model)
    with pytest.raises(ValueError, match=r"changes late\."):
        compiled = torch.compile(MAML(model, inner_steps=1, check=False), backend="eager")
        compiled(episodes, F.cross_entropy)
    assert_unchanged(model, before)


def test_models_that_cannot_be_called_so_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"model: 0\.weight has no shape yet"):
        MAML(nn.Sequential(nn.LazyLinear(2)))
    with pytest.raises(TypeError, match=r"model: 0 \(DataParallel\) cannot be called"):
        MAML(nn.Sequential(nn.DataParallel(hidden())))


def test_the_adapted_model_is_a_module_of_its_own() -> None:
    x, y = tasks()
    model = Tied().double()
    maml = MAML(model, inner_steps=1, adapt=lambda name: name == "a.weight")
    before = state(model)
    adapted = maml.adapt((x[0], y[0]), F.cross_entropy)
    assert isinstance(adapted, Tied) and adapted.a is adapted.blocks[0]
    assert adapted.state_dict().keys() == model.state_dict().keys()
    moved = adapted.a.weight.detach().clone()
    assert adapted.c.weight is adapted.a.weight and not torch.equal(moved, model.a.weight)
    wanted = adapted(x[0])
    file = io.BytesIO()
    torch.save(adapted, file)
    file.seek(0)
    for other in (copy.deepcopy(adapted), torch.load(file, weights_only=False)):
        torch.testing.assert_close(other(x[0]), wanted, rtol=0, atol=0)

    adapted.eval()
    optimizer = torch.optim.SGD(adapted.parameters(), lr=0.1)
    F.cross_entropy(adapted(x[0]), y[0]).backward()
    optimizer.step()
    adapted.float()(x[0].float())
    adapted.load_state_dict({k: v + 1 for k, v in adapted.state_dict().items()})
    with torch.no_grad():
        for tensor in (*adapted.parameters(), *adapted.buffers()):
            tensor.zero_()
    assert_unchanged(model, before)
    assert model.training and all(p.grad is None for p in model.parameters())
