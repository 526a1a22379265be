"""Adaptive Kernel Modulation for PyTorch: a convolution learns how far it looks and how loudly it
speaks."""

from akm_triton._version import __version__
from akm_triton.conditioned import ConditionedModulation2d
from akm_triton.functional import gaussian_blur, modulate, warmup
from akm_triton.gaussian import gaussian_taps
from akm_triton.layers import PAPER, AKMConv2d, Modulation2d, modulation_names
from akm_triton.pooling import BlurPool2d, MaxBlurPool2d
from akm_triton.surgery.convert import convert, revert
from akm_triton.surgery.fold import fold
from akm_triton.surgery.schedule import SigmaSchedule
from akm_triton.surgery.summary import scalars, summary
from akm_triton.surgery.training import parameter_groups, sigma_penalty
from akm_triton.tuning.session import tune

__all__ = [
    "PAPER",
    "AKMConv2d",
    "BlurPool2d",
    "ConditionedModulation2d",
    "MaxBlurPool2d",
    "Modulation2d",
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
