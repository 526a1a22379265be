"""Figures: ``python -m plots`` draws them from ``bench/results`` and two photographs."""
