"""Labelled images to train and to test on, and the test images corrupted."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench import images
from bench.experiments.corrupt import KINDS, SEVERITIES, corrupt
from bench.experiments.protocol import Place

DATASETS = ("fashion", "cifar10", "cifar100", "folder")
TEST_SEED = 1_000_003  # the same test images for every run
FOLDER_SIZE = 64  # pixels

Labelled = tuple[Tensor, Tensor]
"""Images (n, C, H, W), uint8, and labels (n,)."""


def training(place: Place, count: int, seed: int) -> Labelled:
    """``count`` training images, drawn by the seed, as many of each class as of any other if there
    are enough."""
    x, y = _read(place.dataset, place.folder)[0]
    return _drawn(x, y, count, seed)


def test(place: Place, count: int) -> Labelled:
    """``count`` test images, the same for every run."""
    x, y = _read(place.dataset, place.folder)[1]
    return _drawn(x, y, count, TEST_SEED)


def classes(place: Place) -> int:
    return int(_read(place.dataset, place.folder)[0][1].max()) + 1


def corrupted(place: Place, count: int, kind: str, severity: int) -> Tensor:
    """The images of ``test``, corrupted."""
    return _corrupted(place.dataset, place.folder, count, kind, severity)


@functools.lru_cache(len(KINDS) * len(SEVERITIES))
def _corrupted(dataset: str, folder: Path | None, count: int, kind: str, severity: int) -> Tensor:
    clean, _ = _drawn(*_read(dataset, folder)[1], count, TEST_SEED)
    return torch.from_numpy(corrupt(clean.numpy(), kind, severity))


def _drawn(x: Tensor, y: Tensor, count: int, seed: int) -> Labelled:
    """Class by class in turn, each class in a random order."""
    order = np.random.default_rng(seed).permutation(len(y))
    labels = y.numpy()[order]
    turn = np.empty(len(y), dtype=np.int64)  # how many of its class come before
    for label in np.unique(labels):
        of = labels == label
        turn[of] = np.arange(of.sum())
    rows = torch.from_numpy(order[np.argsort(turn, kind="stable")][:count])
    return x[rows], y[rows]


@functools.lru_cache(1)
def _read(dataset: str, folder: Path | None) -> tuple[Labelled, Labelled]:
    """For training and for the test.

    Raises:
        FileNotFoundError: the message says what to install or to give.
    """
    if dataset == "fashion":
        parts = images.fashion(folder)
    elif dataset in ("cifar10", "cifar100"):
        parts = images.cifar(folder, int(dataset.removeprefix("cifar")))
    else:
        if folder is None or not all((folder / part).is_dir() for part in ("train", "val")):
            raise FileNotFoundError(
                "folder: give --data a folder that holds train and val, each with a folder of "
                "images a class, as ImageNet's"
            )
        train, val = (images.folder(folder / part, FOLDER_SIZE) for part in ("train", "val"))
        parts = train, val
    (x, y), (test_x, test_y) = parts
    return (x, _labels(y)), (test_x, _labels(test_y))


def _labels(y: images.Array) -> Tensor:
    return torch.from_numpy(y.astype(np.int64))
