"""Whole networks: what puts modulation into one, takes it out again and reads it."""
