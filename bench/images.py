"""Reads image files as tensors: Fashion-MNIST, CIFAR-10 and -100, folders. Downloads nothing."""

from __future__ import annotations

import gzip
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FASHION = Path("/usr/share/datasets/fashion-mnist")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
Array = np.ndarray[Any, Any]
Labelled = tuple[Tensor, Array]
"""Images (n, C, H, W), uint8, and their labels (n,)."""


def fashion(folder: Path | None = None) -> tuple[Labelled, Labelled]:
    """Fashion-MNIST, for training and for the test: 28×28, ten classes of clothes."""
    folder = folder or FASHION

    def part(name: str) -> Labelled:
        images, labels = (
            _read_gz(folder / f"{name}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1")
        )
        array = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28)
        return torch.from_numpy(array.copy()), np.frombuffer(labels, np.uint8, offset=8)

    return part("train"), part("t10k")


def _read_gz(path: Path) -> bytes:
    if not path.exists():
        raise FileNotFoundError(
            f"Fashion-MNIST: no {path}; apt-get install dataset-fashion-mnist, or give --data"
        )
    return gzip.decompress(path.read_bytes())


# classes → the files for training and the test, what a record of the binary version begins with,
# and the labels' name in the Python version
CIFAR = {
    10: (tuple(f"data_batch_{i}" for i in range(1, 6)), ("test_batch",), 1, b"labels"),
    100: (("train",), ("test",), 2, b"fine_labels"),
}


def cifar(folder: Path | None, classes: int) -> tuple[Labelled, Labelled]:
    """CIFAR-10 or CIFAR-100, for training and for the test: 32×32, of either version."""
    train, test, head, key = CIFAR[classes]
    missing = FileNotFoundError(
        f"CIFAR-{classes}: give --data the folder that holds {' and '.join((train[0], test[0]))} "
        f"(python version, {_unpacked(classes, 'py')}) or {train[0]}.bin and {test[0]}.bin "
        f"(binary version, {_unpacked(classes, 'bin')})"
    )
    if folder is None:
        raise missing

    def part(names: tuple[str, ...]) -> Labelled:
        images, labels = [], []
        for name in names:
            if (folder / f"{name}.bin").exists():
                records = np.frombuffer((folder / f"{name}.bin").read_bytes(), np.uint8)
                records = records.reshape(-1, head + 3072)  # labels, the fine one last; image
                images.append(records[:, head:])
                labels.append(records[:, head - 1])
            elif (folder / name).exists():
                content = _Arrays(io.BytesIO((folder / name).read_bytes()), encoding="bytes").load()
                images.append(np.asarray(content[b"data"], np.uint8))
                labels.append(np.asarray(content[key]))
            else:
                raise missing
        whole = torch.from_numpy(np.concatenate(images).reshape(-1, 3, 32, 32))
        return whole, np.concatenate(labels)

    return part(train), part(test)


def _unpacked(classes: int, version: str) -> str:
    """The folder in which an archive of CIFAR unpacks."""
    if classes == 10:
        return f"cifar-10-batches-{version}"
    return "cifar-100-python" if version == "py" else "cifar-100-binary"


class _Arrays(pickle.Unpickler):
    """Arrays and plain values only: a pickle may name any function."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in ("ndarray", "dtype", "_reconstruct"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a data set")


def folder(path: Path | None, size: int = 32) -> Labelled:
    """A folder with a folder of images for each class, resized to ``size`` squared."""
    from PIL import Image

    if path is None:
        raise FileNotFoundError("folder: give --data a folder with a folder of images a class")
    images, labels = [], []
    names = sorted(folder for folder in path.iterdir() if folder.is_dir())
    for label, name in enumerate(names):
        for file in sorted(name.iterdir()):
            if file.suffix.lower() in SUFFIXES:
                with Image.open(file) as image:
                    images.append(np.asarray(image.convert("RGB").resize((size, size))))
                labels.append(label)
    if not images:
        raise FileNotFoundError(f"no image in the folders of {path}")
    whole = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return whole, np.array(labels)
