"""Whole networks: modulation put into one and taken out, what training asks, what it learned."""
