"""Train a small AKM network on handwritten digits and report the σ and gate of every channel."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from tqdm import tqdm

import akm_triton as akm
from bench import results

EPOCHS = 20
BATCH = 64
RATE = 3e-3
# r and s are few and far from where they end: they can take larger steps than the weights
MODULATION_RATE = 5 * RATE


@dataclass(frozen=True)
class Outcome:
    """The outcome of a training run."""

    accuracy: float  # on the held-out third, from 0 to 1
    losses: list[float]  # mean training loss of each epoch
    layers: list[dict[str, Any]]  # σ (pixels) and gate of each channel, at the start and the end


def digits_net() -> nn.Sequential:
    """Two blocks of convolution, norm, blur and gate, ReLU; then a linear classifier.

    Blur and gate come after the norm: a norm after the gate would divide the gate out again.
    """

    def block(channels_in: int, channels: int) -> list[nn.Module]:
        return [
            nn.Conv2d(channels_in, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            akm.Modulation2d(channels, max_radius=7),
            nn.ReLU(),
        ]

    return nn.Sequential(
        *block(1, 16), *block(16, 32), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 4 * 4, 10)
    )


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(train images, test images, train labels, test labels), two thirds and one third; images
    (N, 1, 8, 8), float32 from 0 to 1."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 1, 8, 8)
    split = train_test_split(images, labels, test_size=1 / 3, random_state=0, stratify=labels)
    train_x, test_x, train_y, test_y = (torch.as_tensor(part) for part in split)
    return train_x, test_x, train_y, test_y


def modulations(net: nn.Module) -> list[akm.Modulation2d]:
    return [layer for layer in net.modules() if isinstance(layer, akm.Modulation2d)]


def train(
    epochs: int = EPOCHS, seed: int = 0, device: str = "cpu", progress: bool = False
) -> Outcome:
    """Train ``digits_net`` with Adam and test it on the held-out third."""
    torch.manual_seed(seed)
    net = digits_net().to(device)
    train_x, test_x, train_y, test_y = (part.to(device) for part in digits())
    start = [_state(layer) for layer in modulations(net)]
    modulation = [p for layer in modulations(net) for p in layer.parameters()]
    weights = [p for p in net.parameters() if all(p is not q for q in modulation)]
    groups: list[dict[str, Any]] = [
        {"params": weights},
        {"params": modulation, "lr": MODULATION_RATE},
    ]
    optimizer = torch.optim.Adam(groups, lr=RATE)
    losses: list[float] = []
    bar = tqdm(range(epochs), desc="digits", unit="epoch", disable=not progress)
    for _ in bar:
        total = 0.0
        for batch in torch.randperm(len(train_x)).to(device).split(BATCH):
            loss = F.cross_entropy(net(train_x[batch]), train_y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(batch)
        losses.append(total / len(train_x))
        bar.set_postfix(loss=f"{losses[-1]:.4f}")
    net.eval()
    with torch.no_grad():
        accuracy = float((net(test_x).argmax(1) == test_y).float().mean())
    end = [_state(layer) for layer in modulations(net)]
    layers = [{"start": a, "end": b} for a, b in zip(start, end, strict=True)]
    return Outcome(accuracy, losses, layers)


def _state(layer: akm.Modulation2d) -> dict[str, list[float]]:
    return {
        "sigma": [round(x, 5) for x in layer.sigma.tolist()],
        "gate": [round(x, 5) for x in layer.gate.tolist()],
    }


def report(outcome: Outcome) -> str:
    """Accuracy, and the spread of σ and gate in each layer, as text."""
    lines = [f"accuracy on the held-out third: {outcome.accuracy:.2%}"]
    for number, layer in enumerate(outcome.layers, 1):
        for quantity, unit in (("sigma", "px"), ("gate", "")):
            low, middle, high = torch.quantile(
                torch.tensor(layer["end"][quantity]), torch.tensor([0.0, 0.5, 1.0])
            ).tolist()
            lines.append(
                f"layer {number}  {quantity:<5}  start {layer['start'][quantity][0]:.2f}  "
                f"learned min {low:.2f}  median {middle:.2f}  max {high:.2f} {unit}".rstrip()
            )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench digits", description=__doc__)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--out", type=Path, default=results.ROOT, help="a .json file, or a folder of results"
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(1)  # more threads do not help on 8×8 maps, and hurt on a busy machine
    outcome = train(options.epochs, options.seed, options.device, progress=True)
    print(report(outcome))
    rows = [{"epoch": i, "loss": round(loss, 6)} for i, loss in enumerate(outcome.losses, 1)]
    path = results.save(
        "digits",
        torch.device(options.device),
        rows,
        options.out,
        seed=options.seed,
        accuracy=round(outcome.accuracy, 5),
        layers=outcome.layers,
    )
    print(f"written: {path}")
