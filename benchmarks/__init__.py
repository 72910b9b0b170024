"""Benchmarks: what signalbox costs beside the bare thing, as ratios within one run. `python -m benchmarks --help`."""
