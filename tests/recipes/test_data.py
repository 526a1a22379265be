"""The recipes on real data learn, and learn the σ that they are about."""

from __future__ import annotations

import pytest
import torch

import akm_triton as akm


def test_stem() -> None:
    pytest.importorskip("sklearn")
    from tests.recipes import train_stem

    model, accuracy = train_stem.main(epochs=4)
    assert accuracy > 0.3  # a tenth is chance
    assert model.stem.decimation == (2, 2) and model.stem.r.std() > 0.01


def test_spectrogram() -> None:
    pytest.importorskip("sklearn")
    from tests.recipes import train_spectrogram

    model = train_spectrogram.OfSpectrogram()
    train_spectrogram.main(model, epochs=2)
    for layer in model.convolutions[::2]:
        assert isinstance(layer, akm.AKMConv2d)
        assert layer.r.shape == (16, 2)
        assert (layer.r[:, 0] - layer.r[:, 1]).abs().max() > 0.01


def test_signal() -> None:
    pytest.importorskip("sklearn")
    from tests.recipes import train_spectrogram

    model = train_spectrogram.OfSignal()
    accuracy = train_spectrogram.main(model, epochs=4)
    assert accuracy > 0.5
    assert all((layer.r != 0.3).any() for layer in model.convolutions[::2])
    assert torch.isfinite(model.head.weight).all()


def test_volume() -> None:
    pytest.importorskip("sklearn")
    from tests.recipes import train_volume

    model, overlap = train_volume.main(epochs=1)
    assert overlap > 0.7  # by each voxel alone, 0.52 at most
    depth, *within = model.layers[2].sigma.mean(0).tolist()
    assert depth > 2 * max(within)
