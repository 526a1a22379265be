"""Measuring plans. The backend never imports this package.

``space`` proposes candidates, those of the least effort first; ``compiler`` reads their machine
code, ``workload`` runs and checks them, ``clock`` times them, ``tuner`` keeps the best. ``traffic``
counts the bytes that a plan moves.
``session`` is ``akm_triton.tune`` and ``AKM_AUTOTUNE``.
"""
