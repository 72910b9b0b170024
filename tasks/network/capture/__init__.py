"""Captures: recording packets, and reading what was recorded."""
