"""Benchmarks: ``python -m bench <command>`` measures and writes ``bench/results``."""
