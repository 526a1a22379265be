"""Data sets as splits of classes: what is on this machine, nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import images as readers
from bench.fewshot import glyphs

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
    (images, labels), test = readers.fashion(path)
    cut = len(images) * 5 // 6
    parts = ((images[:cut], labels[:cut]), (images[cut:], labels[cut:]), test)
    train, val, last = (Split(x, rows := _rows(y), [list(range(len(rows)))]) for x, y in parts)
    return Dataset("fashion", train, val, last, shift=True)


def _cifar(path: Path | None) -> Dataset:
    """CIFAR-100, 64, 16 and 20 classes for training, validation and test: a fixed random choice."""
    parts = readers.cifar(path, 100)
    return _by_class(
        "cifar", torch.cat([x for x, _ in parts]), np.concatenate([y for _, y in parts])
    )


def _folder(path: Path | None) -> Dataset:
    """Any folder of folders of images, one a class: 64, 16 and 20 % of the classes."""
    return _by_class("folder", *readers.folder(path))


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
