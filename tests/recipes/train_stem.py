"""A transformer on handwritten digits behind a convolutional stem that learns how far it looks.

    pip install scikit-learn
    python tests/recipes/train_stem.py

The stem blurs before its stride, so that little of the digits aliases into the tokens.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import akm_triton as akm


class Transformer(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = akm.AKMConv2d(1, width, 3, stride=2, padding=1, decimate="before", max_radius=4)
        self.places = nn.Parameter(0.02 * torch.randn(16, width))
        self.layer = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).mT + self.places  # (N, 16, width)
        y: Tensor = self.head(self.layer(tokens).mean(1))
        return y


def main(epochs: int = 20) -> tuple[Transformer, float]:
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    model = Transformer()
    optimizer = torch.optim.AdamW(akm.parameter_groups(model, lr=3e-3, weight_decay=0.01))
    for _ in range(epochs):
        for batch in torch.randperm(1400).split(64):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        right = model.eval()(images[1400:]).argmax(1) == labels[1400:]
    accuracy = right.float().mean().item()
    print(akm.summary(model), f"accuracy {accuracy:.1%}", sep="\n")
    return model, accuracy


if __name__ == "__main__":
    main()
