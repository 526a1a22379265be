"""Data sets as splits of classes: what is on this machine, nothing is downloaded."""

from __future__ import annotations

import gzip
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.fewshot import glyphs

FASHION = Path("/usr/share/datasets/fashion-mnist")
ALIKE = ("LATIN", "GREEK", "CYRILLIC")  # share letters: all for training
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Split:
    """Images and classes to draw episodes from."""

    images: Tensor  # (n, C, H, W), uint8
    classes: list[Tensor]  # the rows of each class
    groups: list[list[int]]  # an episode's classes are of one group


@dataclass(frozen=True)
class Dataset:
    name: str
    train: Split
    val: Split
    test: Split
    jitter: bool = False  # small affine maps of every image
    shift: bool = False  # a corruption of every query set


def make(name: str, path: Path | None = None) -> Dataset:
    """The data set of this name; ``path`` is a folder where it has no place of its own.

    Raises:
        FileNotFoundError: the data is missing; the message says what to install or to give.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset must be one of {tuple(DATASETS)}, got {name!r}")
    return DATASETS[name](path)


def _glyphs(path: Path | None) -> Dataset:
    """Letters; scripts of training, validation and test are disjoint, and those whose letters are
    alike are of training."""
    found = glyphs.load(path)
    images = torch.from_numpy(found["images"])[:, None]
    scripts = sorted(set(found["scripts"].tolist()))
    others = [script for script in scripts if script not in ALIKE]
    order = [others[i] for i in np.random.default_rng(0).permutation(len(others))]
    test, val = order[: len(order) // 3], order[len(order) // 3 : len(order) // 3 + 3]
    train = [script for script in scripts if script not in test + val]
    rows = _rows(found["letters"])

    def split(names: list[str]) -> Split:
        letters = [i for i, script in enumerate(found["scripts"]) if script in names]
        groups = [
            [k for k, i in enumerate(letters) if found["scripts"][i] == name] for name in names
        ]
        return Split(images, [rows[i] for i in letters], groups)

    return Dataset("glyphs", split(train), split(val), split(test), jitter=True)


def _fashion(path: Path | None) -> Dataset:
    """Clothes, of ten classes that training and test share: support sets are clean, query sets
    corrupted. Test images are the published ones, validation the last sixth of the training's."""
    folder = path or FASHION

    def read(part: str) -> tuple[Tensor, Array]:
        images, labels = (
            _read_gz(folder / f"{part}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1")
        )
        array = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28)
        return torch.from_numpy(array.copy()), np.frombuffer(labels, np.uint8, offset=8)

    images, labels = read("train")
    cut = len(images) * 5 // 6
    parts = ((images[:cut], labels[:cut]), (images[cut:], labels[cut:]), read("t10k"))
    train, val, test = (Split(x, rows := _rows(y), [list(range(len(rows)))]) for x, y in parts)
    return Dataset("fashion", train, val, test, shift=True)


def _read_gz(path: Path) -> bytes:
    if not path.exists():
        raise FileNotFoundError(
            f"Fashion-MNIST: no {path}; apt-get install dataset-fashion-mnist, or give --data"
        )
    return gzip.decompress(path.read_bytes())


def _cifar(path: Path | None) -> Dataset:
    """CIFAR-100, 64, 16 and 20 classes for training, validation and test: a fixed random choice."""
    missing = FileNotFoundError(
        "CIFAR-100: give --data the folder that holds train and test (python version, "
        "cifar-100-python) or train.bin and test.bin (binary version, cifar-100-binary)"
    )
    if path is None:
        raise missing
    images, labels = [], []
    for part in ("train", "test"):
        if (path / f"{part}.bin").exists():
            records = np.frombuffer((path / f"{part}.bin").read_bytes(), np.uint8)
            records = records.reshape(-1, 2 + 3072)  # coarse label, fine label, image
            images.append(records[:, 2:])
            labels.append(records[:, 1])
        elif (path / part).exists():
            content = _Arrays(io.BytesIO((path / part).read_bytes()), encoding="bytes").load()
            images.append(np.asarray(content[b"data"], np.uint8))
            labels.append(np.asarray(content[b"fine_labels"]))
        else:
            raise missing
    whole = torch.from_numpy(np.concatenate(images).reshape(-1, 3, 32, 32))
    return _by_class("cifar", whole, np.concatenate(labels))


class _Arrays(pickle.Unpickler):
    """Arrays and plain values only: a pickle may name any function."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in ("ndarray", "dtype", "_reconstruct"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a data set")


def _folder(path: Path | None) -> Dataset:
    """Any folder of folders of images, one a class: 64, 16 and 20 % of the classes."""
    from PIL import Image

    if path is None:
        raise FileNotFoundError("folder: give --data a folder with a folder of images a class")
    images, labels = [], []
    names = sorted(folder for folder in path.iterdir() if folder.is_dir())
    for label, folder in enumerate(names):
        for file in sorted(folder.iterdir()):
            if file.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"):
                with Image.open(file) as image:
                    images.append(np.asarray(image.convert("RGB").resize((32, 32))))
                labels.append(label)
    if not images:
        raise FileNotFoundError(f"no image in the folders of {path}")
    whole = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return _by_class("folder", whole, np.array(labels))


def _by_class(name: str, images: Tensor, labels: Array) -> Dataset:
    """64, 16 and 20 % of the classes, chosen at random, and always the same."""
    rows = _rows(labels)
    order = np.random.default_rng(0).permutation(len(rows))
    parts = np.split(order, (round(0.64 * len(rows)), round(0.8 * len(rows))))
    train, val, test = (
        Split(images, [rows[i] for i in part], [list(range(len(part)))]) for part in parts
    )
    return Dataset(name, train, val, test)


def _rows(labels: Array) -> list[Tensor]:
    """The rows of each label, in the order of labels."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order])) + 1
    return [torch.from_numpy(rows) for rows in np.split(order, starts)]


DATASETS: dict[str, Callable[[Path | None], Dataset]] = {
    "glyphs": _glyphs,
    "fashion": _fashion,
    "cifar": _cifar,
    "folder": _folder,
}
