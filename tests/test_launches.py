"""Launches through Triton's own launcher, into a driver that launches nothing."""

import pytest
import torch

import akm_triton as akm
from akm_triton.launch.device import H200
from bench import stub

pytestmark = pytest.mark.skipif(stub.why_not() is not None, reason=str(stub.why_not()))


def inputs(*shape: int, dtype: torch.dtype = torch.float16) -> tuple[torch.Tensor, ...]:
    return torch.randn(shape).to(dtype), torch.ones(shape[1]), torch.zeros(shape[1])


def test_a_launch_is_handed_over_as_the_driver_gets_it() -> None:
    z, r, s = inputs(3, 4, 14, 14)
    launches: list[stub.Launch] = []
    with stub.driver(H200, launches.append):
        y = akm.modulate(z, r, s, backend="triton")
    taps, blur = launches
    assert (taps.kernel.name, taps.grid) == ("gated_taps_kernel", (4, 1, 1))
    assert taps.parameters[:2] == (r.data_ptr(), s.data_ptr())
    assert blur.kernel.name == "blur_kernel" and ".target sm_90a" in blur.kernel.ptx
    assert blur.block == (32 * blur.kernel.num_warps, 1, 1)
    assert blur.shared == blur.kernel.shared > 0
    assert blur.parameters[0] == z.data_ptr() and blur.parameters[2] == y.data_ptr()
    assert blur.parameters[4:8:3] == taps.parameters[2:4]  # a and b
    assert len(blur.kernel.types) == len(blur.parameters)


def test_a_callback_that_fails_fails_the_launch() -> None:
    def fail(launch: stub.Launch) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), stub.driver(H200, fail):
        akm.modulate(*inputs(1, 1, 14, 14), backend="triton")
    with pytest.raises(ValueError, match="needs CUDA tensors"):
        akm.modulate(*inputs(1, 1, 14, 14), backend="triton")
