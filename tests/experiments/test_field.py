"""Texture mosaics, the networks that segment them, and a run from end to end."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import akm_triton as akm
from bench.experiments import command, field, runner, segmenters, textures
from bench.experiments.corrupt import Array
from bench.experiments.protocol import Place, Run

ARMS = [arm for arm in field.PROTOCOL.arms if not arm.best_of]
HERE = field.PROTOCOL.conditions[0]
TINY = {"train": 4, "select": 2, "test": 3, "steps": 2, "batch": 2}
PLACE = Place(torch.device("cpu"), field.PROTOCOL.settings | TINY)


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> Array:
    """In place of scikit-image's: each pixel says its texture and its row."""
    found = 1000.0 * np.arange(4)[:, None, None] + np.arange(512)[:, None] + np.zeros((512, 512))
    monkeypatch.setattr(textures, "photographs", lambda: found)
    return found


@pytest.fixture
def raw(pictures: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    def strips(part: str) -> Array:
        return pictures[:, slice(*textures.STRIPS[part])]

    monkeypatch.setattr(textures, "_normalised", strips)


@pytest.mark.usefixtures("raw")
@pytest.mark.parametrize("part", textures.STRIPS)
def test_a_mosaic_shows_what_its_labels_say_from_its_strip_alone(part: str) -> None:
    x, y = textures.mosaics(part, 20, 8, seed=0)
    assert x.shape == (20, 1, 64, 64) and y.shape == (20, 64, 64)
    assert torch.equal((x[:, 0] // 1000).long(), y)
    rows = x % 1000
    low, high = textures.STRIPS[part]
    assert low <= rows.min() and rows.max() < high
    assert set(y.unique().tolist()) == {0, 1, 2, 3}
    again, other = textures.mosaics(part, 20, 8, 0), textures.mosaics(part, 20, 8, 1)
    assert torch.equal(x, again[0]) and not torch.equal(x, other[0])


def test_strips_are_disjoint_and_normalised(monkeypatch: pytest.MonkeyPatch) -> None:
    edges = sorted(textures.STRIPS.values())
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(edges))
    rng = np.random.default_rng(0)
    strips = {}
    for where in (0, 1):  # what lies outside of a strip does not change it
        picture = np.random.default_rng(1).normal(100, 30, (1, 512, 512))
        low, high = textures.STRIPS["selection"]
        if where:
            picture[:, :low], picture[:, high:] = rng.random(2)[:, None, None]
        monkeypatch.setattr(textures, "photographs", lambda picture=picture: picture)
        textures._normalised.cache_clear()
        strips[where] = textures._normalised("selection")
    textures._normalised.cache_clear()
    assert np.array_equal(strips[0], strips[1])
    assert abs(strips[0].mean()) < 0.01 and strips[0].std() == pytest.approx(1, abs=0.02)


def test_scikit_image_has_the_photographs() -> None:
    pytest.importorskip("skimage")
    assert textures.photographs().shape == (4, 512, 512)


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_every_network_names_every_pixel(arm: field.Arm) -> None:
    net = field.network(arm)
    assert net(torch.randn(2, 1, 64, 64)).shape == (2, 4, 64, 64)
    layers = [m for m in net.modules() if isinstance(m, akm.Modulation2d)]
    if "AKM" in arm.name or "sigma" in arm.options:
        assert len(layers) == 2 - ("sigma" in arm.options)
        assert all(m.r.requires_grad != ("sigma" in arm.options) for m in layers)
    else:
        assert layers == []


def test_parameters_are_those_counted_by_hand() -> None:
    counts = {arm.name: sum(p.numel() for p in field.network(arm).parameters()) for arm in ARMS}
    plain = 9 * 12 + 9 * 144 + 4 * 12 + 52
    assert counts["plain"] == plain and counts["AKM ×5"] == plain + 48
    assert counts["depthwise 9×9"] == plain + 82 * 12 and counts["dilated"] == plain + 1308
    assert counts["U-Net"] <= counts["dilated"]


@pytest.mark.parametrize(
    ("name", "reach"),
    [
        ("plain", 2),
        ("dilated", 6),
        ("depthwise 9×9", 6),
        ("AKM, differences", 4),
        ("U-Net", range(9, 14)),
    ],
)
def test_how_far_a_network_looks(name: str, reach: int | range) -> None:
    """Where the middle pixel's gradient ends; AKM's blur is taken out (σ = 0)."""
    net = field.network(next(arm for arm in ARMS if arm.name == name)).eval()
    for layer in net.modules():
        if isinstance(layer, akm.Modulation2d):
            torch.nn.init.zeros_(layer.r)
    x = torch.randn(1, 1, 64, 64, requires_grad=True)
    net(x)[0, :, 32, 32].sum().backward()
    assert x.grad is not None
    rows = x.grad[0, 0].abs().sum(1).nonzero().flatten() - 32
    found = int(rows.abs().max())  # pools choose pixels, so that a U-Net's differs a little
    assert found in reach if isinstance(reach, range) else found == reach


def test_octaves_begin_apart() -> None:
    layer = segmenters.octaves(6)
    assert isinstance(layer, akm.Modulation2d)
    assert layer.sigma.tolist() == pytest.approx([0.25, 0.5, 1, 2, 4, 8])


@pytest.mark.usefixtures("pictures")
def test_a_run_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    textures._normalised.cache_clear()
    arms = [a for a in field.PROTOCOL.arms if a.name in ("plain", "σ = 2", "AKM ×5", "U-Net")]
    written = []
    for folder in ("a", "b"):
        for arm in arms:
            found = runner.do(field.EXPERIMENT, PLACE, Run(HERE, arm, 0), tmp_path / folder)
            assert found.scores["accuracy"].shape == (3,)
            assert found.scores["selection"].shape == (2,)
        files = sorted((tmp_path / folder).rglob("*.json"))
        written.append({path.name: path.read_bytes() for path in files})
    textures._normalised.cache_clear()
    assert written[0] == written[1] and len(written[0]) == len(arms)


def test_the_command_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing() -> Array:
        raise FileNotFoundError("textures: pip install scikit-image")

    textures._normalised.cache_clear()
    monkeypatch.setattr(textures, "photographs", missing)
    monkeypatch.setattr(command, "os", SimpleNamespace(cpu_count=lambda: 1))
    monkeypatch.setattr(runner, "prepare_process", lambda: None)  # not for the tests after this
    with pytest.raises(SystemExit, match="pip install scikit-image"):
        command.main(["field", "--quick", "--out", str(tmp_path), "--device", "cpu"])
    assert not list(tmp_path.rglob("*.json"))
