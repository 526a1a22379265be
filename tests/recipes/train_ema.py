"""An average of the weights over the training (EMA), saved with safetensors and loaded again.

    pip install safetensors
    python tests/recipes/train_ema.py model.safetensors

r and s are averaged and saved as other parameters are. Convert before the average is made.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import akm_triton as akm


def network() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip
    akm.convert(model)
    return model


def main(path: Path) -> None:
    model = network()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    optimizer = torch.optim.AdamW(akm.parameter_groups(model, lr=1e-3, weight_decay=0.05))
    for _ in range(5):
        images, labels = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))  # yours here
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(model)
    save_file(average.module.state_dict(), path)

    loaded = network()
    loaded.load_state_dict(load_file(path))
    assert torch.equal(loaded.eval()(images), average.module.eval()(images))
    print(akm.summary(loaded))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "model.safetensors"))
