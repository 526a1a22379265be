"""Lightning: σ and gates of every layer are logged beside the loss.

    pip install pytorch-lightning
    python tests/recipes/train_lightning.py logs

With the package `lightning`, write `import lightning.pytorch as lightning`.
"""

import sys
from pathlib import Path

import pytorch_lightning as lightning
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import akm_triton as akm


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            akm.AKMConv2d(1, 8, 3, padding=1), nn.ReLU(),
            akm.AKMConv2d(8, 8, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
        )  # fmt: skip

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        loss = nn.functional.cross_entropy(self.network(images), labels)
        self.log("loss", loss)
        return loss

    def on_train_epoch_end(self) -> None:  # not at every step: reading σ waits for the device
        self.log_dict(akm.scalars(self.network))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(akm.parameter_groups(self, lr=1e-3, weight_decay=0.05))


def main(folder: Path) -> Classifier:
    model = Classifier()
    data = TensorDataset(torch.randn(32, 1, 16, 16), torch.randint(2, (32,)))  # yours here
    trainer = lightning.Trainer(
        max_epochs=2, logger=CSVLogger(folder, name="", version="akm"), log_every_n_steps=1
    )
    trainer.fit(model, DataLoader(data, batch_size=8))
    return model


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "logs"))
