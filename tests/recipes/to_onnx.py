"""ONNX: one file for images of any number, height and width, run by onnxruntime.

    pip install onnx onnxruntime onnxscript
    python tests/recipes/to_onnx.py model.onnx

The model must be on the CPU: there its graph is plain operators, on a GPU it has Triton kernels.
The file needs neither akm_triton nor PyTorch.
"""

import sys
from pathlib import Path

import onnxruntime
import torch
from torch import nn
from torch.export import Dim

import akm_triton as akm


def network() -> nn.Module:
    stem, modulation = akm.AKMConv2d(3, 8, 3, padding=1), akm.Modulation2d(8)
    for layer in (stem, modulation):
        nn.init.uniform_(layer.r, 0, 3)  # as if trained
    conv, norm = nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
    return nn.Sequential(stem, nn.ReLU(), conv, norm, modulation, nn.ReLU()).eval()


def main(path: Path) -> None:
    model = network()
    example = torch.randn(2, 3, 32, 32)
    sizes = {0: Dim("n", min=1, max=64), 2: Dim("h", min=4, max=2048), 3: Dim("w", min=4, max=2048)}
    torch.onnx.export(model, (example,), path, dynamo=True, dynamic_shapes=(sizes,), verbose=False)

    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    for shape in ((1, 3, 5, 8), (2, 3, 32, 32), (3, 3, 41, 100)):
        x = torch.randn(shape)
        y = torch.from_numpy(session.run(None, {name: x.numpy()})[0])
        error = float((y - model(x)).abs().max())
        print(f"{shape}: differs from PyTorch by {error:.0e}")
        assert error < 1e-6


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "model.onnx"))
