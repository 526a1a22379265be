"""timm: a ResNet learns how far its layers should look.

    pip install timm
    python tests/recipes/train_timm.py

timm brings torchvision, which must fit your PyTorch; this recipe itself does not use it.
"""

import timm
import torch
from torch import nn

import akm_triton as akm


def main() -> nn.Module:
    model = timm.create_model("resnet18", num_classes=10)  # pretrained=True for trained weights
    print(akm.convert(model))
    optimizer = torch.optim.AdamW(akm.parameter_groups(model, lr=1e-3, weight_decay=0.05))
    for step in range(3):
        images, labels = torch.randn(8, 3, 64, 64), torch.randint(10, (8,))  # yours here
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss.item():.2f}")
    print(akm.summary(model, images))
    return model


if __name__ == "__main__":
    main()
