"""Measuring plans. The backend never imports this package.

``space`` and ``cost`` propose candidates, the likely fastest first; ``compiler`` reads their
machine code, ``workload`` runs and checks them, ``clock`` times them, ``tuner`` keeps the best.
``session`` is ``akm_triton.tune`` and ``AKM_AUTOTUNE``.
"""
