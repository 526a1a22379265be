"""Benchmarks: ``python -m bench <command>`` measures and writes a result file."""
