"""Data sets in every layout, made small; networks of the right size; training that repeats."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from bench.experiments import data, networks, training
from bench.experiments.corrupt import Array, corrupt
from bench.experiments.protocol import Place
from tests.experiments.fashion import write_fashion

CPU = torch.device("cpu")


def place(dataset: str, folder: Path) -> Place:
    return Place(CPU, {}, dataset, folder)


@pytest.mark.parametrize("layout", ["python", "binary"])
@pytest.mark.parametrize("classes", [10, 100])
def test_cifar(classes: int, layout: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = {"train": 300, "test": 100}
    if classes == 10:
        parts = {f"data_batch_{i}": 60 for i in range(1, 6)} | {"test_batch": 100}
    key = b"labels" if classes == 10 else b"fine_labels"
    pixels: list[Array] = []
    for name, count in parts.items():
        image = rng.integers(256, size=(count, 3072), dtype=np.uint8)
        labels = np.arange(count) % classes
        pixels.append(image)
        if layout == "python":
            content = {b"data": image, key: labels.tolist()}
            (tmp_path / name).write_bytes(pickle.dumps(content))
        else:
            coarse = np.zeros((count, classes // 100))
            records = np.concatenate([coarse, labels[:, None], image], 1)
            (tmp_path / f"{name}.bin").write_bytes(records.astype(np.uint8).tobytes())
    where = place(f"cifar{classes}", tmp_path)
    assert data.classes(where) == classes
    x, y = data.training(where, 300, 0)
    assert x.shape == (300, 3, 32, 32) and y.bincount().tolist() == [300 // classes] * classes
    known = {part.tobytes(): i % classes for images in pixels for i, part in enumerate(images)}
    assert [known[image.numpy().tobytes()] for image in x] == y.tolist()
    assert data.test(where, 50)[0].shape == (50, 3, 32, 32)


def test_a_folder_like_imagenets(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for part, count in (("train", 4), ("val", 2)):
        for label in range(3):
            (tmp_path / part / f"n0{label}").mkdir(parents=True)
            for i in range(count):
                path = tmp_path / part / f"n0{label}" / f"{i}.JPEG"
                image.new("RGB", (90, 70), (80 * label, i, 0)).save(path)
    where = place("folder", tmp_path)
    x, y = data.training(where, 6, 1)
    assert x.shape == (6, 3, 64, 64) and y.bincount().tolist() == [2, 2, 2]
    assert ((x[:, 0].float().mean((1, 2)) / 80).round().long() == y).all()
    assert len(data.test(where, 100)[1]) == 6
    with pytest.raises(FileNotFoundError, match="train and val"):
        data.test(place("folder", tmp_path / "train"), 1)


def test_images_are_drawn_by_class_and_seed(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    where = place("fashion", tmp_path)
    (x, y), (again, _), (other, _) = (data.training(where, 20, seed) for seed in (3, 3, 4))
    assert y.bincount().tolist() == [2] * 10
    assert torch.equal(x, again) and not torch.equal(x, other)
    test, _ = data.test(where, 20)
    assert torch.equal(test, data.test(where, 30)[0][:20])
    found = data.corrupted(where, 20, "fog", 2)
    assert np.array_equal(found.numpy(), corrupt(test.numpy(), "fog", 2))


def test_a_fixed_blur_is_a_convolution_before_the_stride() -> None:
    x = torch.rand(2, 3, 9, 8)
    taps = np.outer([1, 2, 1], [1, 2, 1])[None, None] / 16
    whole = ndimage.convolve(x.numpy(), taps, mode="mirror")
    assert np.abs(networks.FixedBlur(3, 2)(x).numpy() - whole[..., ::2, ::2]).max() < 1e-6


@pytest.mark.parametrize("down", networks.DOWN)
@pytest.mark.parametrize("convs", [1, 2])
def test_every_way_down_halves_the_maps(down: str, convs: int) -> None:
    net = networks.classifier(1, 10, convs=convs, down=down)
    assert net(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    maps = net[:-3](torch.rand(2, 1, 32, 32))
    assert maps.shape == (2, 32, 4, 4)


def test_arms_differ_in_nothing_but_what_they_say() -> None:
    def built(**options: object) -> torch.nn.Module:
        torch.manual_seed(0)
        return networks.classifier(1, 10, **options).eval()  # type: ignore[arg-type]

    x = torch.rand(2, 1, 28, 28)
    plain = built()
    assert sum(p.numel() for p in plain.parameters()) == 6274  # by hand
    # a σ of 0 and a gate of 1 change nothing, so neither does a schedule that has ended
    assert torch.allclose(built(modulation="scheduled")(x), plain(x), atol=1e-6)
    sigma = [[0.5] * width for width in (8, 16, 32)]
    fixed = built(modulation="fixed", sigma=sigma)
    assert training.sigmas(fixed) == sigma
    learned = built(modulation="learned")
    for (name, a), b in zip(plain.named_parameters(), built().parameters(), strict=True):
        assert torch.equal(a, b), name
    weights = [p for p in learned.parameters() if p.dim() > 1]
    expected = [p for p in plain.parameters() if p.dim() > 1]
    assert all(torch.equal(a, b) for a, b in zip(weights, expected, strict=True))
    assert sum(p.numel() for p in built(kernel=5).parameters()) == 6274 + 16 * (8 + 8 * 16)


@pytest.mark.parametrize("curriculum", [0.0, 1.0])
def test_training_learns_and_repeats(curriculum: float, tmp_path: Path) -> None:
    write_fashion(tmp_path)
    x, y = data.training(place("fashion", tmp_path), 60, 0)

    def trained() -> torch.nn.Module:
        torch.manual_seed(0)
        modulation = "scheduled" if curriculum else "learned"
        net = networks.classifier(1, 10, modulation=modulation)
        training.train(
            net, x, y, steps=60, batch=20, rate=1e-2, modulation_rate=5.0, seed=0,
            augment=training.noise(0.05), curriculum=curriculum,
        )  # fmt: skip
        return net

    first, second = trained(), trained()
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert (training.predictions(first, x) == y.numpy()).mean() > 0.8
    moved = np.concatenate(training.sigmas(first))
    assert (moved == 0).all() if curriculum else (moved != 0.3).any()


def test_noise_is_of_half_of_the_images() -> None:
    x = torch.full((2000, 1, 6, 6), 0.5)
    change = training.noise(0.2)(x, torch.Generator().manual_seed(0)) - x
    deviation = change.square().mean((1, 2, 3)).sqrt()
    assert (deviation == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert deviation[deviation > 0].mean().item() == pytest.approx(0.1, rel=0.1)
