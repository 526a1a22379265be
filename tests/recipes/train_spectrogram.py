"""Signals and their spectrograms: from which of two photographs is a piece of a row?

    pip install scikit-learn pillow
    python tests/recipes/train_spectrogram.py

A spectrogram has two axes that mean different things, so ``isotropic=False`` learns a σ for each:
how far to look over frequencies, and how far over the row. ``AKMConv1d`` takes the row itself.
"""

import torch
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

import akm_triton as akm


class OfSpectrogram(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            akm.AKMConv2d(1, 16, 3, padding=1, max_radius=7, isotropic=False), nn.ReLU(),
            akm.AKMConv2d(16, 16, 3, stride=2, max_radius=7, isotropic=False), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        window = torch.hann_window(32, device=x.device)
        power = torch.stft(x[:, 0], 32, hop_length=4, window=window, return_complex=True).abs()
        y: Tensor = self.head(self.convolutions(power.log1p()[:, None]).mean((2, 3)))
        return y


class OfSignal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            akm.AKMConv1d(1, 16, 5), nn.ReLU(), akm.AKMConv1d(16, 16, 5, stride=2), nn.ReLU()
        )
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.convolutions(x).mean(2))
        return y


def rows() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(signals (N, 1, 160), labels) of the left half, then of the right half, of both."""
    grey = [torch.tensor(x.mean(2), dtype=torch.float32) / 32 for x in load_sample_images().images]
    found: list[Tensor] = []
    for half in (slice(0, 320), slice(320, 640)):
        pieces = [x[::2, half].reshape(-1, 1, 160) for x in grey]
        found += [torch.cat(pieces), torch.arange(2).repeat_interleave(len(pieces[0]))]
    signals, labels, others, their_labels = found
    return signals, labels, others, their_labels


def main(model: nn.Module, epochs: int = 10) -> float:
    signals, labels, others, their_labels = rows()
    signals, others = (x - x.mean(-1, keepdim=True) for x in (signals, others))
    optimizer = torch.optim.AdamW(akm.parameter_groups(model, lr=3e-3, weight_decay=0.01))
    for _ in range(epochs):
        for batch in torch.randperm(len(signals)).split(64):
            loss = nn.functional.cross_entropy(model(signals[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        right = model.eval()(others).argmax(1) == their_labels
    accuracy = right.float().mean().item()
    print(akm.summary(model), f"accuracy {accuracy:.1%}", sep="\n")
    return accuracy


if __name__ == "__main__":
    for network in (OfSpectrogram(), OfSignal()):
        main(network)
