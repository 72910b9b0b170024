"""Analyzers: what a capture says about the traffic in it."""
