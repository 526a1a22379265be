"""Whole networks: what a training loop asks of one with AKM layers, and what it learned."""
