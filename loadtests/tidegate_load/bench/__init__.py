"""Measurements of single costs, each a module to run: `python -m tidegate_load.bench.NAME`."""
