"""Figures: ``python -m plots`` redraws them from ``bench/results`` and two photographs."""
