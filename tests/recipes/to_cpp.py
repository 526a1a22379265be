"""C++: a package of AOTInductor for images of any number, height and width, run without Python.

    python tests/recipes/to_cpp.py folder

Needs a C++ compiler, and at run time the libraries of PyTorch.
"""

import subprocess
import sys
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim

import akm_triton as akm

TORCH = Path(torch.__file__).parent


def network() -> nn.Module:
    stem, modulation = akm.AKMConv2d(3, 8, 3, padding=1), akm.Modulation2d(8)
    for layer in (stem, modulation):
        nn.init.uniform_(layer.r, 0, 3)  # as if trained
    conv, norm = nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
    return nn.Sequential(stem, nn.ReLU(), conv, norm, modulation, nn.ReLU()).eval()


def compile_program(program: Path) -> None:
    source, include, libraries = (
        Path(__file__).with_name("main.cpp"),
        TORCH / "include",
        TORCH / "lib",
    )
    command = ["g++", "-std=c++20", source, "-o", program, f"-Wl,-rpath,{libraries}"]
    command += [f"-I{include}", f"-I{include}/torch/csrc/api/include", f"-L{libraries}"]
    command += ["-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10"]
    subprocess.run(command, check=True)


def main(folder: Path) -> None:
    model, program, package = network(), folder / "main", folder / "model.pt2"
    example = torch.randn(2, 3, 32, 32)
    sizes = {0: Dim("n", min=1, max=64), 2: Dim("h", min=4, max=2048), 3: Dim("w", min=4, max=2048)}
    with torch.no_grad():
        exported = torch.export.export(model, (example,), dynamic_shapes=(sizes,))
    torch._inductor.aoti_compile_and_package(exported, package_path=str(package))
    compile_program(program)

    for shape in ((1, 3, 5, 8), (2, 3, 32, 32), (3, 3, 41, 100)):
        x = torch.randn(shape)
        command = [program, package, *map(str, shape)]
        done = subprocess.run(
            command, input=x.numpy().tobytes(), stdout=subprocess.PIPE, env={}, check=True
        )
        wanted = model(x).detach()
        y = torch.frombuffer(bytearray(done.stdout), dtype=torch.float32).view_as(wanted)
        error = float((y - wanted).abs().max())
        print(f"{shape}: differs from PyTorch by {error:.0e}")
        assert error < 1e-6


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
