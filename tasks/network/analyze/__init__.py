"""Analyzers: what a capture says about the traffic in it."""

import os

# OpenBLAS reserves address space for every core when numpy loads, and the child that reads a capture may use 512 MB.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
