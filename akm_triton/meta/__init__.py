"""Meta-learning: learn parameters, r and s among them, from which a few gradient steps on a small
support set suffice.

The inner loop is in ``learner.py``, the losses of the outer loop in ``maml.py`` and ``reptile.py``.
"""

from akm_triton.meta.checkpoints import load_checkpoint, save_checkpoint
from akm_triton.meta.learner import Result
from akm_triton.meta.maml import MAML
from akm_triton.meta.outer import average_gradients, broadcast
from akm_triton.meta.reptile import Reptile

__all__ = [
    "MAML",
    "Reptile",
    "Result",
    "average_gradients",
    "broadcast",
    "load_checkpoint",
    "save_checkpoint",
]
