"""What PyTorch can do to the ops, with every one of them on the Triton kernels."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import akm_triton as akm
from tests.capabilities import (
    CALLABLES,
    CAPABILITIES,
    COMPILED,
    OF_OPCHECK,
    OPS,
    check,
    op,
    registered,
)


@pytest.mark.sampled
@pytest.mark.parametrize(
    "capability",
    # of what is eager test_emulator.py runs the compiled kernels
    [x if x in COMPILED else pytest.param(x, marks=pytest.mark.whole) for x in CAPABILITIES],
)
@pytest.mark.parametrize("name", CALLABLES)
def test_capability(name: str, capability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AKM_BACKEND", "triton")
    check(name, capability, "triton", torch.float32, 1e-4)


@pytest.mark.parametrize("name", OPS)
def test_opcheck(name: str) -> None:
    args = [x.detach().requires_grad_() for x in op(name, "triton", torch.float32)[2]]
    torch.library.opcheck(registered(name), (*args, *OF_OPCHECK[name], "triton"))


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("name", ["gated_taps", "gated_taps_grad", "gated_taps_grad_grad"])
def test_opcheck_of_the_tables(name: str, gated: bool) -> None:
    r, s, vr, vs = (torch.rand(3, requires_grad=True) for _ in range(4))
    dt = torch.rand(2, 3, 5, requires_grad=True)
    tensors: dict[str, list[Any]] = {
        "gated_taps": [r, s],
        "gated_taps_grad": [r, s, dt],
        "gated_taps_grad_grad": [r, s, dt, vr, vs],
    }
    torch.library.opcheck(registered(name), (*tensors[name], gated, 4, "discrete", None))


@pytest.mark.parametrize(
    "capability",
    [pytest.param("3rd order", marks=pytest.mark.whole), "func.vmap", "jvp of grad"],
)
def test_without_the_gate(capability: str) -> None:
    z, sigma = torch.rand(2, 3, 5, 4), torch.rand(3) + 0.3
    ask = CAPABILITIES[capability]

    def blur(backend: str) -> Any:
        return lambda z, sigma: akm.gaussian_blur(z, sigma, max_radius=3, backend=backend)

    found, wanted = (
        ask(blur("triton"), [z, sigma]),
        ask(blur("torch"), [z.double(), sigma.double()]),
    )
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5, check_dtype=False)


def test_a_program_for_every_size_holds_no_kernel() -> None:
    """Tiles have constant sizes: a program for maps whose size varies blurs by convolutions."""

    class Blur(nn.Module):
        def forward(self, z: Tensor, r: Tensor) -> Tensor:
            return akm.gaussian_blur(z, r, border="reflect", max_radius=2, backend="triton")

    height, model = torch.export.Dim("height", min=1, max=64), Blur()
    example, r = torch.randn(1, 2, 8, 7), torch.tensor([0.4, 1.3])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's own doing
        program = torch.export.export(model, (example, r), dynamic_shapes=({2: height}, None))
        plain = program.run_decompositions()
    names = [str(node.target) for node in plain.graph.nodes]
    assert not any("akm_triton.blur" in name for name in names)
    z = torch.randn(1, 2, 3, 7)
    torch.testing.assert_close(plain.module()(z, r), model(z, r))
