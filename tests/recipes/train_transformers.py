"""Hugging Face: its Trainer trains σ ten times faster than the weights, and does not decay it.

    pip install transformers accelerate
    python tests/recipes/train_transformers.py checkpoints

Left to itself the Trainer decays r and s with the weights, so it is handed an optimizer.
"""

import sys
from pathlib import Path

import torch
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

import akm_triton as akm


def main(folder: Path) -> Trainer:
    config = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=10
    )
    model = ResNetForImageClassification(config)  # or .from_pretrained(...)
    print(akm.convert(model))
    groups = akm.parameter_groups(model, lr=1e-3, weight_decay=0.05)
    images = [{"pixel_values": torch.randn(3, 32, 32), "labels": i % 10} for i in range(16)]
    trainer = Trainer(
        model,
        TrainingArguments(
            str(folder), max_steps=4, per_device_train_batch_size=4, report_to="none"
        ),
        train_dataset=images,  # yours here
        optimizers=(torch.optim.AdamW(groups), None),  # the Trainer adds its schedule of the rate
    )
    trainer.train()
    print(akm.summary(model))
    return trainer


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "checkpoints"))
