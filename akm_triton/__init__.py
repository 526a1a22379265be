"""Adaptive Kernel Modulation for PyTorch: a convolution learns how far it looks and how loudly it
speaks."""

from akm_triton._version import __version__
from akm_triton.blurred import PAPER, modulation_names
from akm_triton.conditioned import ConditionedModulation2d
from akm_triton.functional import gaussian_blur, modulate, warmup
from akm_triton.gaussian import gaussian_taps
from akm_triton.layers import (
    AKMConv1d,
    AKMConv2d,
    AKMConv3d,
    Modulation1d,
    Modulation2d,
    Modulation3d,
)
from akm_triton.lazy import (
    LazyAKMConv1d,
    LazyAKMConv2d,
    LazyAKMConv3d,
    LazyAKMConvTranspose1d,
    LazyAKMConvTranspose2d,
    LazyAKMConvTranspose3d,
)
from akm_triton.pooling import BlurPool2d, MaxBlurPool2d
from akm_triton.surgery.convert import convert, revert
from akm_triton.surgery.fold import fold
from akm_triton.surgery.schedule import SigmaSchedule
from akm_triton.surgery.summary import scalars, summary
from akm_triton.surgery.training import parameter_groups, sigma_penalty
from akm_triton.transposed import AKMConvTranspose1d, AKMConvTranspose2d, AKMConvTranspose3d
from akm_triton.tuning.session import tune

__all__ = [
    "PAPER",
    "AKMConv1d",
    "AKMConv2d",
    "AKMConv3d",
    "AKMConvTranspose1d",
    "AKMConvTranspose2d",
    "AKMConvTranspose3d",
    "BlurPool2d",
    "ConditionedModulation2d",
    "LazyAKMConv1d",
    "LazyAKMConv2d",
    "LazyAKMConv3d",
    "LazyAKMConvTranspose1d",
    "LazyAKMConvTranspose2d",
    "LazyAKMConvTranspose3d",
    "MaxBlurPool2d",
    "Modulation1d",
    "Modulation2d",
    "Modulation3d",
    "SigmaSchedule",
    "__version__",
    "convert",
    "fold",
    "gaussian_blur",
    "gaussian_taps",
    "modulate",
    "modulation_names",
    "parameter_groups",
    "revert",
    "scalars",
    "sigma_penalty",
    "summary",
    "tune",
    "warmup",
]
