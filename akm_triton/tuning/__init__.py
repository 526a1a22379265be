"""Measuring plans, above everything that runs: ``space`` and ``cost`` propose candidates in the
order of a model, ``compiler`` reads their machine code, ``workload`` runs and checks them,
``clock`` times them, ``tuner`` keeps the best; ``session`` is ``akm_triton.tune`` and autotuning.
"""
