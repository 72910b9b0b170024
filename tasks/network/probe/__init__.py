"""Probes: a few hosts, one question."""
