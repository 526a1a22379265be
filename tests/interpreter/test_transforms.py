"""The table of capabilities with every op on the Triton kernels."""

from __future__ import annotations

import pytest
import torch

from tests.capabilities import CAPABILITIES, OPS, check


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("name", OPS)
def test_capability(name: str, capability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AKM_BACKEND", "triton")
    check(name, capability, "triton", torch.float32, 1e-4)
