"""Slow and obvious: the formulas by which the fast code is judged.

Imports nothing of akm_triton.
"""
