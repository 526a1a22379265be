"""A small segmenter of volumes: where, in a noisy scan of a rod, is the rod?

    pip install scikit-learn
    python tests/recipes/train_volume.py

No scan comes with scikit-learn, so rods are made of its handwritten digits: each slice shows the
same digit, under noise of its own, as strong as the ink. Within a slice things change from pixel to
pixel, and over the depth they do not. ``isotropic=False`` learns how far to look along each axis,
and finds that out.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import akm_triton as akm

DEPTH, NOISE = 16, 1.0  # slices; ink is from 0 to 1


class Segmenter(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            akm.AKMConv3d(1, width, 3, padding=1, max_radius=7, isotropic=False), nn.ReLU(),
            akm.AKMConv3d(width, width, 3, padding=1, max_radius=7, isotropic=False), nn.ReLU(),
            nn.Conv3d(width, 1, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


def volumes() -> tuple[Tensor, Tensor]:
    """(volumes, whether there is ink), both (N, 1, DEPTH, 8, 8)."""
    digits = torch.tensor(load_digits().images[:, None, None] / 16, dtype=torch.float32)
    rods = digits.expand(-1, -1, DEPTH, -1, -1)
    return rods + NOISE * torch.randn(rods.shape), rods > 0.5


def main(epochs: int = 5) -> tuple[Segmenter, float]:
    torch.manual_seed(0)
    x, labels = volumes()
    model = Segmenter()
    optimizer = torch.optim.AdamW(akm.parameter_groups(model, lr=1e-2, weight_decay=0.01))
    for _ in range(epochs):
        for batch in torch.randperm(1400).split(32):
            loss = nn.functional.binary_cross_entropy_with_logits(
                model(x[batch]), labels[batch].float()
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        found = model.eval()(x[1400:]) > 0
    ink = labels[1400:]
    overlap = (2 * (found & ink).sum() / (found.sum() + ink.sum())).item()
    print(akm.summary(model), f"overlap (Dice) {overlap:.1%}", sep="\n")
    return model, overlap


if __name__ == "__main__":
    main()
